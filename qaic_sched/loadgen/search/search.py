"""Searches over whole runs: the highest rate under an SLO, and curves up to the knee.

Rules of this file:
- A run is a function from a rate to a report; nothing here sends requests or reads a clock.
- `points` decides whether a run passes; of several runs at one rate, the majority decides.
- A run with a late injector shows nothing about the target: the search ends there, with a note.
- Rates are in the unit that `measure` takes. Each run needs a different seed, or repeats are equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import sqrt
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING

from qaic_sched.extras import require
from qaic_sched.loadgen.report.formats import number, percent, seconds
from qaic_sched.loadgen.report.report import Search
from qaic_sched.loadgen.search.points import JudgedRun, judged, late_note, point_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qaic_sched.loadgen.plan.plan import Slo
    from qaic_sched.loadgen.report.report import Point, Report

__all__ = ["find_highest_rate", "point_of", "sweep_concurrency", "sweep_rates"]

KNEE_METHOD = "maximum power: completed rate over mean latency, Kleinrock 1979"

MAX_HALVINGS = 10
"""Below a thousandth of the first rate, the target is broken rather than slow."""
CLIFF_FACTOR = 5.0
"""A larger rise of p99 across the bracket is noted."""
NOISE_FACTOR = 1.25
"""A larger fall of p99 from one rate to the next is noted."""


class _InjectorWasLateError(Exception):
    """The injector was late, so the search cannot continue."""


async def find_highest_rate(
    measure: Callable[[float], Awaitable[Report]],
    slo: Slo,
    *,
    start_rate: float,
    tolerance: float = 0.02,
    repeats: int = 3,
    max_runs: int = 40,
) -> Search:
    """Find the highest rate that meets an SLO, with at most `max_runs` runs.

    Doubles or halves `start_rate` until a bracket is found, bisects it in log space, and repeats
    the best rate `repeats` times. At the best rate the majority of runs passed; the lowest rate
    above it that failed is within `tolerance`, unless the note says why not.
    """
    require("scipy.special", "load")  # fail before the runs, not after them
    hunt = _Hunt(measure, slo, max_runs, reserve=min(repeats, max_runs) - 1)
    stop = ""
    try:
        low, high = await hunt.bracket(start_rate)
        if low is not None:
            low, high = await hunt.bisect(low, high, tolerance)
            await hunt.confirm(low, repeats, tolerance)
    except _InjectorWasLateError as late:
        stop = str(late)
    return hunt.search(repeats, tolerance, stop)


@dataclass(slots=True)
class _Hunt:
    """The runs of a search, from which its result is computed."""

    measure: Callable[[float], Awaitable[Report]]
    slo: Slo
    left: int
    """The number of runs that may still be made."""
    reserve: int
    """The number of these that are reserved for repeats."""
    runs: dict[float, list[JudgedRun]] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)

    async def run(self, rate: float) -> bool:
        self.left -= 1
        run = judged(await self.measure(rate), self.slo, offered_rate=rate)
        self.points.append(run.point)
        if run.is_late:
            raise _InjectorWasLateError(late_note(f"{number(rate)}/s") + " The search ended there.")
        self.runs.setdefault(rate, []).append(run)
        return run.passes

    async def bracket(self, rate: float) -> tuple[float | None, float | None]:
        """Find a rate that passes and one that fails; None for a missing one."""
        low = high = None
        halvings = 0
        while (low is None or high is None) and self.left > self.reserve:
            if await self.run(rate):
                low, rate = rate, rate * 2
            else:
                high, rate, halvings = rate, rate / 2, halvings + 1
            if halvings > MAX_HALVINGS:
                break
        return low, high

    async def bisect(
        self, low: float, high: float | None, tolerance: float
    ) -> tuple[float, float | None]:
        while high is not None and high > low * (1 + tolerance) and self.left > self.reserve:
            middle = sqrt(low * high)
            if await self.run(middle):
                low = middle
            else:
                high = middle
        return low, high

    async def confirm(self, rate: float, repeats: int, tolerance: float) -> None:
        """Repeat the best rate; while the majority of its runs fails, go to lower rates."""
        self.reserve = 0
        while True:
            while len(self.runs.get(rate, ())) < repeats and self.left:
                await self.run(rate)
            if not self.left or self.passes(rate):
                return
            known = [each for each in self.runs if each < rate and self.passes(each)]
            rate = max([*known, rate / (1 + tolerance)])

    def passes(self, rate: float) -> bool:
        runs = self.runs[rate]
        return 2 * sum(run.passes for run in runs) > len(runs)

    def search(self, repeats: int, tolerance: float, stop: str) -> Search:
        passed = [rate for rate in self.runs if self.passes(rate)]
        best = max(passed, default=None)
        notes = [stop, self._length_note()]
        if best is None:
            if self.runs:
                notes.insert(0, f"No rate passed, down to {number(min(self.runs))}/s.")
            return Search(kind="slo", points=tuple(self.points), note=_joined(notes))
        above = min((rate for rate in self.runs if rate > best), default=None)
        interval, how = _interval([run.point.completed_rate for run in self.runs[best]])
        notes += [
            how,
            self._repeats_note(best, repeats),
            self._bracket_note(best, above, tolerance),
        ]
        notes += [self._order_note(), self._cliff_note(best, above)]
        return Search(
            kind="slo",
            points=tuple(self.points),
            best_rate=best,
            bracket=(best, above),
            interval=interval,
            note=_joined(notes),
        )

    def _length_note(self) -> str:
        runs = [run for runs in self.runs.values() for run in runs]
        short = sum(run.passes and not run.point.is_valid for run in runs)
        if not short:
            return ""
        return f"{short} of {len(runs)} runs passed but were too short to be valid on their own."

    def _repeats_note(self, best: float, repeats: int) -> str:
        runs = self.runs[best]
        passed = sum(run.passes for run in runs)
        text = f"{passed} of {len(runs)} runs passed at the best rate"
        return f"{text}: no runs were left for {repeats}." if len(runs) < repeats else f"{text}."

    def _bracket_note(self, best: float, above: float | None, tolerance: float) -> str:
        if above is None:
            return f"No rate failed in {len(self.points)} runs: the target's limit is higher."
        width = above / best - 1
        # Bisection in floating point may end slightly above.
        if width <= tolerance * 1.001:
            return ""
        return f"The bracket is {percent(width)} wide: no runs were left to narrow it."

    def _order_note(self) -> str:
        """Note if latency clearly fell at a higher rate: bisection assumes that it rises."""
        known = [(rate, self._p99_s(rate)) for rate in sorted(self.runs)]
        p99s = [(rate, p99_s) for rate, p99_s in known if p99_s]
        for (rate, p99_s), (next_rate, next_s) in pairwise(p99s):
            if p99_s > NOISE_FACTOR * next_s:
                return (
                    f"Not monotonic: p99 was {seconds(p99_s)} at {number(rate)}/s but "
                    f"{seconds(next_s)} at {number(next_rate)}/s; the runs may be too short."
                )
        return ""

    def _cliff_note(self, best: float, above: float | None) -> str:
        ends = [self._p99_s(rate) for rate in (best, above) if rate is not None]
        low_s, high_s = ends if len(ends) == 2 else (None, None)
        if not low_s or not high_s or high_s <= CLIFF_FACTOR * low_s:
            return ""
        return f"Cliff: p99 jumps from {seconds(low_s)} to {seconds(high_s)} across the bracket."

    def _p99_s(self, rate: float) -> float | None:
        known = [run.point.p99_s for run in self.runs[rate] if run.point.p99_s is not None]
        return median(known) if known else None


async def sweep_rates(
    measure: Callable[[float], Awaitable[Report]], rates: Sequence[float]
) -> Search:
    """Make one run at each rate, in the given order: the curve of latency over throughput.

    The knee is the point of maximum power. If the plan has an SLO, the best rate is the highest
    offered rate that passes.
    """
    runs = []
    for rate in rates:
        report = await measure(rate)
        runs.append(judged(report, report.plan.rules.slo, offered_rate=rate))
    offered = [run.point.offered_rate or 0.0 for run in runs]
    return _curve("rates", runs, offered)


async def sweep_concurrency(
    measure: Callable[[int], Awaitable[Report]], levels: Sequence[int]
) -> Search:
    """Make one run with each number of callers; the best rate is a completed rate."""
    runs = []
    for level in levels:
        report = await measure(level)
        runs.append(judged(report, report.plan.rules.slo, concurrency=level))
    return _curve("concurrency", runs, [run.point.completed_rate for run in runs])


def _curve(kind: str, runs: Sequence[JudgedRun], rates: Sequence[float]) -> Search:
    knee, note = _knee(runs)
    on_time = [(rate, run) for rate, run in zip(rates, runs, strict=True) if not run.is_late]
    best = max((rate for rate, run in on_time if run.passes and run.point.meets_slo), default=None)
    failed = [rate for rate, run in on_time if not run.passes]
    late = [run.name for run in runs if run.is_late]
    return Search(
        kind=kind,
        points=tuple(run.point for run in runs),
        best_rate=best,
        bracket=_bracket(best, failed),
        knee_rate=knee,
        knee_method=None if knee is None else KNEE_METHOD,
        note=_joined([note, late_note(", ".join(late)) if late else ""]),
    )


def _bracket(best: float | None, failed: Sequence[float]) -> tuple[float, float | None] | None:
    if best is None:
        return None
    return best, min((rate for rate in failed if rate > best), default=None)


def _knee(runs: Sequence[JudgedRun]) -> tuple[float | None, str]:
    """Return the completed rate of maximum power, and a note if it is at an end of the sweep."""
    known = [(run.point.completed_rate, run.mean_s) for run in runs if run.mean_s]
    if len(known) < 3:
        return None, "No knee: at least three runs with answers are needed."
    powers = [rate / mean_s for rate, mean_s in known]
    row = powers.index(max(powers))
    at_end = "The knee is at an end of the sweep: it may lie beyond."
    return known[row][0], at_end if row in (0, len(known) - 1) else ""


def _interval(rates: Sequence[float]) -> tuple[tuple[float, float] | None, str]:
    """Return Student's 95 % confidence interval of the mean, and a sentence that names it."""
    count = len(rates)
    if count < 2:
        return None, ""
    t = float(require("scipy.special", "load").stdtrit(count - 1, 0.975))
    half = t * stdev(rates) / sqrt(count)
    mean = fmean(rates)
    how = f"The interval is Student's 95 % of the rate completed in {count} runs at the best rate."
    return (mean - half, mean + half), how


def _joined(notes: Sequence[str]) -> str:
    return "\n".join(filter(None, notes))
