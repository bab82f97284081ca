"""The queue: order of service, taking parts, removal from the middle, bounded memory."""

from __future__ import annotations

import math

import pytest

from qaic_sched.core.model import Part, Request, RequestState
from qaic_sched.core.request_queue import STARVATION_BOUND, RequestQueue
from tests.core.harness import requests


def _filled(*arrivals: Request) -> RequestQueue:
    queue = RequestQueue(RequestState.QUEUED)
    for request in arrivals:
        queue.push(request)
    return queue


def _ids(queue: RequestQueue) -> list[int]:
    return [request.id for request in queue]


def _taken(parts: list[Part]) -> list[tuple[int, int, int]]:
    return [(part.request.id, part.offset, part.samples) for part in parts]


def _entries(queue: RequestQueue) -> int:
    queues = (each for level in queue._levels for each in level.queues.values())
    return sum(len(each.requests()) for each in queues)


def test_an_empty_queue_has_no_head_no_oldest_and_nothing_to_take() -> None:
    """All queries work on an empty queue."""
    queue = _filled()

    assert queue.head() is None
    assert queue.oldest_at() == math.inf
    assert queue.take(4) == []
    assert _ids(queue) == []


def test_equals_are_served_in_order_of_arrival() -> None:
    """In one priority, the first to arrive is served first."""
    queue = _filled(*requests(4))

    assert _ids(queue) == [0, 1, 2, 3]
    assert _taken(queue.take(3)) == [(0, 0, 1), (1, 0, 1), (2, 0, 1)]
    assert _ids(queue) == [3]


def test_a_higher_priority_is_served_first() -> None:
    """The order is from high to low, negative priorities included, for any order of arrival."""
    arrivals = [Request(index, 1, 0.0, priority=each) for index, each in enumerate([0, 2, -1, 2])]
    queue = _filled(*arrivals)

    assert _ids(queue) == [1, 3, 0, 2]
    assert [part.request.id for part in queue.take(4)] == [1, 3, 0, 2]
    assert queue.head() is None


def test_a_push_gives_the_request_this_queues_state() -> None:
    """The state of a request shows which queue it is in."""
    request = Request(0, 1, 0.0)
    RequestQueue(RequestState.QUEUED).push(request)

    assert request.state is RequestState.QUEUED


def test_counters_follow_every_push_take_and_pop() -> None:
    """Samples count until they are taken, bytes until the request's last sample is taken."""
    queue = _filled(*requests(2, samples=5, num_bytes=100))
    counts = [(queue.num_requests, queue.samples, queue.num_bytes)]
    queue.take(3)
    counts.append((queue.num_requests, queue.samples, queue.num_bytes))
    queue.take(2)
    counts.append((queue.num_requests, queue.samples, queue.num_bytes))
    head = queue.head()
    assert head is not None
    queue.pop(head)
    counts.append((queue.num_requests, queue.samples, queue.num_bytes))

    assert counts == [(2, 10, 200), (2, 7, 200), (1, 5, 100), (0, 0, 0)]


def test_a_large_request_is_taken_in_parts_by_its_cursor() -> None:
    """The head stays in front until its last sample is taken."""
    large, small = Request(0, 10, 0.0), Request(1, 2, 0.0)
    queue = _filled(large, small)

    assert _taken(queue.take(4)) == [(0, 0, 4)]
    assert _taken(queue.take(4)) == [(0, 4, 4)]
    assert (large.cursor, large.in_flight) == (8, 8)
    assert _taken(queue.take(4)) == [(0, 8, 2), (1, 0, 2)]
    assert (large.cursor, small.cursor, small.in_flight) == (10, 2, 2)


def test_a_later_higher_priority_goes_between_the_parts_of_a_large_request() -> None:
    """A large request does not delay one of higher priority."""
    queue = _filled(Request(0, 6, 0.0))
    queue.take(2)
    queue.push(Request(1, 1, 0.0, priority=1))

    assert _taken(queue.take(4)) == [(1, 0, 1), (0, 2, 3)]


def test_a_request_that_leaves_is_skipped_and_counted_out() -> None:
    """Its samples not yet taken and all its bytes are subtracted."""
    arrivals = requests(4, samples=2, num_bytes=10)
    queue = _filled(*arrivals)
    queue.take(1)
    queue.leave(arrivals[0], RequestState.CANCELLED)
    queue.leave(arrivals[2], RequestState.EXPIRED)

    assert (queue.num_requests, queue.samples, queue.num_bytes) == (2, 4, 20)
    assert (arrivals[0].state, arrivals[2].state) == (RequestState.CANCELLED, RequestState.EXPIRED)
    assert _ids(queue) == [1, 3]
    assert _taken(queue.take(8)) == [(1, 0, 2), (3, 0, 2)]
    assert queue.num_stale == 0


def test_the_oldest_is_found_among_all_priorities() -> None:
    """It is the first accepted request of all priorities, excluding requests that left."""
    low, high = Request(0, 1, 1.0), Request(1, 1, 2.0, priority=5)
    last = Request(2, 1, 3.0)
    queue = _filled(low, high, last)
    instants = [queue.oldest_at()]
    queue.leave(low, RequestState.CANCELLED)
    instants.append(queue.oldest_at())
    queue.take(1)
    instants.append(queue.oldest_at())
    queue.take(1)
    instants.append(queue.oldest_at())

    assert instants == [1.0, 2.0, 3.0, math.inf]


def test_a_priority_can_come_back_after_it_ran_empty() -> None:
    """A dropped priority level is made again, in its place."""
    queue = _filled(Request(0, 1, 0.0, priority=1), Request(1, 1, 0.0))
    queue.take(2)
    assert queue.head() is None
    queue.push(Request(2, 1, 0.0))
    queue.push(Request(3, 1, 0.0, priority=1))

    assert _ids(queue) == [3, 2]


def test_stale_entries_are_compacted_when_over_half() -> None:
    """There are never more than twice as many entries as requests, whichever requests leave."""
    arrivals = [Request(number, 1, 0.0, priority=number % 3) for number in range(300)]
    queue = _filled(*arrivals)
    most = 0.0
    for request in reversed(arrivals[3:]):
        queue.leave(request, RequestState.CANCELLED)
        most = max(most, _entries(queue) / queue.num_requests)

    assert most <= 2.0
    assert _entries(queue) <= 6
    assert _ids(queue) == [2, 1, 0]


def test_taking_keeps_stale_entries_under_half() -> None:
    """Served requests do not leave a majority of stale entries behind."""
    arrivals = requests(10)
    queue = _filled(*arrivals)
    for request in arrivals[5:]:
        queue.leave(request, RequestState.CANCELLED)
    queue.take(3)

    assert queue.num_stale <= queue.num_requests
    assert _ids(queue) == [3, 4]


def test_empty_priorities_are_dropped() -> None:
    """A thousand priorities, each used once, take no memory behind a lasting head."""
    queue = _filled(Request(0, 1, 0.0, priority=1))
    for number in range(1, 1001):
        request = Request(number, 1, 0.0, priority=-number)
        queue.push(request)
        queue.leave(request, RequestState.CANCELLED)

    assert len(queue._levels) <= 3
    assert _ids(queue) == [0]


# From the other end, for a device that is slow


def test_the_newest_requests_are_taken_whole() -> None:
    """The last one goes first; the first one that does not fit ends it."""
    first, second, third = (Request(each, 2, 0.0, num_bytes=10) for each in range(3))
    queue = _filled(first, second, third)

    assert _taken(queue.take_newest(5)) == [(2, 0, 2), (1, 0, 2)]
    assert (queue.num_requests, queue.samples, queue.num_bytes) == (1, 2, 10)
    assert [(each.cursor, each.in_flight) for each in (first, second, third)] == [
        (0, 0),
        (2, 2),
        (2, 2),
    ]
    assert _taken(queue.take_newest(5)) == [(0, 0, 2)]
    assert (queue.take_newest(5), queue.head(), queue.samples) == ([], None, 0)


def test_a_newest_request_that_is_too_large_takes_from_the_front() -> None:
    """The oldest requests are taken instead, the last of them in part."""
    queue = _filled(Request(0, 3, 0.0), Request(1, 5, 0.0))

    assert _taken(queue.take_newest(4)) == [(0, 0, 3), (1, 0, 1)]


def test_a_request_that_is_partly_dispatched_stays_with_the_front() -> None:
    """`take_newest` takes its remaining samples, beginning at its cursor."""
    request = Request(0, 5, 0.0)
    queue = _filled(request)
    queue.take(2)

    assert _taken(queue.take_newest(4)) == [(0, 2, 3)]
    assert (request.cursor, request.in_flight) == (5, 5)


def test_the_newest_are_those_of_the_most_urgent_priority() -> None:
    """A slow device serves no lower priority before a higher one."""
    queue = _filled(
        Request(0, 1, 0.0, priority=1), Request(1, 1, 0.0, priority=1), Request(2, 1, 0.0)
    )

    assert _taken(queue.take_newest(1)) == [(1, 0, 1)]
    assert _taken(queue.take_newest(4)) == [(0, 0, 1)]
    assert _taken(queue.take_newest(4)) == [(2, 0, 1)]


def test_a_request_that_left_is_not_taken_from_the_end() -> None:
    """Stale entries on the way are dropped and counted."""
    arrivals = requests(6)
    queue = _filled(*arrivals)
    for request in arrivals[4:]:
        queue.leave(request, RequestState.CANCELLED)
    assert queue.num_stale == 2

    assert _taken(queue.take_newest(2)) == [(3, 0, 1), (2, 0, 1)]
    assert (queue.num_stale, _entries(queue), _ids(queue)) == (0, 2, [0, 1])


def test_taking_the_newest_keeps_stale_entries_under_half() -> None:
    """The stale entries in front do not become the majority."""
    arrivals = requests(9)
    queue = _filled(*arrivals)
    for request in arrivals[1:5]:
        queue.leave(request, RequestState.CANCELLED)
    queue.take_newest(3)

    assert (queue.num_stale, _entries(queue), _ids(queue)) == (0, 2, [0, 5])


# A bound on starvation


def test_a_priority_that_is_passed_over_gets_one_sample_in_fifty() -> None:
    """The rest goes strictly by priority; each of two starved priorities gets the same."""
    queue = _filled(
        *requests(2000, priority=2),
        *requests(100, first_id=2000, priority=1),
        *requests(100, first_id=3000, priority=0),
    )
    taken = [queue.take(1)[0].request.priority for _ in range(1000)]

    assert taken[:STARVATION_BOUND] == [2] * STARVATION_BOUND
    assert (taken.count(1), taken.count(0)) == (19, 19)


def test_a_large_request_of_a_starved_priority_waits_longer_afterwards() -> None:
    """It gets a whole part at once; the larger that was, the longer its next part waits."""
    queue = _filled(*requests(100, samples=10, priority=1), Request(100, 500, 0.0))
    taken = [part for _ in range(60) for part in queue.take(10)]
    starved = sum(part.samples for part in taken if part.request.id == 100)

    assert 10 <= starved <= 20


def test_a_priority_that_ran_empty_is_not_starved() -> None:
    """Its next request is not served before more urgent ones."""
    queue = _filled(*requests(200, priority=1), Request(200, 1, 0.0))
    taken = [queue.take(1)[0].request.id for _ in range(100)]
    queue.push(Request(300, 1, 0.0))

    assert taken.index(200) == STARVATION_BOUND
    assert queue.take(1)[0].request.priority == 1


# What comes before a newcomer


def test_samples_before_a_newcomer() -> None:
    """They are those of higher priorities, and its tenant's if all of these come first."""
    queue = _filled(
        Request(0, 5, 0.0, priority=1),
        Request(1, 3, 0.0, deadline=2.0),
        Request(2, 9, 0.0, None, -1),
    )

    assert queue.samples_before(Request(3, 1, 0.0, deadline=3.0)) == 8
    assert queue.samples_before(Request(3, 1, 0.0, deadline=1.0)) == 5
    assert queue.samples_before(Request(3, 1, 0.0, priority=7)) == 0
    assert queue.samples_before(Request(3, 1, 0.0, priority=-1)) == 17


def test_samples_before_a_newcomer_follow_the_weights() -> None:
    """Its own six samples take twice as long if a tenant of equal weight is served as well."""
    queue = _filled(
        *requests(6, tenant="a"), *requests(60, first_id=6, tenant="b"), *requests(3, 66)
    )

    assert queue.samples_before(Request(99, 1, 0.0, tenant="a")) == pytest.approx(18)
    assert queue.samples_before(Request(99, 1, 0.0, tenant="b")) == 69
    assert queue.samples_before(Request(99, 1, 0.0, tenant="c")) == 0
