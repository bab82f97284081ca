"""Devices that fail or are lost: when they go into quarantine, and who gets their batches."""

from __future__ import annotations

import pytest

from qaic_sched.core.events import Completed
from qaic_sched.core.model import Fault, Request
from tests.core.harness import (
    answer,
    answer_all,
    attempts_of,
    cargo,
    drive,
    health_of,
    held_by,
    lost,
    make_state,
    outcomes,
    places,
    requests,
    serve_one,
)

GONE = [Fault.LOST, Fault.RESTARTED]


def test_a_device_that_fails_three_times_in_a_row_gets_no_more_work() -> None:
    """New requests go to the other device, or wait for it."""
    state = make_state(devices=2, max_attempts=1)
    for number in range(5):
        now = number / 100
        assert health_of(state) == "ready"
        (batch,) = drive(state, now, Request(number, 1, now)).dispatch
        fault = Fault.INFERENCE if batch.activation.device_id == 0 else None
        drive(state, now, Completed(batch.id, now, fault))

    assert (health_of(state), health_of(state, 1)) == ("quarantined", "ready")
    assert places(drive(state, 0.06, *requests(3, first_id=5))) == [(1, 0)]
    assert places(answer_all(state, 0.07)) == [(1, 0)]


def test_failures_with_a_success_between_are_forgiven() -> None:
    """A device that fails two of three batches stays ready."""
    state = make_state(max_attempts=1)
    ends = [
        serve_one(state, float(number), number, Fault.INFERENCE if number % 3 else None)
        for number in range(12)
    ]

    assert ends == ["done", "failed", "failed"] * 4
    assert health_of(state) == "ready"


@pytest.mark.parametrize("fault", GONE)
def test_batches_of_a_lost_device_are_retried_as_they_are_answered(fault: Fault) -> None:
    """The first answer starts the quarantine; each part is retried with its own batch's answer."""
    state = make_state(devices=2, set_size=2)
    drive(state, 0.0, *requests(4))
    drive(state, 0.5, *(answer(each, 0.5) for each in held_by(state, 1)))
    first, second = held_by(state, 0)
    commands = drive(state, 1.0, lost(first, 1.0, fault))
    assert health_of(state) == "quarantined"
    assert (places(commands), [cargo(each) for each in commands.dispatch]) == (
        [(1, 0)],
        [cargo(first)],
    )

    commands = drive(state, 1.0, lost(second, 1.0, fault))
    assert [cargo(each) for each in commands.dispatch] == [cargo(second)]
    assert outcomes(answer_all(state, 2.0).resolve) == [(0, "done"), (2, "done")]


@pytest.mark.parametrize("fault", GONE)
def test_a_lost_device_is_no_attempt(fault: Fault) -> None:
    """With two attempts a request survives several lost devices."""
    state = make_state(devices=5, max_attempts=2)
    request = Request(0, 1, 0.0)
    drive(state, 0.0, request)
    for _ in range(4):
        (batch,) = state.batches.values()
        assert drive(state, 0.01, lost(batch, 0.01, fault)).resolve == []
        assert attempts_of(batch.parts[0]) == 0

    assert outcomes(answer_all(state, 0.02).resolve) == [(0, "done")]


@pytest.mark.parametrize("fault", GONE)
def test_with_one_attempt_a_lost_device_fails_the_request(fault: Fault) -> None:
    """`max_attempts` 1 means that nothing is sent twice."""
    state = make_state(devices=2, max_attempts=1)
    request = Request(0, 1, 0.0)
    (batch,) = drive(state, 0.0, request).dispatch
    commands = drive(state, 1.0, lost(batch, 1.0, fault))

    assert (outcomes(commands.resolve), commands.dispatch) == ([(0, "failed")], [])
    assert request.last_batch is batch


@pytest.mark.parametrize("first", [Fault.INFERENCE, Fault.STUCK])
def test_a_failed_and_a_stuck_inference_are_attempts(first: Fault) -> None:
    """The request may be the cause, so the second one of either kind fails it."""
    state = make_state(devices=2, dispatch_timeout_s=4.0)
    request = Request(0, 1, 0.0)
    (batch,) = drive(state, 0.0, request).dispatch
    if first is Fault.STUCK:
        (again,) = drive(state, 4.0).dispatch
    else:
        (again,) = drive(state, 4.0, lost(batch, 4.0, first)).dispatch
    assert attempts_of(again.parts[0]) == 1

    commands = drive(state, 5.0, lost(again, 5.0, Fault.INFERENCE))
    assert outcomes(commands.resolve) == [(0, "failed")]
    assert request.last_batch is again
