"""The computation of a simulated program: the float64 mean of each row, in every output element.

Rules of this file:
- A numpy call costs more than the numbers in it, so small inferences are computed together.
- The result of a row does not depend, to the last bit, on the rows computed with it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from qaic_sched.program import Program, Tensors, TensorSpec

__all__ = ["SimModel"]

_FLOAT64 = np.dtype(np.float64)

_MOST_TOGETHER = 64
_MOST_ELEMENTS = 8192
"""Elements of one input that are computed together: numpy casts this many at once. Above that it
splits the work, possibly within a row, and the last bit of the sum could differ."""
_MOST_BYTES = 16384
"""Bytes of outputs that are computed together: a caller that keeps one of them keeps them all."""


class SimModel:
    """Computes the inferences of one program."""

    __slots__ = ("_count", "_inputs", "_outputs", "most_together")

    def __init__(self, program: Program) -> None:
        self._inputs = [spec.name for spec in program.inputs]
        self._outputs = [
            (spec.name, spec.shape[1:], (-1, *[1] * (len(spec.shape) - 1)), spec.dtype)
            for spec in program.outputs
        ]
        # An array, because numpy would convert a float on every call.
        self._count = np.array(sum(map(_width, program.inputs)), _FLOAT64)
        elements = max(map(_width, program.inputs))
        row_bytes = sum(_width(spec) * spec.dtype.itemsize for spec in program.outputs)
        rows = min(_MOST_ELEMENTS // elements, _MOST_BYTES // row_bytes)
        self.most_together = {
            size: max(1, min(rows // size, _MOST_TOGETHER)) for size in program.batch_sizes
        }
        """Compiled batch size -> the most inferences of that size that one call may compute."""

    # Inputs may be NaN or infinite; casting them must not warn.
    @np.errstate(all="ignore")
    def __call__(self, several: Sequence[Mapping[str, NDArray[np.generic]]]) -> list[Tensors]:
        """Compute the outputs of each inference; all must have one compiled batch size.

        The memory of the outputs is never reused, and different inferences do not share any.
        """
        first, *others = self._inputs
        means = _row_sums(several, first)
        for name in others:
            means += _row_sums(several, name)
        means /= self._count
        together: Tensors = {}
        for name, rest, column, dtype in self._outputs:
            together[name] = output = np.empty((len(means), *rest), dtype)
            output[...] = means.reshape(column)
        return [together] if len(several) == 1 else _split(together, len(several))


def _width(spec: TensorSpec) -> int:
    """The number of elements of a row."""
    return math.prod(spec.shape[1:])


def _row_sums(
    several: Sequence[Mapping[str, NDArray[np.generic]]], name: str
) -> NDArray[np.float64]:
    """The sum of each row in float64, in the order of `numpy.mean`, which is slower."""
    arrays = [each[name] for each in several]
    array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    flat = array.reshape(len(array), -1)
    return cast("NDArray[np.float64]", np.add.reduce(flat, 1, _FLOAT64))


def _split(together: Tensors, count: int) -> list[Tensors]:
    """Split the outputs of `count` inferences with equal numbers of rows."""
    results: list[Tensors] = [{} for _ in range(count)]
    for name, array in together.items():
        # Iterating over an array is far faster than slicing it.
        parts = array.reshape(count, -1, *array.shape[1:])
        for result, part in zip(results, parts, strict=True):
            result[name] = part
    return results
