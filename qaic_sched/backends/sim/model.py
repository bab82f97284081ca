"""What a simulated program computes: the float64 mean of each row, in every element.

Rules of this file:
- Numpy's price is by the call, not by the number: small inferences are computed together.
- A row has the same result, to the last bit, alone and in any company.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from qaic_sched.program import Program, Tensors, TensorSpec

__all__ = ["Model"]

_FLOAT64 = np.dtype(np.float64)

_MOST_TOGETHER = 64
_MOST_ELEMENTS = 8192
"""Of one input of what is computed together: so many numpy casts at once. Where it has to cut its
work in two it may cut through a row, and the sum would be another in the last bit."""
_MOST_BYTES = 16384
"""Of the outputs together: who keeps one of them keeps the memory of them all."""


class Model:
    """Computes inferences of one program."""

    __slots__ = ("_count", "_inputs", "_outputs", "most_together")

    def __init__(self, program: Program) -> None:
        self._inputs = [spec.name for spec in program.inputs]
        self._outputs = [
            (spec.name, spec.shape[1:], (-1, *[1] * (len(spec.shape) - 1)), spec.dtype)
            for spec in program.outputs
        ]
        # An array: numpy would convert a float at every call.
        self._count = np.array(sum(map(_width, program.inputs)), _FLOAT64)
        elements = max(map(_width, program.inputs))
        row_bytes = sum(_width(spec) * spec.dtype.itemsize for spec in program.outputs)
        rows = min(_MOST_ELEMENTS // elements, _MOST_BYTES // row_bytes)
        self.most_together = {
            size: max(1, min(rows // size, _MOST_TOGETHER)) for size in program.batch_sizes
        }
        """Compiled batch size -> how many inferences of it may be computed by one call."""

    # Any input may be NaN or infinite; what a cast makes of that is nobody's warning.
    @np.errstate(all="ignore")
    def __call__(self, several: Sequence[Mapping[str, NDArray[np.generic]]]) -> list[Tensors]:
        """The outputs of each of these inferences, all of one compiled batch size.

        Their memory is not used again, and outputs of different inferences do not overlap.
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
    """Elements of a row."""
    return math.prod(spec.shape[1:])


def _row_sums(
    several: Sequence[Mapping[str, NDArray[np.generic]]], name: str
) -> NDArray[np.float64]:
    """The sum of each row, added in float64 in the order of `numpy.mean`, which is slower."""
    arrays = [each[name] for each in several]
    array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    flat = array.reshape(len(array), -1)
    return cast("NDArray[np.float64]", np.add.reduce(flat, 1, _FLOAT64))


def _split(together: Tensors, count: int) -> list[Tensors]:
    """The outputs of each of so many inferences, which have as many rows each."""
    answers: list[Tensors] = [{} for _ in range(count)]
    for name, array in together.items():
        # Iterating over an array cuts it far faster than slicing does.
        parts = array.reshape(count, -1, *array.shape[1:])
        for answer, part in zip(answers, parts, strict=True):
            answer[name] = part
    return answers
