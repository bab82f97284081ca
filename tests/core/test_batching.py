"""When a batch closes and which size it has: padding, splitting, late binding, waiting, drain."""

from __future__ import annotations

import math

import pytest

from qaic_sched.core.batching import cheapest_size, closes_at, compiled_size
from qaic_sched.core.events import Cancelled, DeviceOpened, DrainStarted
from qaic_sched.core.model import Batch, Policy, Request, RequestState
from qaic_sched.core.request_queue import RequestQueue
from qaic_sched.core.state import SchedulerState
from tests.core.harness import (
    answer,
    answer_all,
    cargo,
    drive,
    make_activation,
    make_state,
    outcomes,
    places,
    requests,
)


@pytest.mark.parametrize(
    ("samples", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 16), (15, 16), (16, 16)]
)
def test_the_smallest_compiled_size_that_holds_the_samples(samples: int, size: int) -> None:
    """The padding is as small as the compiled sizes allow."""
    assert compiled_size(Policy(batch_sizes=(1, 2, 4, 16)), samples) == size


@pytest.mark.parametrize(
    ("samples", "in_flight", "can_grow", "expected"),
    [
        (4, 0, True, -math.inf),  # full: at once
        (9, 1, True, -math.inf),  # full: even behind a running one
        (3, 1, True, math.inf),  # partial behind a running one: not before it answers
        (3, 1, False, math.inf),  # not even if no request can join
        (2, 0, True, 10.5),  # partial, on an idle activation: waits for more samples
        (2, 0, False, -math.inf),  # no request can join: no wait
        (3, 0, True, -math.inf),  # the queue is full: no request can join
    ],
)
def test_when_the_next_batch_closes(
    samples: int, in_flight: int, can_grow: bool, expected: float
) -> None:
    """All rules of `closes_at`, as a table."""
    queue = RequestQueue(RequestState.QUEUED)
    queue.push(Request(0, samples, 10.0))
    policy = Policy(batch_sizes=(4,), max_samples=3, max_queue_delay_s=0.5)

    activation = make_activation(0, 0)
    activation.held = [Batch(0, activation, 4, 4, [], 10.0)] * in_flight

    assert closes_at(policy, queue, activation, can_grow=can_grow) == expected


def test_requests_are_packed_into_one_batch_and_the_rest_is_padding() -> None:
    """Three samples of two requests go as one inference of compiled size 4."""
    state = make_state(batch_sizes=(1, 2, 4))
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0), Request(1, 2, 0.0)).dispatch

    assert cargo(batch) == [(0, 0, 1), (1, 0, 2)]
    assert (batch.size, batch.samples, batch.submitted_at) == (4, 3, 0.0)


def test_a_large_request_is_split_over_batches_and_done_with_the_last() -> None:
    """One request takes as many batches as it needs and is done once."""
    state = make_state(devices=2, batch_sizes=(1, 4))
    large = Request(0, 9, 0.0)
    first, second = drive(state, 0.0, large).dispatch
    assert (cargo(first), cargo(second)) == ([(0, 0, 4)], [(0, 4, 4)])
    assert (large.state, large.cursor) == (RequestState.QUEUED, 8)

    commands = drive(state, 1.0, answer(second, 1.0))
    (third,) = commands.dispatch
    assert (cargo(third), third.size, commands.resolve) == ([(0, 8, 1)], 1, [])
    assert (large.state, large.in_flight) == (RequestState.IN_FLIGHT, 5)

    assert drive(state, 2.0, answer(first, 2.0)).resolve == []
    assert outcomes(drive(state, 3.0, answer(third, 3.0)).resolve) == [(0, "done")]
    assert large.last_batch is third


def test_the_end_of_one_request_shares_a_batch_with_the_start_of_the_next() -> None:
    """There is no padding between requests while more samples are queued."""
    state = make_state(set_size=3, batch_sizes=(4,))
    dispatch = drive(state, 0.0, Request(0, 6, 0.0), Request(1, 6, 0.0)).dispatch

    assert [cargo(each) for each in dispatch] == [
        [(0, 0, 4)],
        [(0, 4, 2), (1, 0, 2)],
        [(1, 2, 4)],
    ]


def test_full_batches_are_committed_up_to_set_size() -> None:
    """An activation holds `set_size` full batches and no more."""
    state = make_state(set_size=2, batch_sizes=(4,))
    commands = drive(state, 0.0, Request(0, 40, 0.0))

    assert [cargo(each) for each in commands.dispatch] == [[(0, 0, 4)], [(0, 4, 4)]]
    assert len(drive(state, 1.0, answer(commands.dispatch[0], 1.0)).dispatch) == 1


def test_a_partial_batch_is_never_bound_behind_a_running_one() -> None:
    """It stays in the queue, is joined by newcomers, and goes when the activation is idle."""
    state = make_state(set_size=4, batch_sizes=(4,))
    (first,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    assert drive(state, 0.1, Request(1, 1, 0.1)).dispatch == []
    assert drive(state, 0.2, Request(2, 2, 0.2)).dispatch == []
    assert state.next_wakeup() == 60.0  # when the first would count as stuck

    (second,) = drive(state, 1.0, answer(first, 1.0)).dispatch
    assert cargo(second) == [(1, 0, 1), (2, 0, 2)]


def test_a_batch_that_becomes_full_goes_behind_a_running_one() -> None:
    """The sample that fills the batch dispatches it."""
    state = make_state(set_size=4, batch_sizes=(4,))
    drive(state, 0.0, Request(0, 1, 0.0))
    assert drive(state, 0.1, Request(1, 3, 0.1)).dispatch == []
    (full,) = drive(state, 0.2, Request(2, 1, 0.2)).dispatch

    assert cargo(full) == [(1, 0, 3), (2, 0, 1)]


def test_a_partial_batch_goes_to_the_idle_one_of_several() -> None:
    """A busy activation does not delay a partial batch while another one is idle."""
    state = make_state(devices=2, set_size=4, batch_sizes=(4,))

    assert places(drive(state, 0.0, Request(0, 1, 0.0))) == [(0, 0)]
    assert places(drive(state, 0.1, Request(1, 1, 0.1))) == [(1, 0)]
    assert places(drive(state, 0.2, Request(2, 1, 0.2))) == []


def test_without_a_queue_delay_a_partial_batch_goes_at_once() -> None:
    """By default a partial batch does not wait while an activation is idle."""
    state = make_state(batch_sizes=(8,))

    assert len(drive(state, 0.0, Request(0, 1, 0.0)).dispatch) == 1


def test_a_partial_batch_waits_exactly_max_queue_delay_s() -> None:
    """`next_wakeup` returns the instant; the batch goes then, and not before."""
    state = make_state(batch_sizes=(8,), max_queue_delay_s=0.25)
    assert drive(state, 1.0, Request(0, 1, 1.0)).dispatch == []
    assert state.next_wakeup() == 1.25
    assert drive(state, 1.125, Request(1, 1, 1.125)).dispatch == []
    assert state.next_wakeup() == 1.25

    (batch,) = drive(state, 1.25).dispatch
    assert cargo(batch) == [(0, 0, 1), (1, 0, 1)]
    assert state.next_wakeup() == 61.25  # when it would count as stuck


def test_the_wait_of_a_partial_batch_ends_when_it_is_full() -> None:
    """A full batch goes at once; the rest of the samples waits from its own arrival."""
    state = make_state(devices=2, batch_sizes=(4,), max_queue_delay_s=0.25)
    drive(state, 1.0, Request(0, 3, 1.0))
    (batch,) = drive(state, 1.125, Request(1, 2, 1.125)).dispatch

    assert cargo(batch) == [(0, 0, 3), (1, 0, 1)]
    assert state.next_wakeup() == 1.375


def test_the_wait_counts_from_the_oldest_request_of_all_priorities() -> None:
    """A newcomer of higher priority does not restart the wait."""
    state = make_state(batch_sizes=(8,), max_queue_delay_s=0.25)
    drive(state, 1.0, Request(0, 1, 1.0))
    drive(state, 1.125, Request(1, 1, 1.125, priority=3))

    assert state.next_wakeup() == 1.25


def test_the_wait_ends_when_no_request_is_left() -> None:
    """Cancelling the oldest request moves the wakeup; cancelling all ends it."""
    state = make_state(batch_sizes=(8,), max_queue_delay_s=0.25)
    drive(state, 1.0, Request(0, 1, 1.0))
    drive(state, 1.125, Request(1, 1, 1.125))
    drive(state, 1.125, Cancelled(0))
    assert state.next_wakeup() == 1.375

    drive(state, 1.125, Cancelled(1))
    assert state.next_wakeup() is None


def test_time_behind_running_inferences_counts_as_waiting() -> None:
    """A partial batch that is old enough goes as soon as an activation is idle."""
    state = make_state(batch_sizes=(4,), max_queue_delay_s=0.25)
    (first,) = drive(state, 0.0, Request(0, 4, 0.0)).dispatch
    drive(state, 0.5, Request(1, 1, 0.5))
    assert state.next_wakeup() == 60.0  # when the first would count as stuck

    (second,) = drive(state, 1.0, answer(first, 1.0)).dispatch
    assert cargo(second) == [(1, 0, 1)]


def test_without_a_device_there_is_no_wait() -> None:
    """Without an activation there is no wakeup; a device that opens takes the queue."""
    state = make_state(devices=0, batch_sizes=(8,), max_queue_delay_s=0.25)
    drive(state, 1.0, Request(0, 1, 1.0))
    assert state.next_wakeup() is None

    assert len(drive(state, 2.0, DeviceOpened(0, 1, 1)).dispatch) == 1


def test_a_drain_ends_the_wait() -> None:
    """In a drain partial batches go at once, those in the queue and later ones."""
    state = make_state(batch_sizes=(4,), max_queue_delay_s=9.0)
    drive(state, 0.0, Request(0, 5, 0.0))
    drive(state, 0.0, DrainStarted())
    assert state.next_wakeup() == 60.0  # when the one in flight would count as stuck

    commands = answer_all(state, 1.0)
    assert [cargo(each) for each in commands.dispatch] == [[(0, 4, 1)]]
    assert outcomes(answer_all(state, 2.0).resolve) == [(0, "done")]
    assert drive(state, 3.0, DrainStarted()).resolve == []


# Sizes by their cost

CONVEX_MS = {1: 4.0, 2: 5.0, 4: 7.0, 8: 10.0}
LINEAR_MS = {1: 1.2, 2: 2.3, 4: 4.3, 8: 8.3}


def _measured(costs_ms: dict[int, float], times: int = 4, **host: int) -> SchedulerState:
    """Return a state whose activations have answered batches of each size in the given times."""
    state = make_state(batch_sizes=tuple(costs_ms), **host)
    for size, cost_ms in costs_ms.items():
        for _ in range(times):
            state.ledger.learn(0, size, cost_ms / 1e3)
    return state


def _sizes(state: SchedulerState, *arriving: Request) -> list[tuple[int, int]]:
    """Return (size, samples) of each batch that goes at once."""
    dispatch = drive(state, 0.0, *arriving).dispatch
    return [(batch.size, batch.samples) for batch in dispatch]


@pytest.mark.parametrize(
    ("samples", "costs_ms", "size"),
    [
        (18, {16: 10.0, 32: 18.0}, 16),  # 10/16 is less than 18/18
        (31, {16: 10.0, 32: 18.0}, 32),  # 18/31 is less than 10/16
        (5, CONVEX_MS, 4),
        (7, CONVEX_MS, 8),
        (3, CONVEX_MS, 4),
        (3, {2: 2.0, 4: 3.0}, 4),  # a tie: one inference rather than two
        (5, {4: 7.0}, 8),  # the cost of 8 is unknown
        (5, {8: 10.0}, 8),  # nor whether 4 is any cheaper
        (5, {2: 1.0, 8: 10.0}, 2),
        (4, LINEAR_MS, 4),
    ],
)
def test_the_compiled_size_that_costs_least_per_sample(
    samples: int, costs_ms: dict[int, float], size: int
) -> None:
    """It is padded and holds all samples, or smaller and full; unmeasured sizes are ignored."""
    sizes = tuple(sorted({1, 2, 4, 8, *costs_ms}))

    assert cheapest_size(Policy(batch_sizes=sizes), samples, costs_ms.get) == size


def test_the_rest_of_a_batch_goes_to_another_idle_activation() -> None:
    """Four samples in 7 ms with one in 4 ms next to them beat five in 10 ms."""
    assert _sizes(_measured(CONVEX_MS, devices=2), Request(0, 5, 0.0)) == [(4, 4), (1, 1)]


def test_the_rest_of_a_batch_waits_without_another_idle_activation() -> None:
    """Of five requests, the last one goes with later arrivals."""
    state = _measured(CONVEX_MS)
    (batch,) = drive(state, 0.0, *requests(5)).dispatch
    assert (batch.size, cargo(batch)) == (4, [(index, 0, 1) for index in range(4)])

    drive(state, 0.001, *requests(3, first_id=5))
    (behind,) = drive(state, 0.007, answer(batch, 0.007)).dispatch
    assert (behind.size, [each[0] for each in cargo(behind)]) == (4, [4, 5, 6, 7])


@pytest.mark.parametrize(
    ("arriving", "sizes"),
    [
        ([Request(0, 5, 0.0)], [(8, 5)]),
        (requests(5, deadline=0.0105), [(8, 5)]),
        (requests(5, deadline=0.0115), [(4, 4)]),
        ([Request(0, 1, 0.0), Request(1, 4, 0.0)], [(4, 4)]),
        ([*requests(5), DrainStarted()], [(8, 5)]),
    ],
    ids=["it would be cut", "no time", "time", "another would be cut", "no more arrivals"],
)
def test_a_request_without_time_or_in_two_parts_is_not_made_to_wait(
    arriving: list[Request], sizes: list[tuple[int, int]]
) -> None:
    """A request that would be cut, or has no time for two batches, goes in one padded batch.

    4 and 1 one after the other take 11 ms, all five at once 10.
    """
    assert _sizes(_measured(CONVEX_MS), *arriving) == sizes


def test_two_inferences_that_are_faster_than_one_are_always_better() -> None:
    """Even for one request on one activation: 4.3 and 1.2 ms are less than 8.3."""
    state = _measured(LINEAR_MS, set_size=2)

    assert _sizes(state, Request(0, 5, 0.0, deadline=0.02)) == [(4, 4)]


def test_a_size_with_few_measurements_is_not_taken_for_cheap() -> None:
    """After three answers the batch still goes as one."""
    assert _sizes(_measured(CONVEX_MS, times=3, devices=2), Request(0, 5, 0.0)) == [(8, 5)]


def test_a_full_compiled_size_is_never_cut() -> None:
    """It goes as one although a smaller size seems cheaper, so its own time is measured again."""
    assert _sizes(_measured({1: 1.0, 4: 400.0}, devices=2), Request(0, 4, 0.0)) == [(4, 4)]


def test_padding_is_filled_with_requests_of_lower_priority() -> None:
    """One batch takes the highest priority first, then lower ones; the rest stays queued."""
    state = make_state(batch_sizes=(4,))
    urgent = requests(2, first_id=1, priority=1)
    low = requests(3, first_id=3, priority=-1)
    (first,) = drive(state, 0.0, Request(0, 4, 0.0)).dispatch
    drive(state, 0.0, *urgent, *low)
    (second,) = drive(state, 1.0, answer(first, 1.0)).dispatch

    assert cargo(second) == [(1, 0, 1), (2, 0, 1), (3, 0, 1), (4, 0, 1)]
    assert [request.id for request in state.admission.queued] == [5]
