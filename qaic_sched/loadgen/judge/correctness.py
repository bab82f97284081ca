"""Correctness under load: compares sampled outputs with a reference, and tests for a cache.

Rules of this file:
- The reference is the target's own output for each input alone, before the load. The check finds
  errors that load causes (rows mixed up, buffers reused too early), not errors of the model.
- The replies to compare are drawn with a seed in advance, regardless of their outcome.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from qaic_sched.errors import DeviceError
from qaic_sched.loadgen.inject.pilot import ask
from qaic_sched.loadgen.targets.base import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from numpy.typing import NDArray

    from qaic_sched.loadgen.inject.pilot import Inputs
    from qaic_sched.loadgen.targets.base import Reply, Target
    from qaic_sched.program import Tensors

__all__ = ["OutputChecker", "repeated_input_test"]

MAX_MISMATCHES = 5
"""Mismatches reported in full; all are counted."""
MAX_GAIN = 0.10
"""By MLPerf's TEST04, a larger gain from one repeated input is a cache."""
MIN_ROUNDS = 3
_DRAWN_AT_ONCE = 4096


class OutputChecker:
    """Compares on average every `every`-th reply with the output for its input without load.

    Integers, booleans and strings must be equal, floats within `rtol` and `atol` as defined by
    `numpy.allclose`; names, types and shapes must match. NaN equals NaN.
    """

    def __init__(
        self, *, every: int = 100, seed: int = 1, rtol: float = 1e-5, atol: float = 1e-7
    ) -> None:
        self.every = every
        self.rtol = rtol
        self.atol = atol
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._gaps: list[int] = []
        self._until_next = self._draw()
        self._expected: list[Tensors] = []
        self._seen = 0
        self._compared = 0
        self._wrong = 0
        self._mismatches: list[dict[str, Any]] = []

    async def learn(self, target: Target, inputs: Inputs) -> None:
        """Run each input alone and keep its outputs; raise `DeviceError` if it has none."""
        self._expected = []
        for index in range(len(inputs)):
            reply = await ask(target, inputs[index])
            if reply.outcome is not Outcome.DONE or reply.outputs is None:
                raise DeviceError(
                    f"input {index} has no outputs even without load: {reply.problem}"
                )
            self._expected.append({name: np.array(a) for name, a in reply.outputs.items()})

    def on_reply(self, index_of_input: int, reply: Reply) -> None:
        """Compare a reply if it was drawn; replies without outputs do not count."""
        if reply.outcome is not Outcome.DONE or reply.outputs is None:
            return
        self._seen += 1
        self._until_next -= 1
        if self._until_next == 0:
            self._until_next = self._draw()
            self._compare(index_of_input, reply.outputs)

    def result(self) -> dict[str, Any]:
        """Return the results for `Report.correctness`; correct only if something was compared."""
        return {
            "every": self.every,
            "rtol": self.rtol,
            "atol": self.atol,
            "replies": self._seen,
            "compared": self._compared,
            "equal": self._compared - self._wrong,
            "wrong": self._wrong,
            "is_correct": self._compared > 0 and self._wrong == 0,
            "mismatches": list(self._mismatches),
        }

    def _draw(self) -> int:
        """Draw the distance to the next compared reply: uniform from 1 to 2 * every - 1."""
        if not self._gaps:
            self._gaps = self._random.integers(1, 2 * self.every, _DRAWN_AT_ONCE).tolist()
        return self._gaps.pop()

    def _compare(self, index: int, outputs: Tensors) -> None:
        self._compared += 1
        found = self._mismatch(self._expected[index], outputs)
        if found is None:
            return
        self._wrong += 1
        if len(self._mismatches) < MAX_MISMATCHES:
            self._mismatches.append({"input": index, **found})

    def _mismatch(self, expected: Tensors, outputs: Tensors) -> dict[str, Any] | None:
        """Return the first output that differs, and how; None if all are equal."""
        for name in sorted(expected.keys() ^ outputs.keys()):
            problem = "missing" if name in expected else "not in the reference"
            return {"output": name, "problem": problem, "max_error": None}
        for name, array in expected.items():
            difference = self._difference(array, outputs[name])
            if difference is not None:
                error = _max_error(array, outputs[name])
                return {"output": name, "problem": difference, "max_error": error}
        return None

    def _difference(self, expected: NDArray[Any], output: NDArray[Any]) -> str | None:
        if output.dtype != expected.dtype:
            return f"{output.dtype}, not {expected.dtype}"
        if output.shape != expected.shape:
            return f"shape {output.shape}, not {expected.shape}"
        if np.issubdtype(expected.dtype, np.inexact):
            is_close = np.allclose(output, expected, self.rtol, self.atol, equal_nan=True)
            return None if is_close else f"beyond rtol {self.rtol:g} and atol {self.atol:g}"
        return None if np.array_equal(output, expected) else "not equal"


def _max_error(expected: NDArray[Any], output: NDArray[Any]) -> float | None:
    """Return the largest absolute difference; None if it is undefined or not finite."""
    if expected.shape != output.shape or not np.issubdtype(expected.dtype, np.number):
        return None
    difference = np.abs(output.astype(np.float64) - expected.astype(np.float64))
    error = float(difference.max(initial=0.0))
    return error if np.isfinite(error) else None


async def repeated_input_test(
    measure: Callable[[bool], Awaitable[float]], rounds: int = MIN_ROUNDS
) -> dict[str, Any]:
    """Test for a cache, like MLPerf's TEST04: is the target faster with one repeated input?

    `measure(is_repeated)` makes a run and returns its rate. Runs with distinct inputs and with one
    repeated input alternate, at least three each, and their medians are compared. `is_caching` is
    None if nothing was answered.
    """
    distinct: list[float] = []
    repeated: list[float] = []
    for number in range(max(rounds, MIN_ROUNDS)):
        # The order alternates, so that a drift favours neither.
        for is_repeated in (False, True) if number % 2 == 0 else (True, False):
            rates = repeated if is_repeated else distinct
            rates.append(await measure(is_repeated))
    base = median(distinct)
    gain = median(repeated) / base - 1.0 if base > 0 else None
    return {
        "distinct_rates": distinct,
        "repeated_rates": repeated,
        "gain": gain,
        "limit": MAX_GAIN,
        "is_caching": None if gain is None else gain > MAX_GAIN,
        "text": _sentence(gain),
    }


def _sentence(gain: float | None) -> str:
    if gain is None:
        return (
            "no request was answered, so a cache can be neither found nor excluded: fix the errors"
        )
    if gain > MAX_GAIN:
        return (
            f"{gain:.1%} faster with one repeated input: the target caches answers; switch that off"
        )
    return f"{gain:+.1%} with one repeated input, within {MAX_GAIN:.0%}: no cache was found"
