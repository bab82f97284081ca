"""Admission: the bounds of the queue, waiting for room, rejection."""

from __future__ import annotations

from qaic_sched.core.admission import Admission
from qaic_sched.core.events import Cancelled
from qaic_sched.core.model import Policy, Request
from qaic_sched.core.state import SchedulerState
from tests.core.harness import answer, answer_all, cargo, drive, make_state, outcomes, requests


def _queued_ids(state: SchedulerState) -> list[int]:
    return [request.id for request in state.admission.queued]


def _waiting_ids(state: SchedulerState) -> list[int]:
    return [request.id for request in state.admission.waiting]


def test_requests_beyond_the_bound_wait() -> None:
    """Exactly `max_samples` are queued; the next sample waits for room."""
    state = make_state(devices=0, max_samples=6)
    drive(state, 0.0, *requests(3, samples=2), Request(3, 1, 0.0))

    assert _queued_ids(state) == [0, 1, 2]
    assert _waiting_ids(state) == [3]
    assert state.statistics().queued_samples == 6


def test_a_request_never_overtakes_a_waiting_one_of_its_priority() -> None:
    """A small newcomer that would fit waits behind a large one of its priority."""
    state = make_state(devices=0, max_samples=4)
    drive(state, 0.0, Request(0, 3, 0.0), Request(1, 2, 0.0), Request(2, 1, 0.0))

    assert _queued_ids(state) == [0]
    assert _waiting_ids(state) == [1, 2]


def test_a_request_of_higher_priority_overtakes_waiting_ones() -> None:
    """Only waiting requests of equal or higher priority keep a newcomer out."""
    state = make_state(devices=0, max_samples=4)
    drive(state, 0.0, Request(0, 3, 0.0), Request(1, 2, 0.0), Request(2, 1, 0.0, priority=1))

    assert _queued_ids(state) == [2, 0]
    assert _waiting_ids(state) == [1]


def test_waiting_requests_are_ordered_like_queued_ones() -> None:
    """Waiting requests are ordered by priority, then arrival."""
    state = make_state(devices=0, max_samples=2)
    drive(state, 0.0, Request(0, 2, 0.0), Request(1, 1, 0.0))
    drive(state, 0.0, Request(2, 1, 0.0, priority=3), Request(3, 1, 0.0))

    assert _waiting_ids(state) == [2, 1, 3]


def test_waiting_requests_are_admitted_in_order_as_room_comes() -> None:
    """Each sample that leaves the queue admits the next requests that fit, never a later one."""
    state = make_state(batch_sizes=(2,), max_samples=4)
    arrivals = [Request(0, 2, 0.0), Request(1, 4, 0.0), Request(2, 3, 0.0), Request(3, 1, 0.0)]
    drive(state, 0.0, *arrivals)
    assert (_queued_ids(state), _waiting_ids(state)) == ([1], [2, 3])

    answer_all(state, 1.0)
    assert (_queued_ids(state), _waiting_ids(state)) == ([1], [2, 3])

    answer_all(state, 2.0)
    assert (_queued_ids(state), _waiting_ids(state)) == ([2, 3], [])


def test_cancelling_the_first_waiting_request_admits_the_next() -> None:
    """Cancelling a large waiting request admits the small one behind it at once."""
    state = make_state(devices=0, max_samples=4)
    drive(state, 0.0, Request(0, 3, 0.0), Request(1, 2, 0.0), Request(2, 1, 0.0))
    drive(state, 1.0, Cancelled(1))

    assert (_queued_ids(state), _waiting_ids(state)) == ([0, 2], [])


def test_a_request_larger_than_the_bound_is_admitted_alone() -> None:
    """It waits for an empty queue; others wait until its remaining samples are below the bound."""
    state = make_state(batch_sizes=(4,), max_samples=4)
    drive(state, 0.0, *requests(2, samples=4), Request(2, 9, 0.0), Request(3, 1, 0.0))
    assert (_queued_ids(state), _waiting_ids(state)) == ([1], [2, 3])

    answer_all(state, 1.0)
    assert (_queued_ids(state), _waiting_ids(state)) == ([2], [3])

    answer_all(state, 2.0)
    assert (_queued_ids(state), _waiting_ids(state)) == ([2], [3])

    answer_all(state, 3.0)
    assert (_queued_ids(state), _waiting_ids(state)) == ([2, 3], [])


def test_a_request_larger_than_the_bound_is_rejected_unless_the_queue_is_empty() -> None:
    """Without waiting, it is queued if the queue is empty, and rejected otherwise."""
    state = make_state(devices=0, max_samples=4, waits_when_full=False)
    rejected = drive(state, 0.0, Request(0, 9, 0.0), Request(1, 9, 0.0)).resolve

    assert _queued_ids(state) == [0]
    assert outcomes(rejected) == [(1, "rejected")]


def test_bytes_are_bounded_like_samples() -> None:
    """Exactly `max_bytes` are queued; one byte more waits; a request above the bound goes alone."""
    state = make_state(devices=0, max_bytes=100)
    drive(state, 0.0, *requests(2, num_bytes=50), Request(2, 1, 0.0, num_bytes=1))
    assert (_queued_ids(state), _waiting_ids(state)) == ([0, 1], [2])

    drive(state, 1.0, Request(3, 1, 1.0, num_bytes=500), Cancelled(0), Cancelled(1), Cancelled(2))
    assert (_queued_ids(state), _waiting_ids(state)) == ([3], [])
    assert state.statistics().queued_bytes == 500


def test_both_bounds_must_hold() -> None:
    """Room for the bytes does not admit a request without room for its samples."""
    state = make_state(devices=0, max_samples=2, max_bytes=100)
    drive(state, 0.0, Request(0, 1, 0.0, num_bytes=10), Request(1, 2, 0.0, num_bytes=10))

    assert _waiting_ids(state) == [1]


def test_samples_in_flight_do_not_count_against_the_bound() -> None:
    """The bound is on queued samples only."""
    state = make_state(set_size=4, max_samples=2)
    drive(state, 0.0, *requests(4))
    drive(state, 0.0, *requests(2, first_id=4))

    assert state.statistics().in_flight == 4
    assert (_queued_ids(state), _waiting_ids(state)) == ([4, 5], [])


def test_a_rejected_request_is_resolved_at_once_and_not_accepted() -> None:
    """A rejection changes no counter but its own."""
    state = make_state(devices=0, max_samples=1, waits_when_full=False)
    late = Request(1, 1, 0.0, deadline=5.0)
    commands = drive(state, 0.0, Request(0, 1, 0.0), late)
    statistics = state.statistics()

    assert outcomes(commands.resolve) == [(1, "rejected")]
    assert (statistics.accepted, statistics.rejected, statistics.queued, statistics.waiting) == (
        1,
        1,
        1,
        0,
    )
    assert state.next_wakeup() is None
    assert 1 not in state.requests


def test_dispatch_between_arrivals_of_one_call_makes_room() -> None:
    """A request is not rejected while devices could take the samples that fill the queue."""
    state = make_state(devices=2, batch_sizes=(2,), max_samples=2, waits_when_full=False)
    commands = drive(state, 0.0, *requests(4, samples=2))

    assert [cargo(each) for each in commands.dispatch] == [[(0, 0, 2)], [(1, 0, 2)]]
    assert outcomes(commands.resolve) == [(3, "rejected")]
    assert _queued_ids(state) == [2]


def test_an_expired_request_makes_room_for_a_newcomer() -> None:
    """A request is not rejected because of one that expires in the same step."""
    state = make_state(max_samples=1, waits_when_full=False)
    drive(state, 0.0, Request(0, 1, 0.0))
    drive(state, 0.0, Request(1, 1, 0.0, deadline=1.0))
    commands = drive(state, 1.0, Request(2, 1, 1.0))

    assert outcomes(commands.resolve) == [(1, "expired")]
    assert _queued_ids(state) == [2]


def test_an_expired_request_is_not_dispatched_to_make_room() -> None:
    """The free slot goes to the newcomer, not to a request that expires in this step."""
    state = make_state(max_samples=1, waits_when_full=False)
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    drive(state, 0.0, Request(1, 1, 0.0, deadline=1.0))
    commands = drive(state, 1.0, answer(batch, 1.0), Request(2, 1, 1.0))

    assert outcomes(commands.resolve) == [(0, "done"), (1, "expired")]
    assert [cargo(each) for each in commands.dispatch] == [[(2, 0, 1)]]


def test_retry_after_is_unknown_before_anything_is_measured() -> None:
    """Before the first answer there is no estimate; a failed inference measures nothing."""
    state = make_state(max_samples=1, waits_when_full=False, max_attempts=1)
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    before = drive(state, 0.5, *requests(2, first_id=1)).resolve
    drive(state, 1.0, answer(batch, 1.0, failed=True))
    after = drive(state, 1.0, *requests(2, first_id=3)).resolve

    assert [(each.id, each.retry_after_s) for each in before] == [(2, None)]
    assert [(each.id, each.retry_after_s) for each in after] == [(4, None)]


def test_retry_after_is_the_time_to_serve_the_excess() -> None:
    """It is the mean execution time times the batches that must leave per activation."""
    state = make_state(
        devices=2, num_activations=2, batch_sizes=(4,), max_samples=20, waits_when_full=False
    )
    drive(state, 0.0, *requests(4, samples=4))
    answer_all(state, 0.8)
    drive(state, 0.8, *requests(4, first_id=4, samples=4))
    drive(state, 0.8, *requests(5, first_id=8, samples=4))
    arrivals = [Request(13, 1, 0.8), Request(14, 9, 0.8), Request(15, 500, 0.8)]
    rejected = drive(state, 0.8, *arrivals).resolve

    # 1 of 20 samples must leave: one batch; 9: three; more than there are: five.
    expected = [1 * 0.8 / 4, 3 * 0.8 / 4, 5 * 0.8 / 4]
    assert [request.retry_after_s for request in rejected] == expected


def test_retry_after_for_lack_of_bytes_is_one_batch() -> None:
    """If the samples would fit, at least one batch must leave before the bytes do."""
    state = make_state(max_samples=100, max_bytes=10, waits_when_full=False)
    drive(state, 0.0, Request(0, 1, 0.0))
    answer_all(state, 0.5)
    drive(state, 0.5, Request(1, 1, 0.5))
    commands = drive(state, 0.5, *requests(2, first_id=2, num_bytes=10))

    assert [request.retry_after_s for request in commands.resolve] == [0.5]


def test_samples_over_is_between_one_and_the_queued_samples() -> None:
    """The estimate never exceeds the samples in the queue."""
    admission = Admission(Policy(max_samples=10))
    admission.arrive(Request(0, 8, 0.0))

    assert [admission.samples_over(Request(1, each, 0.0)) for each in (1, 4, 99)] == [1, 2, 8]


def test_a_higher_priority_is_served_before_earlier_arrivals() -> None:
    """The priority decides which request goes into the next batch."""
    state = make_state(batch_sizes=(2,))
    drive(state, 0.0, *requests(5))
    drive(state, 0.0, Request(5, 1, 0.0, priority=1))

    assert [cargo(each) for each in answer_all(state, 1.0).dispatch] == [[(5, 0, 1), (2, 0, 1)]]
