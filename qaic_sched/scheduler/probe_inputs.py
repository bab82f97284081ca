"""The inputs with which a reloaded device is probed.

Values that suit one program make an inference of another fail, zeros among them: as divisors, as
ids below the first one. So the pool keeps a row that has worked. Until there is one, values are
guessed, and a guess that fails proves nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from qaic_sched.program import Program, Tensors

__all__ = ["first_row_of", "guesses", "probe_of"]

_GUESSES: Final = ((1, 1.0), (2, 0.0))
"""(integer, floating point number) of each guess. No integer is 0: some runtimes do not survive a
division by it."""


def first_row_of(program: Program, inputs: Mapping[str, NDArray[np.generic]]) -> Tensors:
    """Copy the first row of an inference's inputs, or all of them if the program is not batched."""
    if not program.is_batched:
        return {name: array.copy() for name, array in inputs.items()}
    return {name: array[:1].copy() for name, array in inputs.items()}


def probe_of(program: Program, row: Tensors) -> Tensors:
    """Return the inputs of the smallest inference, made of copies of a row."""
    if not program.is_batched:
        return row
    return {name: np.repeat(array, program.batch_sizes[0], 0) for name, array in row.items()}


def guesses(program: Program) -> Iterator[Tensors]:
    """Yield inputs of an inference that suit most programs, the likeliest first."""
    first = 1 if program.is_batched else 0
    rows = program.batch_sizes[:1]
    for integer, number in _GUESSES:
        yield {
            spec.name: np.full(
                (*rows, *spec.shape[first:]),
                integer if spec.dtype.kind in "iub" else number,
                spec.dtype,
            )
            for spec in program.inputs
        }
