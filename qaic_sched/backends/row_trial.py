"""Finds out whether the rows of a batch depend on each other, by trying a program.

A model may mix the rows of its batch axis: dynamic quantization scales all of them by the largest
value, a softmax over axis 0 divides each by their sum, a time-major RNN takes them for time steps.
Nothing in the model's description says so. Requests must not share an inference of such a model.

Rules of this file:
- A row is compared with itself: in other places, among other companions, padded and, where the
  program takes any number of rows, alone.
- A difference counts relative to the largest value of the row, as a small row beside a large one
  is what a mix distorts first.
- Shapes are compared before values become large (`trial_values`).
- If the trial cannot tell, rows do not share an inference.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from qaic_sched.backends.row_difference import difference_of, eps_of, has_numbers, tolerance_of
from qaic_sched.backends.row_finding import RowFinding
from qaic_sched.backends.trial_values import constant_values, random_values, sparse_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qaic_sched.program import Program, Tensors

__all__ = ["LIMIT_S", "try_rows"]

LIMIT_S: Final = 30.0
"""A trial that takes longer ends: without a result, unless all that matters most has agreed."""
ENOUGH_S: Final = 5.0
"""After this time, only what matters most is still tried."""
_OTHER_COUNT: Final = 10.0
"""Factor on it if the two inferences have another number of rows, and so other kernels."""
_LARGEST_INTEGER: Final = 100
_QUIET: Final = 1e-2
_LOUD: Final = 1e2
"""Factors of the rows: what one row does to another shows most where they differ most."""
_TRIAL_ROWS: Final = 3
"""Rows of the trial of a program that is compiled for one, and takes any number."""


class _Undecided(Exception):
    """The trial cannot tell; the message says why."""


class _TooSlow(_Undecided):
    """The trial has no time left."""


class _Mixed(Exception):
    """Rows depend on each other."""

    def __init__(self, output: str, difference: float) -> None:
        self.output, self.difference = output, difference


class _OtherShape(Exception):
    """An output does not have the shape that the program promises."""


class _Rejected(Exception):
    """The program has failed an inference."""


def try_rows(
    program: Program,
    run: Callable[[Tensors], Tensors],
    clock: Callable[[], float],
    *,
    takes_any: bool = False,
    is_fp16: bool = False,
    limit_s: float = LIMIT_S,
) -> RowFinding:
    """Run a batched program a few times and compare what each row gives.

    `run(inputs)` runs one inference, at the largest compiled batch size or, with `takes_any`, of
    any number of rows, and raises what goes wrong; `clock` gives seconds. `is_fp16` says that
    floating point is computed as fp16.
    """
    trial = _Trial(program, run, clock, takes_any=takes_any, is_fp16=is_fp16, limit_s=limit_s)
    try:
        return trial.find()
    except _OtherShape as error:
        return RowFinding(rows="own", may_pad=False, keeps_shapes=False, reason=str(error))
    except (_Undecided, _Rejected) as error:
        is_final = not isinstance(error, _TooSlow)
        return RowFinding(rows="own", may_pad=False, is_final=is_final, reason=f"unknown: {error}")


class _Trial:
    """One trial of one program."""

    def __init__(
        self,
        program: Program,
        run: Callable[[Tensors], Tensors],
        clock: Callable[[], float],
        *,
        takes_any: bool,
        is_fp16: bool,
        limit_s: float,
    ) -> None:
        self._program = program
        self._size = program.max_batch_size
        if takes_any and self._size == 1:
            self._size = _TRIAL_ROWS
        self._specs = [
            replace(spec, shape=(self._size, *spec.shape[1:])) for spec in program.inputs
        ]
        self._run_program = run
        self._takes_any = takes_any
        self._clock = clock
        self._began_at = clock()
        self._limit_s = limit_s
        self._random = np.random.default_rng(1)
        self._largest = {spec.name: 1 for spec in self._specs if spec.dtype.kind in "iu"}
        """Integer inputs -> the largest that the program is known to accept."""
        self._gives_numbers = False
        """Whether some values have given finite numbers in every output."""
        self._is_positive = False
        """Whether numbers must be positive."""
        self._tolerances = {
            spec.name: tolerance_of(spec.dtype, is_fp16=is_fp16) for spec in program.outputs
        }

    def find(self) -> RowFinding:
        """Find values that the program accepts, and compare; raises where it cannot tell."""
        self._find_values()
        if self._size == 1:
            reason = "an inference has a single row"
            return RowFinding(rows="shared", may_pad=True, takes_any=False, reason=reason)
        quiet, first = self._first()
        self._require(first, self._run(quiet), "its results differ from one run to the next")
        if _is_constant(quiet):
            raise _Undecided("it accepts no two different rows")
        takes_any = self._takes_any and self._runs_one_more(quiet)
        try:
            self._compare_companions(quiet, first, (_LOUD, 1.0))
            if takes_any:
                self._compare_counts(quiet, first)
            self._compare_more(quiet, first)
        except _Mixed as mixed:
            return RowFinding(
                rows="own",
                may_pad=self._may_pad(quiet),
                takes_any=takes_any,
                reason=(
                    f"rows depend on each other: with other companions a row of output "
                    f"{mixed.output!r} differs by {mixed.difference:.2g} of its largest value"
                ),
                output=mixed.output,
                difference=mixed.difference,
            )
        return RowFinding(
            rows="shared",
            may_pad=True,
            takes_any=takes_any,
            reason="rows do not depend on their companions",
        )

    def _first(self) -> tuple[Tensors, Tensors]:
        """Quiet rows and what the program gives for them, numbers among it."""
        quiet = self._rows(_QUIET)
        first = self._run(quiet)
        if not has_numbers(first):
            raise _Undecided("an output has no finite numbers")
        return quiet, first

    # Values

    def _find_values(self) -> None:
        """Find out which values the program accepts; raises `_Rejected` if it accepts none."""
        is_simple = [self._accepts(constant_values(self._specs, value)) for value in (1, 2)]
        if is_simple[1]:
            self._largest = dict.fromkeys(self._largest, 2)
        else:
            self._raise_each(self._largest, 2)
        problem = self._problem(self._rows())
        if problem is not None:
            self._is_positive = True
            positive = self._problem(self._rows())
            if positive is not None and not any(is_simple):
                raise _Rejected(f"it rejects all values that were tried: {problem}") from problem
            if positive is not None:
                raise _Rejected(f"it rejects different rows: {problem}") from problem
        self._accepts(sparse_values(self._random, self._specs, self._largest))
        able = {name for name, largest in self._largest.items() if largest > 1}
        before = self._largest
        self._largest = {**before, **dict.fromkeys(able, _LARGEST_INTEGER)}
        if able and not self._accepts(self._rows()):
            self._largest = dict(before)
            self._raise_each(able, _LARGEST_INTEGER)
            self._raise_each(able, self._size - 1)
            if not self._accepts(self._rows()):
                self._largest = before

    def _raise_each(self, names: Iterable[str], largest: int) -> None:
        """Draw each of these integer inputs from 1 to `largest`, if the program accepts that."""
        for name in sorted(names):
            values = constant_values(self._specs, 1)
            values[name] = np.full_like(values[name], largest)
            if self._largest[name] < largest and self._accepts(values):
                self._largest[name] = largest

    def _rows(self, factor: float = 1.0) -> Tensors:
        """A full batch of random rows, all different as far as the values allow."""
        return random_values(
            self._random, self._specs, self._largest, factor, is_positive=self._is_positive
        )

    def _accepts(self, inputs: Tensors) -> bool:
        return self._problem(inputs) is None

    def _problem(self, inputs: Tensors) -> Exception | None:
        """What the program says to these inputs: None if it runs them.

        Values that give no finite number, such as a mask of 50, count as rejected if others do.
        """
        try:
            outputs = self._run(inputs)
        except _Rejected as error:
            return error
        if has_numbers(outputs):
            self._gives_numbers = True
        elif self._gives_numbers:
            return _Rejected("no finite numbers")
        return None

    # Comparisons

    def _compare_companions(
        self, rows: Tensors, shown: Tensors, factors: tuple[float, ...]
    ) -> None:
        """Compare each row with itself among strangers, in another place.

        The strangers are larger by the first of the factors that the program accepts.
        """
        factor = next((each for each in factors[:-1] if self._accepts(self._rows(each))), 1.0)
        half = self._size // 2
        for kept in (range(half), range(half, self._size)):
            # Each kept row moves to the mirrored place.
            mixed = self._rows(factor)
            for name, values in mixed.items():
                for row in kept:
                    values[self._size - 1 - row] = rows[name][row]
            outputs = self._run(mixed)
            for row in kept:
                self._compare(shown, row, outputs, self._size - 1 - row)

    def _compare_counts(self, quiet: Tensors, first: Tensors) -> None:
        """Compare rows with themselves in inferences of other row counts."""
        counts = [slice(0, 1), slice(self._size - 1, self._size), slice(0, self._size - 1)]
        for kept in counts[:1] if self._is_late() else counts:
            try:
                outputs = self._run({name: rows[kept] for name, rows in quiet.items()})
            except _Rejected as error:
                raise _Undecided(
                    f"it rejects a part of the rows that it accepts: {error}"
                ) from error
            for place, row in enumerate(range(self._size)[kept]):
                self._compare(first, row, outputs, place, _OTHER_COUNT)

    def _compare_more(self, quiet: Tensors, first: Tensors) -> None:
        """If there is time: compare rows among their copies, and among strangers of their size."""
        for row in (0, self._size - 1):
            if self._is_late():
                return
            copies = {
                name: np.repeat(rows[row : row + 1], self._size, 0) for name, rows in quiet.items()
            }
            outputs = self._run(copies)
            for place in range(self._size):
                self._compare(first, row, outputs, place)
        if not self._is_late():
            rows = self._rows()
            self._compare_companions(rows, self._run(rows), (1.0,))

    def _may_pad(self, quiet: Tensors) -> bool:
        """Whether what fills an inference up makes no difference to the rows before it.

        The first rows are filled up with copies of one of them and of another: where padding
        counts, that shows. A program of two rows leaves no room to see it.
        """
        if self._size < 3:
            return False
        try:
            for kept in sorted({2, 3, self._size - 1}):
                if kept >= self._size:
                    continue
                one, other = (self._run(_padded(quiet, row, kept, self._size)) for row in (0, 1))
                for row in range(kept):
                    self._compare(one, row, other, row)
        except (_Mixed, _Rejected, _Undecided, _OtherShape):
            return False
        return True

    def _runs_one_more(self, quiet: Tensors) -> bool:
        """Whether one more row runs: with fewer, one may be missing that another refers to."""
        try:
            self._run({name: np.concatenate([rows, rows[:1]]) for name, rows in quiet.items()})
        except _Rejected:
            return False
        return True

    def _is_late(self) -> bool:
        return self._clock() > self._began_at + ENOUGH_S

    def _run(self, inputs: Tensors) -> Tensors:
        if self._clock() > self._began_at + self._limit_s:
            raise _TooSlow(f"the trial took longer than {self._limit_s:g} s")
        try:
            outputs = self._run_program(inputs)
        except Exception as error:
            raise _Rejected(str(error)) from error
        count = len(next(iter(inputs.values())))
        for spec in self._program.outputs:
            found, promised = outputs[spec.name].shape, (count, *spec.shape[1:])
            if found != promised:
                raise _OtherShape(
                    f"output {spec.name!r} came with shape {found} instead of {promised}: "
                    f"its size depends on the values"
                )
        return outputs

    def _require(self, one: Tensors, other: Tensors, problem: str) -> None:
        try:
            for row in range(self._size):
                self._compare(one, row, other, row)
        except _Mixed as error:
            raise _Undecided(problem) from error

    def _compare(
        self, one: Tensors, row: int, other: Tensors, other_row: int, factor: float = 1.0
    ) -> None:
        """Raise `_Mixed` unless the two results of one row agree."""
        for name, tolerance in self._tolerances.items():
            # Of what is computed as 1 - x, another kernel has no digits below those of 1.
            floor = factor * eps_of(one[name].dtype) if factor > 1 else 0.0
            difference = difference_of(one[name][row], other[name][other_row], floor)
            if not difference <= factor * tolerance:
                raise _Mixed(name, difference)


def _padded(inputs: Tensors, row: int, kept: int, size: int) -> Tensors:
    """The first rows of a batch, filled up with copies of one of them."""
    return {
        name: np.concatenate([rows[:kept], np.repeat(rows[row : row + 1], size - kept, 0)])
        for name, rows in inputs.items()
    }


def _is_constant(inputs: Tensors) -> bool:
    """Whether all rows are equal in every input."""
    return all(bool((rows == rows[:1]).all()) for rows in inputs.values())
