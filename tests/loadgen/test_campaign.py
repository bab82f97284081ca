"""Searches and sweeps over whole runs, in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from qaic_sched.errors import ConfigError
from qaic_sched.loadgen.campaign import find_rate, over_concurrency, over_rates, over_shapes
from qaic_sched.loadgen.load import LoadRun, opened
from qaic_sched.loadgen.plan.plan import Burst, Plan, Poisson, Rules, Slo
from qaic_sched.loadgen.search.sweep import Grid, Shape
from qaic_sched.loadgen.targets.scheduler import SchedulerTarget
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import host
from tests.loadgen.load_helpers import TimedTarget

if TYPE_CHECKING:
    from qaic_sched.loadgen.targets.base import Target, TargetInfo

RULES = Rules(min_duration_s=5.0, slo=Slo(99.0, 0.100))
PLAN = Plan(scenario="open", arrivals=Poisson(1), duration_s=5.0, rules=RULES)


def cards(folder: Path, devices: int = 4, **changes: Any) -> SchedulerTarget:
    """A scheduler on `devices` of eight cards, with 20 ms per inference of one sample."""
    spec = {"batch": 1, "service_time_s": 0.020, "devices": 8, **changes}
    return SchedulerTarget(Scheduler(host(folder, **spec), devices=devices))


@pytest.mark.long
@pytest.mark.parametrize("start", [None, 37.0])
def test_the_highest_rate_is_the_capacity(tmp_path: Path, start: float | None) -> None:
    """The capacity of four cards of 10 ms, 400/s, is found within 5 % from any start rate."""
    rules = Rules(min_duration_s=20.0, slo=Slo(99.0, 0.250))
    plan = msgspec.structs.replace(PLAN, duration_s=20.0, rules=rules)

    async def main() -> LoadRun:
        async with opened(cards(tmp_path, service_time_s=0.010)) as test:
            return await find_rate(test, plan, start)

    run = run_virtual(main)
    search = run.report.search
    assert search is not None
    assert search.best_rate == pytest.approx(400, rel=0.05)
    assert run.report.asked_rate == search.best_rate
    assert run.report.verdict.is_valid


def test_each_run_has_a_seed_of_its_own(tmp_path: Path) -> None:
    """Runs of a search have different seeds."""

    async def main() -> list[LoadRun]:
        async with opened(cards(tmp_path)) as test:
            return [await over_rates(test, PLAN, [100.0] * n) for n in (1, 2)]

    one, two = run_virtual(main)
    assert (one.report.plan.seed, two.report.plan.seed) == (1, 2)
    assert one.report.schedule_hash != two.report.schedule_hash


def test_rates_are_of_samples(tmp_path: Path) -> None:
    """Rates count samples: requests of four samples are sent at a quarter of the rate."""

    async def main() -> LoadRun:
        async with opened(cards(tmp_path, batch=4)) as test:
            plan = msgspec.structs.replace(PLAN, samples_per_request=4)
            return await over_rates(test, plan, [200.0, 400.0])

    report = run_virtual(main).report
    assert report.search is not None
    assert report.plan.arrivals == Poisson(100.0)
    assert [point.offered_rate for point in report.search.points] == [200.0, 400.0]
    assert report.search.points[1].completed_rate == pytest.approx(400, rel=0.1)


def test_the_report_is_of_the_best_rate_and_has_all_points(tmp_path: Path) -> None:
    """The report is of the best rate; a rate beyond capacity is only a point."""

    async def main() -> LoadRun:
        async with opened(cards(tmp_path)) as test:
            plan = msgspec.structs.replace(PLAN, duration_s=9.0)
            return await over_rates(test, plan, [60.0, 100.0, 300.0])

    report = run_virtual(main).report
    assert report.search is not None
    assert len(report.search.points) == 3
    assert report.search.best_rate == report.asked_rate == 100.0
    assert report.verdict.is_valid
    assert not report.search.points[2].is_valid


def test_if_no_run_passes_the_report_is_of_the_last(tmp_path: Path) -> None:
    """If no run passes, the report is that of the last run, INVALID."""

    async def main() -> LoadRun:
        async with opened(cards(tmp_path)) as test:
            return await over_rates(test, PLAN, [300.0, 400.0])

    report = run_virtual(main).report
    assert report.search is not None
    assert report.search.best_rate is None
    assert report.asked_rate == 400.0
    assert not report.verdict.is_valid


def test_callers_are_swept(tmp_path: Path) -> None:
    """Callers add throughput up to one per card."""
    plan = msgspec.structs.replace(PLAN, scenario="closed", arrivals=None)

    async def main() -> LoadRun:
        async with opened(cards(tmp_path)) as test:
            return await over_concurrency(test, plan, [1, 2, 4, 8])

    report = run_virtual(main).report
    assert report.search is not None
    rates = [point.completed_rate for point in report.search.points]
    assert rates == pytest.approx([50, 100, 200, 200], rel=0.02)


def test_cards_scale_linearly(tmp_path: Path) -> None:
    """Cards scale linearly; a shape with more devices than the host is skipped and named."""

    def make(shape: Shape) -> Target:
        return cards(tmp_path, shape.devices)

    def plan_of(info: TargetInfo, shape: Shape) -> Plan:
        count = 2 * shape.devices
        return msgspec.structs.replace(PLAN, scenario="closed", arrivals=None, concurrency=count)

    async def main() -> LoadRun:
        return await over_shapes(make, plan_of, Grid(devices=(1, 2, 4, 8, 9)))

    report = run_virtual(main).report
    assert report.search is not None
    rates = {p.shape["devices"]: p.completed_rate for p in report.search.points}
    assert rates == pytest.approx({1: 50, 2: 100, 4: 200, 8: 400}, rel=0.02)
    assert "Skipped devices 9" in report.search.note
    assert len(report.devices) == 8


def test_no_shape_at_all_is_an_error(tmp_path: Path) -> None:
    """A sweep without a possible shape raises `ConfigError` with the reasons."""

    def make(shape: Shape) -> Target:
        return cards(tmp_path, shape.devices)

    async def main() -> LoadRun:
        return await over_shapes(make, lambda info, shape: PLAN, Grid(devices=(9,)))

    with pytest.raises(ConfigError, match="devices: got 9"):
        run_virtual(main)


@pytest.mark.parametrize("after_s", [2.0, 8.0])
def test_an_interrupted_search_keeps_the_runs_that_were_made(
    tmp_path: Path, after_s: float
) -> None:
    """An interrupted search is INVALID and keeps its runs, or the numbers of the first."""

    async def main() -> LoadRun:
        loop = asyncio.get_running_loop()
        interrupted: asyncio.Future[None] = loop.create_future()
        loop.call_later(after_s, interrupted.set_result, None)
        async with opened(cards(tmp_path), interrupted=interrupted) as test:
            return await over_rates(test, PLAN, [100.0, 120.0, 140.0])

    report = run_virtual(main).report
    assert report.search is not None
    assert len(report.search.points) == int(after_s > 5)
    assert report.counts.done > 100
    assert report.ended_early
    assert not report.verdict.is_valid


def test_plans_that_cannot_be_searched_raise() -> None:
    """A search without an SLO, or with a burst, raises `ConfigError`."""

    async def main() -> None:
        async with opened(TimedTarget()) as test:
            with pytest.raises(ConfigError, match="limit"):
                await find_rate(test, msgspec.structs.replace(PLAN, rules=Rules()))
            with pytest.raises(ConfigError, match="one mean rate"):
                burst = msgspec.structs.replace(PLAN, arrivals=Burst(9))
                await over_rates(test, burst, [1.0])

    run_virtual(main)
