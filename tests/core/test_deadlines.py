"""Deadlines: when requests expire, in every state, and how the heap is compacted."""

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
    """A request without a deadline is not watched, and may be forgotten without effect."""
    heap, (request,) = _watched(None)
    _resolve(heap, request)

    assert len(heap) == 0
    assert heap.next_at() == math.inf
    assert heap.overdue(1e9) is None


def test_the_earliest_deadline_is_next() -> None:
    """The order of arrival does not matter; a request is overdue at its deadline, not before."""
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
    """The deadline of a resolved request causes no wakeup and no expiry."""
    heap, (first, second, _, _) = _watched(1.0, 2.0, 3.0, 4.0)
    _resolve(heap, first)
    _resolve(heap, second)

    assert heap.next_at() == 3.0
    assert heap.overdue(2.5) is None
    assert len(heap) == 2


def test_stale_deadlines_are_compacted_when_over_half() -> None:
    """The heap never holds more than twice the watched requests, and stays in order."""
    heap, arrivals = _watched(*(float(at) for at in range(1000, 0, -1)))
    for left, request in zip(range(999, 1, -1), arrivals, strict=False):
        _resolve(heap, request)
        assert len(heap) <= 2 * left

    assert heap.next_at() == 1.0
    assert len(heap) <= 4


def test_the_heap_stays_in_order_when_it_is_compacted() -> None:
    """The deadlines left after a compaction come in order."""
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
    """Served requests leave no entries, although an earlier deadline stays in front."""
    state = make_state(devices=2, dispatch_timeout_s=1e9)
    drive(state, 0.0, Request(0, 1, 0.0, deadline=1e8))
    for number in range(1, 1_001):
        now = float(number)
        (batch,) = drive(state, now, Request(number, 1, now, deadline=1e9)).dispatch
        drive(state, now, answer(batch, now))

    assert len(state.deadlines) <= 2
    assert state.next_wakeup() == 1e8


def test_a_queued_request_expires_at_its_deadline() -> None:
    """`next_wakeup` returns the deadline; at it the request is resolved and leaves the queue."""
    state = make_state(devices=0)
    drive(state, 0.0, Request(0, 2, 0.0, deadline=1.5), Request(1, 2, 0.0))
    assert state.next_wakeup() == 1.5
    assert drive(state, 1.49).resolve == []

    assert outcomes(drive(state, 1.5).resolve) == [(0, "expired")]
    assert state.next_wakeup() is None
    assert (state.statistics().expired, state.statistics().queued_samples) == (1, 2)


def test_a_waiting_request_expires_and_the_next_is_admitted() -> None:
    """The waiting request behind it is admitted in the same step."""
    state = make_state(devices=0, max_samples=2)
    drive(state, 0.0, Request(0, 2, 0.0, deadline=2.0), Request(1, 9, 0.0, deadline=1.0))
    drive(state, 0.0, Request(2, 1, 0.0))
    assert outcomes(drive(state, 1.0).resolve) == [(1, "expired")]
    assert state.statistics().waiting == 1

    assert outcomes(drive(state, 2.0).resolve) == [(0, "expired")]
    assert (state.statistics().waiting, state.statistics().queued) == (0, 1)


def test_a_request_in_flight_expires_and_keeps_its_slot_until_the_answer() -> None:
    """The slot stays taken, and the late answer is ignored."""
    state = make_state()
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0, deadline=1.0)).dispatch
    assert outcomes(drive(state, 1.0).resolve) == [(0, "expired")]
    assert drive(state, 2.0, Request(1, 1, 2.0)).dispatch == []
    statistics = state.statistics()
    assert (statistics.in_flight, statistics.queued, statistics.devices[0].in_flight) == (0, 1, 1)

    commands = drive(state, 3.0, answer(batch, 3.0))
    assert commands.resolve == []
    assert [cargo(each) for each in commands.dispatch] == [[(1, 0, 1)]]


def test_a_late_failure_of_an_expired_request_is_not_retried() -> None:
    """The answer only frees the slot."""
    state = make_state()
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0, deadline=1.0)).dispatch
    drive(state, 1.0)
    commands = drive(state, 2.0, answer(batch, 2.0, failed=True))

    assert (commands.resolve, commands.dispatch) == ([], [])
    assert state.statistics().failed == 0


def test_a_request_partly_in_flight_expires_as_a_whole() -> None:
    """Its queued samples leave the queue; its batches in flight keep their slots."""
    state = make_state(batch_sizes=(2,))
    (batch,) = drive(state, 0.0, Request(0, 5, 0.0, deadline=1.0)).dispatch
    assert outcomes(drive(state, 1.0).resolve) == [(0, "expired")]
    assert state.statistics().queued_samples == 0

    commands = drive(state, 2.0, answer(batch, 2.0))
    assert (commands.resolve, commands.dispatch) == ([], [])


def test_a_request_waiting_for_another_attempt_expires() -> None:
    """Its part is not sent when an activation becomes free."""
    state = make_state(devices=2)
    first, second = drive(state, 0.0, Request(0, 1, 0.0, deadline=2.0), Request(1, 1, 0.0)).dispatch
    drive(state, 1.0, answer(first, 1.0, failed=True))
    assert state.statistics().queued == 1
    assert outcomes(drive(state, 2.0).resolve) == [(0, "expired")]

    assert drive(state, 3.0, answer(second, 3.0)).dispatch == []
    assert len(state.retries) == 0


def test_an_answer_at_the_deadline_is_in_time() -> None:
    """Answers are handled before deadlines."""
    state = make_state()
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0, deadline=1.0)).dispatch

    assert outcomes(drive(state, 1.0, answer(batch, 1.0)).resolve) == [(0, "done")]


def test_an_expired_request_is_not_dispatched() -> None:
    """A request that arrives after its deadline expires in the same step, even on an idle host."""
    state = make_state()
    commands = drive(state, 5.0, Request(0, 1, 4.0, deadline=5.0))

    assert outcomes(commands.resolve) == [(0, "expired")]
    assert commands.dispatch == []


def test_all_overdue_requests_expire_in_one_step() -> None:
    """After a late call, they expire in the order of their deadlines."""
    state = make_state(devices=0)
    drive(state, 0.0, *_with_deadlines(3.0, 1.0, 2.0, 9.0))

    assert outcomes(drive(state, 4.0).resolve) == [(1, "expired"), (2, "expired"), (0, "expired")]
    assert state.next_wakeup() == 9.0


def test_the_wakeup_is_the_earlier_of_deadline_and_closing() -> None:
    """`next_wakeup` is the deadline or the closing of the batch, the earlier one."""
    state = make_state(batch_sizes=(8,), max_queue_delay_s=1.0)
    drive(state, 0.0, Request(0, 1, 0.0, deadline=5.0))
    assert state.next_wakeup() == 1.0
    drive(state, 0.5, Request(1, 1, 0.5, deadline=0.75))
    assert state.next_wakeup() == 0.75


def test_a_cancelled_requests_deadline_causes_no_wakeup() -> None:
    """The wakeup moves to the next deadline."""
    state = make_state(devices=0)
    drive(state, 0.0, *requests(1, deadline=1.0), *requests(1, first_id=1, deadline=2.0))
    drive(state, 0.5, Cancelled(0))

    assert state.next_wakeup() == 2.0
