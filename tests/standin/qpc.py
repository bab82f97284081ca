"""Writes QPC files of the stand-in, which hold a description but no program."""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING, Any

from tests.standin import QAicApi_pb2 as api

if TYPE_CHECKING:
    from pathlib import Path

HEADER = b"stand-in QPC for the tests of qaic_sched, not the vendor's format\n"
SIZES = {api.FLOAT_TYPE: 4, api.FLOAT_16_TYPE: 2, api.INT32_I_TYPE: 4, api.INT64_I_TYPE: 8}


def binding(name: str, direction: int, dims: list[int], type_: int = api.FLOAT_TYPE) -> Any:
    """One input or output."""
    return {
        "name": name,
        "dir": direction,
        "type": type_,
        "dims": dims,
        "size": prod(dims) * SIZES.get(type_, 1),
    }


def write_qpc(
    folder: Path,
    *,
    bindings: list[Any] | None = None,
    batch_sizes: tuple[int, ...] = (8,),
    allowed_shapes: list[Any] | None = None,
    cores: int = 1,
    name: str = "programqpc.bin",
) -> str:
    """Write a QPC and return its path; by default with the input x[8, 4] and output mean[8, 2].

    Several `batch_sizes` make one specialization each.
    """
    if bindings is None:
        largest = max(batch_sizes)
        bindings = [
            binding("x", api.BUFFER_IO_TYPE_INPUT, [largest, 4]),
            binding("mean", api.BUFFER_IO_TYPE_OUTPUT, [largest, 2]),
        ]
    for index, each in enumerate(bindings):
        each.setdefault("index", index)
    if allowed_shapes is None:
        allowed_shapes = [
            {"shapes": [{"type": b["type"], "dims": [size, *b["dims"][1:]]} for b in bindings]}
            for size in (batch_sizes if len(batch_sizes) > 1 else ())
        ]
    description = {
        "cores": cores,
        "selected_set": {"bindings": bindings},
        "allowed_shapes": allowed_shapes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(HEADER + json.dumps(description).encode())
    return str(path)
