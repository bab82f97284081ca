"""The injector on a scheduler, and runs that are interrupted."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qaic_sched.errors import InputError
from qaic_sched.loadgen.inject.injector import inject
from qaic_sched.loadgen.inject.records import Records
from qaic_sched.loadgen.plan.arrivals import schedule
from qaic_sched.loadgen.plan.inputs import InputLibrary
from qaic_sched.loadgen.plan.plan import Constant, Plan, Poisson
from qaic_sched.loadgen.targets.base import Outcome, Reply
from qaic_sched.loadgen.targets.scheduler import SchedulerTarget
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import host
from tests.loadgen.load_helpers import INFO, TimedTarget, outcomes, run_on_host

OPEN = Plan(scenario="open", duration_s=1.0)
CLOSED = Plan(scenario="closed", duration_s=1.0, concurrency=4)
PLANNED = schedule(Poisson(1000), 1.0, 1)
Planned = NDArray[np.int64] | None


def test_a_healthy_host_at_80_percent_answers_all(tmp_path: Path) -> None:
    """On a real scheduler each request is done, on a known device, with ascending instants."""
    planned_ns = schedule(Poisson(0.8 * 2000), 1.0, 3)

    records = run_on_host(tmp_path, Plan(scenario="open", duration_s=1.0), planned_ns)

    assert outcomes(records)["DONE"] == len(planned_ns)
    assert set(records.device.tolist()) == {0, 1, 2, 3}
    assert len(set(records.inference.tolist())) == len(planned_ns)
    for earlier, later in [
        (records.planned_ns, records.sent_ns),
        (records.sent_ns, records.submitted_ns),
        (records.submitted_ns, records.started_ns),
        (records.started_ns, records.completed_ns),
        (records.completed_ns, records.done_ns),
    ]:
        assert (earlier <= later).all()
    service = records.completed_ns - records.started_ns
    last = records.device_samples[-1]
    assert last.inferences == {i: int((records.device == i).sum()) for i in range(4)}
    for device_id in range(4):
        busy = service[records.device == device_id].sum() / 1e9
        assert last.busy_s[device_id] == pytest.approx(busy, rel=1e-6)


@pytest.mark.parametrize("is_open", [True, False])
def test_the_same_seed_gives_the_same_records(tmp_path: Path, is_open: bool) -> None:
    """Two runs in virtual time have equal arrays, to the last byte."""
    plan = Plan(scenario="open", duration_s=0.5, concurrency=7)
    runs = [
        run_on_host(
            tmp_path,
            plan,
            schedule(Poisson(1500), 0.5, 11) if is_open else None,
            service_time_cv=0.3,
        )
        for _ in range(2)
    ]

    assert len(runs[0].planned_ns) > 500
    for each in fields(Records):
        first, second = (getattr(records, each.name) for records in runs)
        if isinstance(first, np.ndarray):
            assert first.tobytes() == second.tobytes(), each.name
        else:
            assert first == second, each.name


def test_what_the_scheduler_refuses_is_a_reply(tmp_path: Path) -> None:
    """Invalid inputs fail their own requests only, and no request hangs."""

    async def main() -> Records:
        target = SchedulerTarget(Scheduler(host(tmp_path)))
        await target.open()
        wrong = InputLibrary(INFO, samples_per_request=1)
        wrong[0]["data"] = wrong[0]["data"][:, :3]
        with pytest.raises(InputError):
            await target._scheduler.run(wrong[0])
        records = await inject(target, INFO, OPEN, PLANNED, wrong)
        await target.aclose()
        return records

    records = run_virtual(main)
    failed = outcomes(records)["FAILED"]

    assert failed == pytest.approx(len(PLANNED) / 64, abs=2)
    assert outcomes(records)["DONE"] == len(PLANNED) - failed
    assert [text for text in records.problems if "shape (1, 3)" in text]


def _interrupted(plan: Plan, planned: Planned, at_s: float, service_s: float) -> Records:
    """Make a run that is interrupted at `at_s`."""

    async def main() -> Records:
        loop = asyncio.get_running_loop()
        interrupted: asyncio.Future[None] = loop.create_future()
        loop.call_at(at_s, interrupted.set_result, None)
        target, inputs = TimedTarget(service_s), InputLibrary(INFO)
        return await inject(target, INFO, plan, planned, inputs, interrupted=interrupted)

    return run_virtual(main)


@pytest.mark.parametrize(("plan", "planned"), [(OPEN, PLANNED), (CLOSED, None)])
def test_an_interrupted_run_keeps_what_was_due_and_awaits_its_answers(
    plan: Plan, planned: Planned
) -> None:
    """Nothing is sent after the interruption, and the records end there."""
    records = _interrupted(plan, planned, 0.5, 0.030)

    assert (records.outcome == Outcome.DONE).all()
    assert 0.46e9 < records.planned_ns.max() < 0.5e9
    assert records.ended_ns == records.planned_ns.max() + 30_000_000
    if planned is not None:
        assert records.planned_ns.tolist() == planned[planned < 500_000_000].tolist()


def test_requests_due_before_an_interruption_count_even_if_not_sent() -> None:
    """The requests of a burst that were due and not sent yet are unresolved."""

    async def main() -> Records:
        interrupted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        target, planned = TimedTarget(), np.repeat([0, 1_000_000_000], 500)

        def reply(row: int) -> Reply:
            if row == 70:
                interrupted.set_result(None)
            return Reply(Outcome.DONE)

        target.answer = reply
        return await inject(
            target, INFO, OPEN, planned, InputLibrary(INFO), interrupted=interrupted
        )

    records = run_virtual(main)

    assert records.planned_ns.tolist() == [0] * 500
    assert outcomes(records)["DONE"] == 128
    assert outcomes(records)["UNRESOLVED"] == 372


def test_an_interruption_after_the_last_request_changes_nothing() -> None:
    """An interruption after the last send has no effect."""
    records = _interrupted(OPEN, PLANNED, 1.010, 0.5)

    assert records.planned_ns.tolist() == PLANNED.tolist()
    assert outcomes(records)["DONE"] == len(PLANNED)


@pytest.mark.slow
def test_drives_twenty_thousand_a_second(tmp_path: Path) -> None:
    """With a device that takes no time, 20,000 requests per second are sent and answered."""

    async def main() -> Records:
        target = SchedulerTarget(Scheduler(host(tmp_path, service_time_s=0.0)))
        info = await target.open()
        planned_ns = schedule(Constant(20_000), 2.0, 1)
        plan = Plan(scenario="open", duration_s=2.0)
        records = await inject(target, info, plan, planned_ns, InputLibrary(info))
        await target.aclose()
        return records

    records = asyncio.run(main())

    assert outcomes(records)["DONE"] == 40_000
    assert records.ended_ns < 2_200_000_000
