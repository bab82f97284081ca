"""The oldest request of a queue and its earliest deadline."""

from __future__ import annotations

import math

from qaic_sched.core.model import Request, RequestState
from qaic_sched.core.queue_times import QueueTimes
from qaic_sched.core.request_queue import RequestQueue


def test_requests_that_left_are_skipped() -> None:
    """The times are those of the requests that are still in the queue."""
    early, late = Request(0, 1, 1.0, deadline=9.0), Request(1, 1, 2.0, deadline=5.0)
    gone: set[Request] = set()
    times = QueueTimes([early], lambda each: each not in gone)
    times.add(late)
    seen = [(times.oldest_at(), times.earliest_deadline())]
    gone.add(late)
    seen.append((times.oldest_at(), times.earliest_deadline()))
    gone.add(early)
    seen.append((times.oldest_at(), times.earliest_deadline()))

    assert seen == [(1.0, 5.0), (1.0, 9.0), (math.inf, math.inf)]


def test_a_request_without_a_deadline_has_an_arrival_only() -> None:
    """It is the oldest, and has no part in the deadlines."""
    times = QueueTimes([], lambda _: True)
    times.add(Request(0, 1, 3.0))

    assert (times.oldest_at(), times.earliest_deadline(), len(times)) == (3.0, math.inf, 1)


def test_a_queue_forgets_the_times_of_requests_that_left() -> None:
    """A thousand requests that come and go leave no more entries than a few."""
    queue = RequestQueue(RequestState.QUEUED)
    queue.push(Request(0, 1, 0.0))
    assert queue.oldest_at() == 0.0
    for number in range(1, 1001):
        queue.push(Request(number, 1, float(number), deadline=1e6))
        (part,) = queue.take_newest(1)
        assert part.request.id == number
        assert queue.oldest_at() == 0.0

    assert queue.earliest_deadline() == math.inf
    assert queue._times is not None
    assert len(queue._times) <= 12
