"""How requests end early: cancellation, drain and close."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from qaic_sched.core.events import (
    Cancelled,
    Closed,
    Completed,
    DeviceOpened,
    DrainStarted,
)
from qaic_sched.core.model import Fault, Request
from qaic_sched.errors import InternalError
from tests.core.harness import (
    answer,
    answer_all,
    cargo,
    drive,
    make_state,
    outcomes,
    places,
    requests,
    snapshot,
    state_at_work,
)


def test_a_cancelled_queued_request_leaves_the_queue() -> None:
    """It is resolved at once and never dispatched."""
    state = make_state()
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    drive(state, 0.0, *requests(2, first_id=1))
    assert outcomes(drive(state, 0.5, Cancelled(1)).resolve) == [(1, "cancelled")]

    commands = drive(state, 1.0, answer(batch, 1.0))
    assert [cargo(each) for each in commands.dispatch] == [[(2, 0, 1)]]


def test_a_cancelled_waiting_request_is_never_admitted() -> None:
    """It is resolved at once."""
    state = make_state(devices=0, max_samples=1)
    drive(state, 0.0, *requests(3))
    assert outcomes(drive(state, 0.0, Cancelled(1)).resolve) == [(1, "cancelled")]

    drive(state, 0.0, Cancelled(0))
    assert [request.id for request in state.admission.queued] == [2]


def test_a_request_cancelled_in_flight_keeps_its_slot_until_the_answer() -> None:
    """It is resolved at once; the device's answer frees the slot and is ignored."""
    state = make_state()
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    assert outcomes(drive(state, 0.5, Cancelled(0)).resolve) == [(0, "cancelled")]
    assert drive(state, 0.5, Request(1, 1, 0.5)).dispatch == []
    assert state.statistics().devices[0].in_flight == 1

    commands = drive(state, 1.0, answer(batch, 1.0))
    assert (commands.resolve, places(commands)) == ([], [(0, 0)])


def test_cancelling_does_not_affect_others_in_the_batch() -> None:
    """The other requests of the batch are done."""
    state = make_state(batch_sizes=(4,))
    (batch,) = drive(state, 0.0, *requests(3)).dispatch
    drive(state, 0.5, Cancelled(1))

    assert outcomes(drive(state, 1.0, answer(batch, 1.0)).resolve) == [(0, "done"), (2, "done")]


def test_a_half_dispatched_request_is_cancelled_as_a_whole() -> None:
    """Its samples leave the queue, and the answers to the rest are ignored."""
    state = make_state(batch_sizes=(2,))
    drive(state, 0.0, Request(0, 9, 0.0))
    assert outcomes(drive(state, 0.5, Cancelled(0)).resolve) == [(0, "cancelled")]

    commands = answer_all(state, 1.0)
    assert (commands.resolve, commands.dispatch) == ([], [])
    assert state.statistics().queued_samples == 0


def test_a_request_is_cancelled_while_it_waits_for_another_attempt() -> None:
    """Its part is not retried."""
    state = make_state(devices=2)
    first, second = drive(state, 0.0, *requests(2)).dispatch
    drive(state, 1.0, answer(first, 1.0, failed=True))
    assert outcomes(drive(state, 1.0, Cancelled(0)).resolve) == [(0, "cancelled")]

    assert drive(state, 2.0, answer(second, 2.0)).dispatch == []


@pytest.mark.parametrize("end", ["done", "cancelled", "failed", "expired", "rejected"])
def test_cancelling_a_resolved_request_has_no_effect(end: str) -> None:
    """This holds for every final state."""
    state = make_state(max_samples=1, waits_when_full=False, max_attempts=1)
    drive(state, 0.0, Request(0, 1, 0.0, deadline=5.0))
    if end == "rejected":
        drive(state, 0.0, Request(1, 1, 0.0), Request(2, 1, 0.0))
    ends: dict[str, Callable[[], object]] = {
        "done": lambda: answer_all(state, 1.0),
        "cancelled": lambda: drive(state, 1.0, Cancelled(0)),
        "failed": lambda: drive(state, 1.0, Completed(0, 1.0, Fault.INFERENCE)),
        "expired": lambda: drive(state, 5.0),
        "rejected": lambda: drive(state, 1.0),
    }
    ends[end]()
    before = snapshot(state)
    commands = drive(state, state.now, Cancelled(2 if end == "rejected" else 0))

    assert (commands.resolve, snapshot(state)) == ([], before)
    assert getattr(state.statistics(), end) == 1


def test_a_drain_finishes_what_is_there() -> None:
    """Waiting, queued, in flight and retrying requests are done, and new ones raise."""
    state = make_state(devices=2, max_samples=2)
    drive(state, 0.0, *requests(8))
    drive(state, 0.0, DrainStarted())
    drive(state, 1.0, Completed(0, 1.0, Fault.INFERENCE))
    now = 1.0
    while state.requests:
        now += 1.0
        answer_all(state, now)
    with pytest.raises(InternalError):
        state.handle(now, [Request(8, 1, now)])

    assert state.statistics().done == 8
    assert state.is_draining
    assert not state.is_closed


def test_a_device_may_open_during_a_drain() -> None:
    """It takes part in the rest of the work."""
    state = make_state(devices=0)
    drive(state, 0.0, Request(0, 1, 0.0), DrainStarted())

    assert places(drive(state, 1.0, DeviceOpened(0, 1, 1))) == [(0, 0)]


def test_closing_cancels_everything_wherever_it_is() -> None:
    """Each request is resolved once, in the order of arrival; late answers are ignored."""
    state = state_at_work()
    commands = drive(state, 3.0, Closed())
    assert outcomes(commands.resolve) == [(1, "cancelled"), (2, "cancelled"), (3, "cancelled")]
    assert (commands.dispatch, state.next_wakeup()) == ([], None)
    assert sum(each.in_flight for each in state.statistics().devices.values()) > 0

    commands = answer_all(state, 4.0)
    assert (commands.resolve, commands.dispatch, state.batches) == ([], [], {})
    assert sum(each.in_flight for each in state.statistics().devices.values()) == 0


def test_closing_twice_resolves_no_request_twice() -> None:
    """The second close finds no requests."""
    state = state_at_work()
    drive(state, 2.0, Closed())

    assert drive(state, 3.0, Closed()).resolve == []


def test_closing_with_ten_thousand_waiting_resolves_each_once_and_keeps_nothing() -> None:
    """Queues and deadlines are empty afterwards, stale entries included."""
    state = make_state(max_samples=100)
    drive(state, 0.0, *requests(5_001, deadline=60.0))
    for urgent in range(3):
        drive(state, 0.0, *requests(1_700, 5_001 + 1_700 * urgent, priority=urgent))
    assert state.statistics().waiting == 10_000
    commands = drive(state, 1.0, Closed())

    assert Counter(commands.resolve).most_common(1)[0][1] == 1
    assert len(commands.resolve) == 10_101
    assert state.statistics().cancelled == 10_101
    assert len(state.deadlines) == 0
    queues = (state.admission.queued, state.admission.waiting)
    assert [(each.head(), each.samples, each.num_requests) for each in queues] == [(None, 0, 0)] * 2
