"""Finds out whether the rows of a batch depend on each other, by trying a program.

A model may mix the rows of its batch axis: dynamic quantization scales all of them by the largest
value, a softmax over axis 0 divides each by their sum, a time-major RNN takes them for time steps.
Nothing in the model's description says so. Requests must not share an inference of such a model.

Rules of this file:
- A row is compared with itself: in other places, among other companions, and padded. The
  inferences have the same shape, so that rows that are independent agree almost to the last bit.
- A difference counts relative to the largest value of the row, as a small row beside a large one
  is what a mix distorts first.
- Integers are never 0: a division by zero kills the whole process in some runtimes.
- If the trial cannot tell, rows do not share an inference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from qaic_sched.program import Program, Tensors, TensorSpec

__all__ = ["RowFinding", "try_rows"]

LIMIT_S: Final = 30.0
"""A trial that takes longer ends without a result."""
_TOLERANCE: Final = {"float16": 1e-2, "bfloat16": 1e-2, "float32": 1e-4, "float64": 1e-6}
"""Largest difference between two results of one row, relative to the row's largest value.

Integers and booleans must be equal.
"""
_LARGEST_INTEGERS: Final = (100, 2, 1)
"""Integers are drawn from 1 to these: a smaller range is tried where the model rejects a larger."""
_QUIET: Final = 1e-2
_LOUD: Final = 1e2
"""Factors of the rows: what one row does to another shows most where they differ most."""


class RowFinding(Struct, frozen=True, kw_only=True):
    """The result of a trial."""

    rows: Literal["shared", "own"]
    """Whether rows of several requests may share an inference, or each request needs its own."""
    may_pad: bool
    """Whether an inference that is filled up with copies of a row gives the other rows the same."""
    keeps_shapes: bool = True
    """Whether every output had the shape that the program promises."""
    reason: str
    """One sentence for the operator."""
    output: str | None = None
    """The output with the largest difference."""
    difference: float | None = None
    """That difference, relative to the largest value of the row."""


class _Undecided(Exception):
    """The trial cannot tell; the message says why."""


class _Mixed(Exception):
    """Rows depend on each other."""

    def __init__(self, output: str, difference: float) -> None:
        self.output, self.difference = output, difference


class _OtherShape(Exception):
    """An output does not have the shape that the program promises."""


def try_rows(
    program: Program,
    run: Callable[[Tensors], Tensors],
    clock: Callable[[], float],
    *,
    is_fp16: bool = False,
    limit_s: float = LIMIT_S,
) -> RowFinding:
    """Run a batched program a few times and compare what each row gives.

    `run(inputs)` runs one inference at the largest compiled batch size and raises what goes wrong;
    `clock` gives seconds. `is_fp16` says that floating point is computed as fp16.
    """
    size = program.max_batch_size
    if size == 1:
        return RowFinding(rows="shared", may_pad=True, reason="an inference has a single row")
    trial = _Trial(program, run, clock, is_fp16=is_fp16, limit_s=limit_s)
    try:
        return trial.find()
    except _Undecided as error:
        return RowFinding(rows="own", may_pad=False, reason=f"unknown: {error}")
    except _OtherShape as error:
        return RowFinding(rows="own", may_pad=False, keeps_shapes=False, reason=str(error))


class _Trial:
    """One trial of one program."""

    def __init__(
        self,
        program: Program,
        run: Callable[[Tensors], Tensors],
        clock: Callable[[], float],
        *,
        is_fp16: bool,
        limit_s: float,
    ) -> None:
        self._program = program
        self._size = program.max_batch_size
        self._run_program = run
        self._clock = clock
        self._ends_at = clock() + limit_s
        self._limit_s = limit_s
        self._random = np.random.default_rng(1)
        self._tolerances = {
            spec.name: _tolerance_of(spec.dtype, is_fp16=is_fp16) for spec in program.outputs
        }

    def find(self) -> RowFinding:
        """Try values that the model accepts; raises where it cannot tell."""
        largest = self._accepted_integers()
        quiet = self._rows(_QUIET, largest)
        first = self._run(quiet)
        self._require(first, self._run(quiet), "its results differ from one run to the next")
        if _is_constant(quiet):
            raise _Undecided("it accepts no two different rows")
        try:
            self._compare_companions(quiet, first, largest)
        except _Mixed as mixed:
            return RowFinding(
                rows="own",
                may_pad=self._may_pad(quiet),
                reason=(
                    f"rows depend on each other: with other companions a row of output "
                    f"{mixed.output!r} differs by {mixed.difference:.2g} of its largest value"
                ),
                output=mixed.output,
                difference=mixed.difference,
            )
        return RowFinding(
            rows="shared", may_pad=True, reason="rows do not depend on their companions"
        )

    def _accepted_integers(self) -> int:
        """The largest range of integers that the model accepts."""
        problem: Exception | None = None
        for largest in _LARGEST_INTEGERS:
            try:
                self._run(self._rows(1.0, largest))
            except (_Undecided, _OtherShape):
                raise
            except Exception as error:
                problem = error
            else:
                return largest
        raise _Undecided(f"it rejects all values that were tried: {problem}") from problem

    def _compare_companions(self, quiet: Tensors, first: Tensors, largest: int) -> None:
        """Compare each quiet row with itself among loud rows, elsewhere, and among its copies."""
        half = self._size // 2
        for kept in (range(half), range(half, self._size)):
            # Each kept row moves to the mirrored place; the others are loud strangers.
            mixed = self._rows(_LOUD, largest)
            for name, rows in mixed.items():
                for row in kept:
                    rows[self._size - 1 - row] = quiet[name][row]
            outputs = self._run(mixed)
            for row in kept:
                self._compare(first, row, outputs, self._size - 1 - row)
        for row in {0, self._size - 1}:
            copies = {
                name: np.repeat(rows[row : row + 1], self._size, 0) for name, rows in quiet.items()
            }
            outputs = self._run(copies)
            for place in range(self._size):
                self._compare(first, row, outputs, place)

    def _may_pad(self, quiet: Tensors) -> bool:
        """Whether what fills an inference up makes no difference to the rows before it.

        Two rows are filled up with copies of the one and of the other: where padding counts, that
        shows. A program of two rows leaves no room to see it.
        """
        one = self._run({name: _padded(rows, 0, self._size) for name, rows in quiet.items()})
        other = self._run({name: _padded(rows, 1, self._size) for name, rows in quiet.items()})
        if self._size < 3:
            return False
        try:
            for row in (0, 1):
                self._compare(one, row, other, row)
        except _Mixed:
            return False
        return True

    def _rows(self, factor: float, largest: int) -> Tensors:
        """A full batch of random rows, all different as far as the values allow."""
        return {
            spec.name: _random_rows(self._random, spec, self._size, factor, largest)
            for spec in self._program.inputs
        }

    def _run(self, inputs: Tensors) -> Tensors:
        if self._clock() > self._ends_at:
            raise _Undecided(f"the trial took longer than {self._limit_s:g} s")
        outputs = self._run_program(inputs)
        for spec in self._program.outputs:
            found = outputs[spec.name].shape
            if found != spec.shape:
                raise _OtherShape(
                    f"output {spec.name!r} came with shape {found} instead of {spec.shape}: "
                    f"its size depends on the values"
                )
        return outputs

    def _require(self, one: Tensors, other: Tensors, problem: str) -> None:
        try:
            for row in range(self._size):
                self._compare(one, row, other, row)
        except _Mixed as error:
            raise _Undecided(problem) from error

    def _compare(self, one: Tensors, row: int, other: Tensors, other_row: int) -> None:
        """Raise `_Mixed` unless the two results of one row agree."""
        for name, tolerance in self._tolerances.items():
            difference = _difference(one[name][row], other[name][other_row])
            if not difference <= tolerance:
                raise _Mixed(name, difference)


def _tolerance_of(dtype: np.dtype[np.generic], *, is_fp16: bool) -> float:
    tolerance = _TOLERANCE.get(dtype.name, 0.0)
    return max(tolerance, _TOLERANCE["float16"]) if tolerance and is_fp16 else tolerance


def _random_rows(
    random: np.random.Generator, spec: TensorSpec, size: int, factor: float, largest: int
) -> NDArray[np.generic]:
    shape = (size, *spec.shape[1:])
    if spec.dtype.kind in "iu":
        return random.integers(1, largest, shape, endpoint=True).astype(spec.dtype)
    if spec.dtype.kind == "b":
        return random.integers(0, 1, shape, endpoint=True).astype(spec.dtype)
    return (factor * random.standard_normal(shape)).astype(spec.dtype)


def _padded(rows: NDArray[np.generic], row: int, size: int) -> NDArray[np.generic]:
    """The first two rows, filled up with copies of one of them; only copies where two fill it."""
    kept = rows[: 2 if size > 2 else 0]
    return np.concatenate([kept, np.repeat(rows[row : row + 1], size - len(kept), 0)])


def _is_constant(inputs: Tensors) -> bool:
    """Whether all rows are equal in every input."""
    return all(bool((rows == rows[:1]).all()) for rows in inputs.values())


def _difference(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """The largest difference of two results, relative to the largest value of the first."""
    if one.dtype.kind in "iub":
        return 0.0 if np.array_equal(one, other) else _relative(one.astype(float), other)
    return _relative(one.astype(np.float64), other.astype(np.float64))


def _relative(one: NDArray[np.float64], other: NDArray[np.generic]) -> float:
    values = other.astype(np.float64)
    same = (one == values) | (np.isnan(one) & np.isnan(values))
    if bool(same.all()):
        return 0.0
    largest = float(np.max(np.abs(one), initial=0.0, where=np.isfinite(one)))
    gap = float(np.max(np.abs(one - values)[~same]))
    return gap / largest if largest > 0 else float("inf")
