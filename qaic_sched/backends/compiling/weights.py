"""Finds the separate files in which an ONNX model keeps weights."""

from __future__ import annotations

import mmap
from pathlib import Path

__all__ = ["external_files"]

LOCATION = b"\x0a\x08location\x12"
"""The bytes before the name of a file with weights; one byte with its length follows."""


def external_files(path: str) -> list[str]:
    """The paths of the files in which the ONNX file at `path` keeps weights.

    The names are searched without parsing the model, so names of over 127 bytes come out wrong.
    """
    names = set()
    with open(path, "rb") as file:
        if not Path(path).stat().st_size:
            return []  # an empty file cannot be mapped
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = data.find(LOCATION)
            while at >= 0:
                start = at + len(LOCATION) + 1
                length = int.from_bytes(data[start - 1 : start], "big")
                names.add(data[start : start + length].decode(errors="replace"))
                at = data.find(LOCATION, start)
    return [str(Path(path).parent / name) for name in sorted(names)]
