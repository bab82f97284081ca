"""The injector: sends on time, never waits, loses nothing, and repeats to the last byte."""

from __future__ import annotations

import asyncio
import gc

import numpy as np
import pytest
from numpy.typing import NDArray

from qaic_sched.errors import ConfigError
from qaic_sched.loadgen.inject.injector import RunCounters, inject
from qaic_sched.loadgen.inject.records import Records
from qaic_sched.loadgen.plan.arrivals import schedule
from qaic_sched.loadgen.plan.inputs import InputLibrary
from qaic_sched.loadgen.plan.plan import Plan, Poisson
from qaic_sched.loadgen.targets.base import Outcome, Reply
from qaic_sched.testing import run_virtual
from tests.loadgen.load_helpers import INFO, TimedTarget, outcomes, run_on_target

OPEN = Plan(scenario="open", duration_s=1.0)
CLOSED = Plan(scenario="closed", duration_s=1.0, concurrency=4)
PLANNED = schedule(Poisson(1000), 1.0, 1)
Planned = NDArray[np.int64] | None


def test_an_open_loop_sends_exactly_when_planned() -> None:
    """In virtual time the injector is never late."""
    records = run_on_target(TimedTarget(0.005), OPEN, PLANNED)

    assert records.planned_ns.tolist() == PLANNED.tolist()
    assert records.sent_ns.tolist() == PLANNED.tolist()
    assert (records.done_ns - records.sent_ns).tolist() == [5_000_000] * len(PLANNED)
    assert outcomes(records)["DONE"] == len(PLANNED)
    assert records.ended_ns == records.done_ns.max()


def test_an_open_loop_does_not_wait_for_answers() -> None:
    """A target that never answers gets every request; all are unresolved after the drain."""
    plan = Plan(scenario="open", duration_s=1.0, drain_s=2.5)
    target = TimedTarget(answer=lambda row: None)

    records = run_on_target(target, plan, PLANNED)

    assert target.count == len(PLANNED)
    assert outcomes(records)["UNRESOLVED"] == len(PLANNED)
    assert (records.done_ns == -1).all()
    assert records.ended_ns == PLANNED[-1] + 2_500_000_000


def test_an_answer_during_the_drain_counts() -> None:
    """The run ends with the last answer, not with the drain."""
    records = run_on_target(TimedTarget(3.0), OPEN, PLANNED)

    assert outcomes(records)["DONE"] == len(PLANNED)
    assert records.ended_ns == PLANNED[-1] + 3_000_000_000


def test_a_precise_run_spins_where_timers_are_late_and_ends_in_virtual_time() -> None:
    """A precise run uses timers if the clock does not move while it spins."""
    plan = Plan(scenario="open", duration_s=1.0, is_precise=True)

    records = run_on_target(TimedTarget(), plan, PLANNED)

    assert records.sent_ns.tolist() == PLANNED.tolist()


def test_a_burst_is_sent_at_once() -> None:
    """A burst larger than one turn of the loop is sent at the start."""
    records = run_on_target(TimedTarget(), OPEN, np.zeros(1000, np.int64))

    assert records.sent_ns.tolist() == [0] * 1000
    assert outcomes(records)["DONE"] == 1000


def test_nothing_planned_is_a_run_of_no_requests() -> None:
    """A run without requests, like one of an empty trace, ends at once."""
    records = run_on_target(TimedTarget(), OPEN, np.empty(0, np.int64))

    assert len(records.planned_ns) == 0
    assert records.ended_ns == 0


def test_a_closed_loop_keeps_its_callers_busy() -> None:
    """Each caller sends its next request at its answer, until the duration is over."""
    records = run_on_target(TimedTarget(0.010), CLOSED, None)

    assert len(records.planned_ns) == 4 * 100
    assert records.planned_ns.tolist() == records.sent_ns.tolist()
    assert records.planned_ns.tolist() == [i // 4 * 10_000_000 for i in range(400)]
    assert outcomes(records)["DONE"] == 400
    assert records.ended_ns == 1_000_000_000


def test_a_closed_loop_ends_after_max_requests() -> None:
    """`max_requests` is exact, beyond the initial number of rows."""
    plan = Plan(scenario="closed", duration_s=1000.0, concurrency=100, max_requests=5000)

    records = run_on_target(TimedTarget(0.010), plan, None)

    assert outcomes(records)["DONE"] == 5000
    assert (np.diff(records.planned_ns) >= 0).all()
    assert records.ended_ns == 500_000_000


def test_a_closed_loop_of_more_callers_than_requests() -> None:
    """`max_requests` holds even with more callers than requests."""
    plan = Plan(scenario="closed", duration_s=1.0, concurrency=300, max_requests=200)

    assert outcomes(run_on_target(TimedTarget(), plan, None))["DONE"] == 200


def test_a_refused_caller_comes_back_a_millisecond_later() -> None:
    """A target that fails every request at once does not keep the run from ending."""
    dead = TimedTarget(0.0, lambda row: Reply(Outcome.FAILED, problem="dead"))

    records = run_on_target(dead, CLOSED, None)

    assert len(records.planned_ns) == 4 * 1000
    assert records.problems == {"dead": 4000}


def test_a_target_that_raises_costs_no_numbers() -> None:
    """Measurements from before the failure are kept, and the errors are counted."""

    def break_later(row: int) -> Reply:
        if row >= 300:
            raise RuntimeError("broken")
        return Reply(Outcome.DONE)

    for planned_ns in (PLANNED, None):
        records = run_on_target(TimedTarget(answer=break_later), CLOSED, planned_ns)
        assert outcomes(records)["DONE"] == 300
        assert outcomes(records)["FAILED"] == len(records.planned_ns) - 300 > 0
        assert records.problems == {"RuntimeError: broken": outcomes(records)["FAILED"]}


def test_a_target_that_answers_within_send_is_no_recursion() -> None:
    """A closed loop sends its next request from the event loop, not from the callback."""

    class Instant(TimedTarget):
        def send(self, inputs, timeout_s, done):  # type: ignore[no-untyped-def]
            done(Reply(Outcome.DONE))

    plan = Plan(scenario="closed", duration_s=1.0, max_requests=3000)

    assert outcomes(run_on_target(Instant(), plan, None))["DONE"] == 3000
    assert outcomes(run_on_target(Instant(), OPEN, PLANNED))["DONE"] == len(PLANNED)


def test_every_request_has_one_outcome() -> None:
    """For any mix of outcomes, their counts add up to the planned requests."""
    kinds = [Outcome.DONE, Outcome.FAILED, Outcome.EXPIRED, Outcome.REJECTED, Outcome.CANCELLED]

    def answer(row: int) -> Reply | None:
        return None if row % 6 == 5 else Reply(kinds[row % 6])

    records = run_on_target(TimedTarget(answer=answer), OPEN, PLANNED)

    assert list(outcomes(records).values()) == [len(range(i, len(PLANNED), 6)) for i in range(6)]
    assert ((records.done_ns < 0) == (records.outcome == Outcome.UNRESOLVED)).all()


def test_only_the_first_kinds_of_problems_are_counted_by_name() -> None:
    """Twenty kinds are counted by name, all others together."""
    target = TimedTarget(answer=lambda row: Reply(Outcome.FAILED, problem=f"kind {row % 50}"))

    records = run_on_target(target, OPEN, PLANNED)

    assert len(records.problems) == 21
    assert sum(records.problems.values()) == len(PLANNED)
    assert list(records.problems)[-1] == "others"


def test_progress_and_replies_can_be_watched() -> None:
    """The counters agree with the records, and each reply is passed on with its row."""
    progress, seen = RunCounters(), []
    target = TimedTarget(0.004, lambda row: Reply(Outcome(row % 2)))

    records = run_on_target(
        target, OPEN, PLANNED, progress=progress, on_reply=lambda row, reply: seen.append(row)
    )

    done = outcomes(records)["DONE"]
    assert (progress.planned, progress.sent, progress.done) == (len(PLANNED),) * 3
    assert progress.errors == len(PLANNED) - done
    assert progress.latency.count == done
    assert progress.latency.percentile(50) == pytest.approx(0.004, rel=0.005)
    assert sorted(seen) == list(range(len(PLANNED)))


def test_devices_are_sampled_about_a_hundred_times() -> None:
    """Samples cover the whole run, even if it lasts much longer than its sending."""
    usual = run_on_target(TimedTarget(), OPEN, PLANNED).device_samples
    long = run_on_target(TimedTarget(50.0), OPEN, PLANNED)

    assert 95 <= len(usual) <= 105
    assert (usual[0].at_ns, usual[0].inferences) == (0, {0: 0})
    assert usual[-1].inferences == {0: len(PLANNED)}
    assert 80 <= len(long.device_samples) <= 210
    assert long.device_samples[-1].at_ns == long.ended_ns
    gaps = np.diff([sample.at_ns for sample in long.device_samples])
    assert (gaps > 0).all()


def test_a_run_begins_when_it_is_told_to() -> None:
    """A run starts at `starts_at`, and its times count from there."""

    async def main() -> Records:
        plan = Plan(scenario="closed", duration_s=1.0, max_requests=3)
        target = TimedTarget(0.5)
        records = await inject(target, INFO, plan, None, InputLibrary(INFO), starts_at=7.0)
        assert asyncio.get_running_loop().time() == 8.0  # the third came too late to be sent
        return records

    assert run_virtual(main).sent_ns.tolist() == [0, 500_000_000]


def test_objects_from_before_a_run_are_frozen_during_it() -> None:
    """Objects from before the run are frozen during the run, and unfrozen afterwards."""
    frozen = []

    def look(row: int, reply: Reply) -> None:
        if row == 500:
            frozen.append(gc.get_freeze_count())

    run_on_target(TimedTarget(), OPEN, PLANNED, on_reply=look)

    assert frozen[0] > 10_000
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("field", ["concurrency", "duration_s", "max_requests"])
def test_a_plan_that_sends_nothing_is_refused(field: str) -> None:
    """The error names the field."""
    plan = Plan(scenario="closed", **{field: 0})  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match=f"^{field}"):
        run_on_target(TimedTarget(), plan, None)


@pytest.mark.slow
def test_room_for_many_requests_is_made_before_the_run_begins() -> None:
    """The first of five million requests is sent on time."""

    async def main() -> Records:
        interrupted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def reply(row: int) -> Reply:
            if not interrupted.done():
                interrupted.set_result(None)
            return Reply(Outcome.DONE)

        planned_ns = np.arange(5_000_000) * 1_000_000
        target, inputs = TimedTarget(answer=reply), InputLibrary(INFO)
        return await inject(target, INFO, OPEN, planned_ns, inputs, interrupted=interrupted)

    records = asyncio.run(main())

    assert records.sent_ns[0] < 50_000_000
