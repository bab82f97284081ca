"""Stalls of the event loop: they count against no device, hedge or measured time."""

from __future__ import annotations

from typing import Any

import pytest

from qaic_sched.core.events import Closed, LoopStalled
from qaic_sched.core.model import Batch, Fault, Request
from qaic_sched.core.stalls import Stalls
from qaic_sched.core.state import SchedulerState
from qaic_sched.errors import InternalError
from tests.core.harness import (
    answer,
    drive,
    health_of,
    make_activation,
    make_state,
    on_probation,
    outcomes,
    requests,
)


def _at_work(devices: int = 2, set_size: int = 1, **policy: Any) -> SchedulerState:
    """Return a state with 0.1 s inferences and a request on every slot since 10.0."""
    state = make_state(devices, set_size=set_size, **policy)
    for number in range(4):
        (batch,) = drive(state, float(number), Request(number, 1, float(number))).dispatch
        drive(state, number + 0.1, answer(batch, number + 0.1))
    drive(state, 10.0, *requests(devices * set_size, first_id=4, accepted_at=10.0))
    return state


def _batch(sent_at: float, ended_at: float, expected_s: float = 0.1) -> Batch:
    batch = Batch(0, make_activation(), 1, 1, [], sent_at)
    batch.started_at, batch.completed_at, batch.expected_s = sent_at, ended_at, expected_s
    return batch


@pytest.mark.parametrize("policy", [{"dispatch_timeout_s": 0.5}, {}])
def test_a_stall_makes_no_device_stuck(policy: dict[str, Any]) -> None:
    """An hour after it the devices have as much time left as before it."""
    state = _at_work(**policy)
    limit_s = policy.get("dispatch_timeout_s", 5.0)
    commands = drive(state, 3610.2, LoopStalled(3600.0))

    assert (commands.dispatch, health_of(state, 0), health_of(state, 1)) == ([], "ready", "ready")
    drive(state, 3610.0 + limit_s - 0.01)
    assert health_of(state) == "ready"
    drive(state, 3610.0 + limit_s + 0.01)
    assert health_of(state) == "quarantined"


def test_stalls_that_follow_each_other_do_not_hide_a_stuck_device() -> None:
    """The time between them counts: a loop that is blocked all the time notices in the end."""
    state, now = _at_work(dispatch_timeout_s=0.5), 10.0
    for _ in range(24):
        now += 1.02
        drive(state, now, LoopStalled(1.0))
    assert health_of(state) == "ready"
    for _ in range(2):
        now += 1.02
        drive(state, now, LoopStalled(1.0))

    assert health_of(state) == "quarantined"


def test_a_stall_makes_no_inference_late() -> None:
    """Nothing is hedged until an inference takes too long from the end of the stall on."""
    state = _at_work(3, hedge_after=3.0, hedge_max_extra=1.0)
    assert drive(state, 12.0, LoopStalled(1.9)).dispatch == []
    batches = list(state.batches.values())
    drive(state, 12.1, *(answer(each, 12.1) for each in batches[:2]))
    assert drive(state, 12.29).dispatch == []

    assert [each.is_hedge for each in drive(state, 12.31).dispatch] == [True]


def test_an_inference_that_was_late_before_a_stall_is_hedged_after_it() -> None:
    """It waited for a free slot; after the stall it gets the whole time once more."""
    state = _at_work(hedge_after=3.0, hedge_max_extra=1.0)
    drive(state, 10.31)
    assert len(state.hedging.unhedged) == 2
    first = next(iter(state.batches.values()))
    assert drive(state, 13.0, LoopStalled(2.5), answer(first, 13.0)).dispatch == []

    assert [each.is_hedge for each in drive(state, 13.31).dispatch] == [True]


def test_a_time_with_a_stall_in_it_is_not_learned() -> None:
    """What is expected of the device stays, and the answer itself counts."""
    state = _at_work(1)
    (batch,) = state.batches.values()
    commands = drive(state, 12.0, LoopStalled(1.9), answer(batch, 12.0))

    assert outcomes(commands.resolve) == [(4, "done")]
    assert state.speeds.fastest_s(1) == pytest.approx(0.1)
    assert batch.execute_s == pytest.approx(0.1)


def test_a_stalled_answer_is_not_slow() -> None:
    """Many pauses make no outlier of a device that was at work in each of them."""
    state, now = _at_work(), 10.0
    for number in range(6, 26):
        now += 3.0
        held = list(state.batches.values())
        events = [answer(each, now) for each in held if not each.activation.device_id]
        prompt = [answer(each, now - 2.8) for each in held if each.activation.device_id]
        drive(state, now - 2.8, *prompt)
        drive(state, now, LoopStalled(2.7), *events)
        drive(state, now, *requests(2, 2 * number, accepted_at=now))

    assert health_of(state, 0) == health_of(state, 1) == "ready"


def test_an_answer_from_within_a_stall_is_right() -> None:
    """The loop alone was blocked: the devices and their threads ran on."""
    state = _at_work(1)
    (batch,) = state.batches.values()
    drive(state, 12.0, LoopStalled(1.95), answer(batch, 10.2))

    assert batch.execute_s == pytest.approx(0.2)
    assert state.speeds.fastest_s(1) == pytest.approx(0.12)


def test_the_next_batch_of_an_activation_starts_after_the_stall() -> None:
    """It was sent before, and the answer ahead of it came within."""
    state = _at_work(1, set_size=2, dispatch_timeout_s=0.5)
    first, second = state.batches.values()
    drive(state, 12.0, LoopStalled(1.9), answer(first, 10.2))
    drive(state, 12.49)
    assert health_of(state) == "ready"
    drive(state, 12.495, answer(second, 12.495))

    assert second.execute_s == pytest.approx(12.495 - 10.2 - 1.8)


def test_a_first_time_with_a_stall_in_it_is_no_measurement() -> None:
    """Nothing is expected of the device until an inference ran without one."""
    state = make_state()
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    drive(state, 9.0, LoopStalled(8.95), answer(batch, 9.0))
    assert (state.speeds.fastest_s(1), batch.execute_s) == (0.0, pytest.approx(0.05))
    (batch,) = drive(state, 10.0, Request(1, 1, 10.0)).dispatch
    drive(state, 10.2, answer(batch, 10.2))

    assert state.speeds.fastest_s(1) == pytest.approx(0.2)


def test_deadlines_go_on_during_a_stall() -> None:
    """`timeout_s` is real time; an answer from before the deadline still counts."""
    state = make_state(2)
    drive(state, 0.0, *requests(2, deadline=5.0))
    first, _second = state.batches.values()
    commands = drive(state, 9.0, LoopStalled(8.9), answer(first, 4.0))

    assert outcomes(commands.resolve) == [(0, "done"), (1, "expired")]


def test_a_failure_after_a_stall_still_counts() -> None:
    """A device that is lost is lost, and its time in metrics has no stall in it."""
    state = _at_work()
    batch = next(iter(state.batches.values()))
    batch_failed = answer(batch, 12.0)
    batch_failed.fault = Fault.LOST
    drive(state, 12.0, LoopStalled(1.9), batch_failed)

    assert health_of(state, batch.activation.device_id) == "quarantined"
    assert batch.execute_s == pytest.approx(0.1)


def test_answers_with_stalls_in_them_end_a_probation() -> None:
    """They show that the device works."""
    state, now = on_probation(num_activations=1), 2.0
    for number in range(1, 4):
        (batch,) = drive(state, now, Request(number, 1, now)).dispatch
        now += 5.0
        drive(state, now, LoopStalled(4.9), answer(batch, now))

    assert health_of(state) == "ready"


def test_a_stall_takes_time() -> None:
    """A stall of no seconds is an illegal event; with nothing at work, a stall changes nothing."""
    state = make_state()
    with pytest.raises(InternalError, match="does not fit"):
        state.handle(1.0, [LoopStalled(0.0)])

    assert drive(state, 2.0, LoopStalled(1.0)).reload == []
    drive(state, 3.0, Closed())
    drive(state, 4.0, LoopStalled(0.5))


# Correcting a time


@pytest.mark.parametrize(
    ("sent_at", "ended_at", "execute_s", "is_measured"),
    [
        (1.0, 1.9, 0.9, True),  # ended before the stall
        (4.0, 4.5, 0.5, True),  # sent after it
        (1.9, 2.2, 0.3, True),  # ended within it: the process ran on
        (1.9, 3.05, 0.15, False),  # mostly stall
        (2.5, 2.98, 0.1, False),  # just before its end is noticed: expected at least
        (1.0, 5.0, 3.0, True),  # mostly work
        (2.95, 2.99, 0.04, False),  # never longer than it took
    ],
)
def test_a_stall_is_taken_off(
    sent_at: float, ended_at: float, execute_s: float, is_measured: bool
) -> None:
    """All rules of `correct`, as a table; the stall is from 2 to 3."""
    stalls = Stalls()
    stalls.add(2.0, 3.0)
    batch = _batch(sent_at, ended_at)

    assert stalls.correct(batch) == is_measured
    assert batch.execute_s == pytest.approx(execute_s)


def test_several_stalls_are_taken_off_together() -> None:
    """An inference may span more than one."""
    stalls = Stalls()
    for number in range(1, 5):
        stalls.add(float(number), number + 0.5)
    batch = _batch(0.0, 4.6)

    assert stalls.correct(batch)
    assert batch.execute_s == pytest.approx(4.6 - 2.0)


def test_stalls_before_all_batches_are_forgotten() -> None:
    """And so are the oldest of very many."""
    stalls = Stalls()
    stalls.add(1.0, 2.0)
    stalls.add(3.0, 4.0)
    stalls.forget(2.5)
    assert list(stalls.recent) == [(3.0, 4.0)]
    for number in range(5, 100):
        stalls.add(float(number), number + 0.5)

    assert len(stalls.recent) == 16


def test_a_stall_is_forgotten_once_all_that_it_met_is_answered() -> None:
    """From then on no answer is compared with it."""
    state = _at_work()
    first, second = state.batches.values()
    drive(state, 12.0, LoopStalled(1.9), Request(9, 1, 12.0), answer(first, 12.0))
    assert len(state.stalls.recent) == 1
    drive(state, 12.1, answer(second, 12.1))

    assert len(state.stalls.recent) == 0
