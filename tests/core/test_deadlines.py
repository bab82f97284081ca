"""Deadlines: when they come, where they find the request, and what the heap remembers."""

from __future__ import annotations

import math

from qaic_sched.core.deadlines import Deadlines
from qaic_sched.core.events import Cancelled
from qaic_sched.core.model import Request, RequestState
from tests.core.harness import answer, cargo, drive, make_state, outcomes, requests


def _with_deadlines(*deadlines: float | None) -> list[Request]:
    return [Request(number, 1, 0.0, deadline=each) for number, each in enumerate(deadlines)]


def _watched(*deadlines: float | None) -> tuple[Deadlines, list[Request]]:
    heap = Deadlines()
    arrivals = _with_deadlines(*deadlines)
    for request in arrivals:
        heap.add(request)
    return heap, arrivals


def _resolve(heap: Deadlines, request: Request) -> None:
    request.state = RequestState.DONE
    heap.forget(request)


def test_no_deadline_is_never() -> None:
    """A request without a deadline is not watched, and can be forgotten all the same."""
    heap, (request,) = _watched(None)
    _resolve(heap, request)

    assert len(heap) == 0
    assert heap.next_at() == math.inf
    assert heap.overdue(1e9) is None


def test_the_earliest_deadline_is_next() -> None:
    """Whatever order they came in; a request is overdue at its deadline, not before."""
    heap, (_, early, _) = _watched(3.0, 1.0, 2.0)

    assert heap.next_at() == 1.0
    assert heap.overdue(0.999) is None
    assert heap.overdue(1.0) is early


def test_equal_deadlines_come_in_order_of_arrival() -> None:
    """Requests themselves are never compared."""
    heap, arrivals = _watched(1.0, 1.0, 1.0)
    order = []
    while (request := heap.overdue(1.0)) is not None:
        order.append(request.id)
        _resolve(heap, request)

    assert order == [0, 1, 2]
    assert all(request.is_resolved for request in arrivals)


def test_resolved_requests_are_skipped() -> None:
    """A deadline that no longer matters neither wakes nor expires anybody."""
    heap, (first, second, _, _) = _watched(1.0, 2.0, 3.0, 4.0)
    _resolve(heap, first)
    _resolve(heap, second)

    assert heap.next_at() == 3.0
    assert heap.overdue(2.5) is None
    assert len(heap) == 2


def test_stale_deadlines_are_compacted_when_over_half() -> None:
    """The heap never holds more than twice what is watched, and stays in order."""
    heap, arrivals = _watched(*(float(at) for at in range(1000, 0, -1)))
    for left, request in zip(range(999, 1, -1), arrivals, strict=False):
        _resolve(heap, request)
        assert len(heap) <= 2 * left

    assert heap.next_at() == 1.0
    assert len(heap) <= 4


def test_the_heap_stays_in_order_when_it_is_compacted() -> None:
    """Deadlines left after a compaction still come one after the other."""
    heap, arrivals = _watched(*(float(number * 37 % 101) for number in range(101)))
    by_deadline = sorted(arrivals, key=lambda each: each.deadline or 0.0)
    for request in by_deadline[:60]:
        _resolve(heap, request)
    assert len(heap) < 101
    order = []
    while (overdue := heap.overdue(1e9)) is not None:
        order.append(overdue)
        _resolve(heap, overdue)

    assert order == by_deadline[60:]


def test_the_heap_is_bounded_under_a_stream_of_requests_with_far_deadlines() -> None:
    """What was served leaves nothing behind, though a nearer deadline stands before it."""
    state = make_state(devices=2, dispatch_timeout_s=1e9)
    drive(state, 0.0, Request(0, 1, 0.0, deadline=1e8))
    for number in range(1, 1_001):
        now = float(number)
        (batch,) = drive(state, now, Request(number, 1, now, deadline=1e9)).dispatch
        drive(state, now, answer(batch, now))

    assert len(state.deadlines) <= 2
    assert state.next_wakeup() == 1e8


def test_a_queued_request_expires_at_its_deadline() -> None:
    """`next_wakeup` names the deadline; at it the request is resolved and leaves the queue."""
    state = make_state(devices=0)
    drive(state, 0.0, Request(0, 2, 0.0, deadline=1.5), Request(1, 2, 0.0))
    assert state.next_wakeup() == 1.5
    assert drive(state, 1.49).resolve == []

    assert outcomes(drive(state, 1.5).resolve) == [(0, "expired")]
    assert state.next_wakeup() is None
    assert (state.statistics().expired, state.statistics().queued_samples) == (1, 2)


def test_a_waiting_request_expires_and_lets_in_the_next() -> None:
    """The one behind it at the door is admitted in the same step."""
    state = make_state(devices=0, max_samples=2)
    drive(state, 0.0, Request(0, 2, 0.0, deadline=2.0), Request(1, 9, 0.0, deadline=1.0))
    drive(state, 0.0, Request(2, 1, 0.0))
    assert outcomes(drive(state, 1.0).resolve) == [(1, "expired")]
    assert state.statistics().waiting == 1

    assert outcomes(drive(state, 2.0).resolve) == [(0, "expired")]
    assert (state.statistics().waiting, state.statistics().queued) == (0, 1)


def test_a_request_in_flight_expires_and_keeps_its_slot_until_the_answer() -> None:
    """The device still holds it: the slot is not free, and the late answer reaches nobody."""
    state = make_state()
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0, deadline=1.0)).dispatch
    assert outcomes(drive(state, 1.0).resolve) == [(0, "expired")]
    assert drive(state, 2.0, Request(1, 1, 2.0)).dispatch == []
    told = state.statistics()
    assert (told.in_flight, told.queued, told.devices[0].in_flight) == (0, 1, 1)

    commands = drive(state, 3.0, answer(batch, 3.0))
    assert commands.resolve == []
    assert [cargo(each) for each in commands.dispatch] == [[(1, 0, 1)]]


def test_a_late_failure_of_an_expired_request_is_not_tried_again() -> None:
    """It frees the slot, and that is all."""
    state = make_state()
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0, deadline=1.0)).dispatch
    drive(state, 1.0)
    commands = drive(state, 2.0, answer(batch, 2.0, failed=True))

    assert (commands.resolve, commands.dispatch) == ([], [])
    assert state.statistics().failed == 0


def test_a_request_partly_in_flight_expires_as_a_whole() -> None:
    """What is left in the queue leaves it; what is in flight keeps its slot."""
    state = make_state(batch_sizes=(2,))
    (batch,) = drive(state, 0.0, Request(0, 5, 0.0, deadline=1.0)).dispatch
    assert outcomes(drive(state, 1.0).resolve) == [(0, "expired")]
    assert state.statistics().queued_samples == 0

    commands = drive(state, 2.0, answer(batch, 2.0))
    assert (commands.resolve, commands.dispatch) == ([], [])


def test_a_request_waiting_for_another_attempt_expires() -> None:
    """Its part is skipped when an activation would be free for it."""
    state = make_state(devices=2)
    first, second = drive(state, 0.0, Request(0, 1, 0.0, deadline=2.0), Request(1, 1, 0.0)).dispatch
    drive(state, 1.0, answer(first, 1.0, failed=True))
    assert state.statistics().queued == 1
    assert outcomes(drive(state, 2.0).resolve) == [(0, "expired")]

    assert drive(state, 3.0, answer(second, 3.0)).dispatch == []
    assert len(state.retries) == 0


def test_an_answer_at_the_deadline_is_in_time() -> None:
    """What happened is taken in before what is due is decided."""
    state = make_state()
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0, deadline=1.0)).dispatch

    assert outcomes(drive(state, 1.0, answer(batch, 1.0)).resolve) == [(0, "done")]


def test_an_expired_request_is_not_dispatched() -> None:
    """One that arrives too late is resolved in the same step, whatever is idle."""
    state = make_state()
    commands = drive(state, 5.0, Request(0, 1, 4.0, deadline=5.0))

    assert outcomes(commands.resolve) == [(0, "expired")]
    assert commands.dispatch == []


def test_all_that_is_overdue_expires_in_one_step_in_order_of_deadline() -> None:
    """A late call makes up for all that was due."""
    state = make_state(devices=0)
    drive(state, 0.0, *_with_deadlines(3.0, 1.0, 2.0, 9.0))

    assert outcomes(drive(state, 4.0).resolve) == [(1, "expired"), (2, "expired"), (0, "expired")]
    assert state.next_wakeup() == 9.0


def test_the_wakeup_is_the_earlier_of_deadline_and_closing() -> None:
    """Whichever comes first."""
    state = make_state(batch_sizes=(8,), max_queue_delay_s=1.0)
    drive(state, 0.0, Request(0, 1, 0.0, deadline=5.0))
    assert state.next_wakeup() == 1.0
    drive(state, 0.5, Request(1, 1, 0.5, deadline=0.75))
    assert state.next_wakeup() == 0.75


def test_a_cancelled_requests_deadline_wakes_nobody() -> None:
    """The wakeup moves on to the next that matters."""
    state = make_state(devices=0)
    drive(state, 0.0, *requests(1, deadline=1.0), *requests(1, first_id=1, deadline=2.0))
    drive(state, 0.5, Cancelled(0))

    assert state.next_wakeup() == 2.0
