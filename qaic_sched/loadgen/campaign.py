"""Searches and sweeps on a target: many runs, each with a different seed, and one report.

Rules of this file:
- The report is that of the best run, or of the last run if none passed, with the search added.
- An interrupted search keeps its finished runs.
- Records of a few runs only stay in memory: of the last one, and of those that may be the best.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import msgspec

from qaic_sched.errors import ConfigError
from qaic_sched.loadgen.inject.pilot import measure_rate
from qaic_sched.loadgen.judge.verdict import conclude
from qaic_sched.loadgen.load import INTERRUPTED, LoadRun, opened
from qaic_sched.loadgen.plan.plan import Constant, Gamma, Mmpp, Poisson
from qaic_sched.loadgen.report.host import Origin
from qaic_sched.loadgen.report.report import Search
from qaic_sched.loadgen.search.points import judged
from qaic_sched.loadgen.search.search import find_highest_rate, sweep_concurrency, sweep_rates
from qaic_sched.loadgen.search.sweep import sweep_shapes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qaic_sched.loadgen.load import LoadTest
    from qaic_sched.loadgen.plan.plan import Plan
    from qaic_sched.loadgen.report.report import Point, Report
    from qaic_sched.loadgen.search.sweep import Grid, Shape
    from qaic_sched.loadgen.targets.base import Target, TargetInfo

__all__ = ["find_rate", "over_concurrency", "over_rates", "over_shapes"]

FIRST_SHARE = 0.5
"""A search starts at this share of the rate that a burst reached."""
_MAX_KEPT_RUNS = 5
"""Runs whose records stay in memory."""


class _InterruptedError(Exception):
    """The search was interrupted."""


class _Runs:
    """The runs of one search: a point for each, records for a few."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._points: list[Point] = []
        self._last: LoadRun | None = None
        self._passed: dict[float, LoadRun] = {}

    async def measure(self, test: LoadTest, plan: Plan, **asked: Any) -> Report:
        """Make one run; `asked` are the keyword arguments of `points.judged`."""
        seed = plan.seed + len(self._points)
        run = await test.run(msgspec.structs.replace(plan, seed=seed))
        if test.is_interrupted:
            self._last = self._last or run
            raise _InterruptedError
        result = judged(run.report, plan.rules.slo, **asked)
        self._points.append(result.point)
        self._last = run
        if result.passes:
            rate = asked.get("offered_rate")
            self._passed[run.report.completed_rate if rate is None else rate] = run
            if len(self._passed) > _MAX_KEPT_RUNS:
                del self._passed[min(self._passed)]
        return run.report

    async def result(self, search: Awaitable[Search]) -> LoadRun:
        """Carry a search out; return its best run, whose report has the search."""
        ended_early = ""
        try:
            found = await search
        except _InterruptedError:
            ended_early = INTERRUPTED
            found = Search(kind=self._kind, points=tuple(self._points), note="Interrupted.")
        best = self._passed.get(found.best_rate or 0.0)
        run = best or self._passed.get(max(self._passed, default=0.0)) or self._last
        if run is None:
            raise ConfigError(found.note.replace("\n", " ") or "the search made no run")
        report = run.report
        findings = msgspec.structs.replace(report, ended_early=ended_early or report.ended_early)
        origin = Origin(report.host, report.started_at)
        return LoadRun(conclude(findings, origin, found), run.records)


async def find_rate(test: LoadTest, plan: Plan, start_rate: float | None = None) -> LoadRun:
    """Find the highest rate that meets the plan's SLO; rates are samples per second.

    Without `start_rate`, a short burst measures where to start.
    """
    slo = plan.rules.slo
    if slo is None:
        raise ConfigError("a search for the highest rate needs an SLO: a limit of the latency")
    runs = _Runs("slo")
    inputs = await test.inputs(plan)
    if start_rate is None:
        pilot = await measure_rate(test.target, inputs)
        start_rate = FIRST_SHARE * pilot * plan.samples_per_request

    async def measure(rate: float) -> Report:
        return await runs.measure(test, _at_rate(plan, rate), offered_rate=rate)

    return await runs.result(find_highest_rate(measure, slo, start_rate=start_rate))


async def over_rates(test: LoadTest, plan: Plan, rates: Sequence[float]) -> LoadRun:
    """Make one run at each rate, in samples per second."""
    runs = _Runs("rates")

    async def measure(rate: float) -> Report:
        return await runs.measure(test, _at_rate(plan, rate), offered_rate=rate)

    return await runs.result(sweep_rates(measure, rates))


async def over_concurrency(test: LoadTest, plan: Plan, levels: Sequence[int]) -> LoadRun:
    """Make one closed-loop run with each number of callers."""
    runs = _Runs("concurrency")

    async def measure(level: int) -> Report:
        level_plan = msgspec.structs.replace(plan, concurrency=level)
        return await runs.measure(test, level_plan, concurrency=level)

    return await runs.result(sweep_concurrency(measure, levels))


async def over_shapes(
    make_target: Callable[[Shape], Target],
    plan_of: Callable[[TargetInfo, Shape], Plan],
    grid: Grid,
    **options: Any,
) -> LoadRun:
    """Make one run for each shape, on a new target; `options` are those of `opened`."""
    runs = _Runs("shapes")

    async def measure(shape: Shape) -> Report:
        async with opened(make_target(shape), **options) as test:
            plan = plan_of(test.info, shape)
            return await runs.measure(test, plan, shape=asdict(shape))

    return await runs.result(sweep_shapes(measure, grid))


def _at_rate(plan: Plan, rate: float) -> Plan:
    """Return the plan with its arrivals at `rate` samples per second."""
    arrivals = plan.arrivals
    if not isinstance(arrivals, Constant | Poisson | Gamma | Mmpp):
        raise ConfigError(
            "a search over rates needs one mean rate: constant, poisson, gamma or mmpp arrivals"
        )
    rate_of_requests = rate / plan.samples_per_request
    return msgspec.structs.replace(
        plan, arrivals=msgspec.structs.replace(arrivals, rate=rate_of_requests)
    )
