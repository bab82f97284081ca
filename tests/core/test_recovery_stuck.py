"""Stuck devices: when they are noticed, and what happens to their batches."""

from __future__ import annotations

import pytest

from qaic_sched.core.events import Completed
from qaic_sched.core.model import Fault, Request
from tests.core.harness import (
    answer,
    answer_all,
    attempts_of,
    drive,
    health_of,
    held_by,
    lost,
    make_state,
    outcomes,
    places,
    requests,
)


def test_before_any_measurement_a_batch_is_stuck_after_a_minute() -> None:
    """`next_wakeup` returns the instant, and nothing happens before it."""
    state = make_state(devices=2)
    drive(state, 1.0, Request(0, 1, 1.0))
    assert (state.next_wakeup(), drive(state, 60.9).dispatch) == (61.0, [])

    assert places(drive(state, 61.0)) == [(1, 0)]
    assert health_of(state) == "quarantined"


@pytest.mark.parametrize(("execute_s", "timeout_s"), [(0.25, 12.5), (0.01, 5.0)])
def test_a_batch_is_stuck_after_fifty_execute_times(execute_s: float, timeout_s: float) -> None:
    """It is never stuck before five seconds."""
    state = make_state()
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    drive(state, execute_s, answer(batch, execute_s))
    drive(state, 10.0, Request(1, 1, 10.0))

    assert state.next_wakeup() == 10.0 + timeout_s


def test_the_first_answer_sets_the_limit_of_batches_in_flight() -> None:
    """A device that hangs from the start does not get the whole minute."""
    state = make_state(devices=2)
    _hung, batch = drive(state, 0.0, *requests(2)).dispatch
    drive(state, 0.25, answer(batch, 0.25))
    assert state.next_wakeup() == 12.5

    assert places(drive(state, 12.5)) == [(1, 0)]


def test_an_activation_that_answers_now_and_then_is_not_stuck() -> None:
    """The time counts from its last answer, not from the start of its busy period."""
    state = make_state(set_size=2, dispatch_timeout_s=2.0)
    drive(state, 0.0, *requests(20))
    for step in range(1, 10):
        now = 1.5 * step
        drive(state, now, answer(next(iter(state.batches.values())), now))
        assert len(state.batches) == 2

    assert (health_of(state), state.next_wakeup()) == ("ready", 15.5)


def test_the_slot_of_a_stuck_inference_stays_taken_until_its_late_answer() -> None:
    """That answer frees it and is ignored otherwise; the device stays in quarantine."""
    state = make_state(devices=2, dispatch_timeout_s=2.0)
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    (again,) = drive(state, 2.0).dispatch
    assert (batch.is_abandoned, batch.parts) == (True, [])
    assert state.statistics().devices[0].in_flight == 1
    assert outcomes(drive(state, 2.01, answer(again, 2.01)).resolve) == [(0, "done")]

    commands = drive(state, 2.05, answer(batch, 2.05))
    assert (commands.resolve, commands.dispatch) == ([], [])
    assert state.statistics().devices[0].in_flight == 0
    assert health_of(state) == "quarantined"


@pytest.mark.parametrize("fault", [None, *Fault])
def test_a_late_answer_does_not_count_for_health_or_speed(fault: Fault | None) -> None:
    """No failure is counted and no execution time is learned."""
    state = make_state(devices=2, dispatch_timeout_s=2.0)
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    drive(state, 2.0)
    wakeup = state.next_wakeup()
    drive(state, 2.01, Completed(batch.id, 2.01, fault))

    assert (state.next_wakeup(), state.ledger.speeds.by_device[0].group.times.likely_s(1)) == (
        wakeup,
        0.0,
    )


def test_all_batches_of_a_stuck_device_are_retried_at_once() -> None:
    """That includes all its activations; only the stuck batch counts as an attempt."""
    state = make_state(devices=2, num_activations=2, set_size=2, dispatch_timeout_s=2.0)
    drive(state, 0.0, *requests(8))
    drive(state, 1.0, *(answer(each, 1.0) for each in held_by(state, 1)))
    held = held_by(state, 0)
    ids = [each.parts[0].request.id for each in held]
    commands = drive(state, 2.0)

    assert [device_id for device_id, _ in places(commands)] == [1] * 4
    parts = [part for batch in commands.dispatch for part in batch.parts]
    assert [(part.request.id, attempts_of(part)) for part in parts] == [
        (request_id, int(request_id == ids[0])) for request_id in ids
    ]
    assert all(each.is_abandoned for each in held)
    drive(state, 2.05, *(answer(each, 2.05) for each in commands.dispatch))
    assert state.statistics().done == 8


def test_unanswered_batches_of_a_lost_device_are_abandoned() -> None:
    """After one batch failed as lost, the others are abandoned at the usual limit."""
    state = make_state(devices=2, set_size=3, dispatch_timeout_s=2.0)
    drive(state, 0.0, *requests(6))
    drive(state, 1.0, *(answer(each, 1.0) for each in held_by(state, 1)))
    first, second, third = held_by(state, 0)
    drive(state, 1.0, lost(first, 1.0))
    assert not any(each.is_abandoned for each in (second, third))
    elsewhere = held_by(state, 1)
    drive(state, 1.05, *(answer(each, 1.05) for each in elsewhere))
    drive(state, 3.0)

    assert second.is_abandoned
    assert third.is_abandoned
    drive(state, 3.5, *(answer(each, 3.5) for each in held_by(state, 1)))
    assert state.statistics().done == 6


def test_a_device_in_quarantine_is_still_watched() -> None:
    """After three failures its other activations hang, and each is abandoned at its own limit."""
    state = make_state(
        devices=2, num_activations=2, set_size=3, max_attempts=4, dispatch_timeout_s=2.0
    )
    drive(state, 0.0, *requests(12))
    held = held_by(state, 0)
    on_first = [each for each in held if each.activation.index == 0]
    drive(state, 0.5, *(answer(each, 0.5) for each in held_by(state, 1)))
    drive(state, 0.5, *(lost(each, 0.5, Fault.INFERENCE) for each in on_first))
    drive(state, 0.5, *(answer(each, 0.5) for each in held_by(state, 1)))
    assert health_of(state) == "quarantined"
    assert len(held_by(state, 0)) == 3
    drive(state, 2.0)

    assert all(each.is_abandoned for each in held_by(state, 0))
    while live := held_by(state, 1):
        drive(state, 2.0, *(answer(each, 2.0) for each in live))
    assert state.statistics().done == 12


def test_a_stuck_batch_of_an_expired_request_quarantines_the_device() -> None:
    """Nothing is retried, and the device gets no more work."""
    state = make_state(devices=2, dispatch_timeout_s=2.0)
    drive(state, 0.0, Request(0, 1, 0.0, deadline=1.0))
    assert outcomes(drive(state, 1.0).resolve) == [(0, "expired")]
    commands = drive(state, 2.0)

    assert (commands.dispatch, commands.resolve) == ([], [])
    assert health_of(state) == "quarantined"


def test_an_answer_at_the_very_instant_is_in_time() -> None:
    """Answers are handled before timeouts."""
    state = make_state(dispatch_timeout_s=2.0)
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    commands = drive(state, 2.0, answer(batch, 2.0))

    assert (outcomes(commands.resolve), health_of(state)) == ([(0, "done")], "ready")


def test_devices_that_hang_together_are_found_together() -> None:
    """No retry goes to a device that is found stuck in the same step."""
    state = make_state(devices=3, dispatch_timeout_s=2.0)
    drive(state, 0.0, *requests(2))
    commands = drive(state, 2.0)

    assert places(commands) == [(2, 0)]
    assert [health_of(state, each) for each in range(3)] == ["quarantined", "quarantined", "ready"]
    assert outcomes(answer_all(state, 2.5).resolve) == [(0, "done")]
