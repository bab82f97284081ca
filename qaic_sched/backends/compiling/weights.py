"""The files in which an ONNX model keeps weights, beside its own."""

from __future__ import annotations

import mmap
from pathlib import Path

__all__ = ["external_files"]

LOCATION = b"\x0a\x08location\x12"
"""How the ONNX format begins the name of a file with weights; a byte with its length follows."""


def external_files(path: str) -> list[str]:
    """The files beside the ONNX file at `path` in which it keeps weights, as far as it names them.

    They are looked for without reading the model, so a name of over 127 bytes comes out wrong.
    """
    names = set()
    with open(path, "rb") as file:
        if not Path(path).stat().st_size:
            return []  # which no map can be made of
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = data.find(LOCATION)
            while at >= 0:
                start = at + len(LOCATION) + 1
                length = int.from_bytes(data[start - 1 : start], "big")
                names.add(data[start : start + length].decode(errors="replace"))
                at = data.find(LOCATION, start)
    return [str(Path(path).parent / name) for name in sorted(names)]
