"""Requests that share no inference: each is a batch of its own, never split and never joined."""

from __future__ import annotations

from typing import Any

import pytest

from qaic_sched.core.events import PolicyChanged
from qaic_sched.core.model import Policy, Request
from qaic_sched.core.state import SchedulerState
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
)

MOST_LEAVE_THE_LAST = 8
"""Requests that are dropped in a row before one is tried anyway."""


def own(devices: int = 1, **policy: Any) -> SchedulerState:
    """Return a state whose requests share no inference, compiled for 1, 4 and 8 samples."""
    policy.setdefault("batch_sizes", (1, 4, 8))
    return make_state(devices, shares_rows=False, **policy)


def measured(devices: int = 1, seconds: float = 1.0, **policy: Any) -> SchedulerState:
    """Return a state in which an inference of one sample takes a second."""
    state = own(devices, batch_sizes=(4,), **policy)
    drive(state, 0.0, *requests(devices))
    answer_all(state, seconds)
    return state


def test_each_request_is_a_batch_of_its_own() -> None:
    """With its rows padded to the smallest compiled size that holds them."""
    state = own(3)
    batches = drive(
        state, 0.0, *(Request(each, samples, 0.0) for each, samples in enumerate((3, 1, 8)))
    ).dispatch

    assert [cargo(each) for each in batches] == [[(0, 0, 3)], [(1, 0, 1)], [(2, 0, 8)]]
    assert [each.size for each in batches] == [4, 1, 8]


def test_a_batch_of_any_size_has_the_size_of_its_request() -> None:
    """Larger than the compiled sizes, too."""
    state = own(2, takes_any_size=True)
    batches = drive(state, 0.0, Request(0, 3, 0.0), Request(1, 100, 0.0)).dispatch

    assert [(each.size, each.samples) for each in batches] == [(3, 3), (100, 100)]


def test_a_whole_request_waits_for_no_company() -> None:
    """`max_queue_delay_s` is for batches that others could join."""
    state = own(max_queue_delay_s=1.0)

    assert len(drive(state, 0.0, *requests(1)).dispatch) == 1


def test_a_whole_request_is_committed_behind_a_running_inference() -> None:
    """Like a full batch: there is nothing that it could gain by waiting."""
    state = make_state(set_size=2, batch_sizes=(8,), shares_rows=False)
    commands = drive(state, 0.0, *requests(3))

    assert places(commands) == [(0, 0), (0, 0)]
    assert state.statistics().queued == 1


def test_a_request_that_no_inference_can_hold_may_not_arrive() -> None:
    """It would have to be split."""
    with pytest.raises(InternalError):
        drive(own(), 0.0, Request(0, 9, 0.0))


def test_a_failed_request_is_retried_whole() -> None:
    """In a batch of the same size."""
    state = own(2)
    (batch,) = drive(state, 0.0, Request(0, 3, 0.0)).dispatch
    (again,) = drive(state, 1.0, answer(batch, 1.0, failed=True)).dispatch

    assert (cargo(again), again.size) == (cargo(batch), batch.size)


def test_a_late_request_is_hedged_whole() -> None:
    """In a batch of the same size."""
    state = measured(2, takes_any_size=True, hedge_after=3.0, hedge_max_extra=1.0)
    (batch,) = drive(state, 1.0, Request(9, 3, 1.0)).dispatch
    assert batch.expected_s == pytest.approx(3.0)
    (hedge,) = drive(state, 1.0 + 3 * batch.expected_s).dispatch

    assert hedge.is_hedge
    assert (cargo(hedge), hedge.size) == ([(9, 0, 3)], 3)


def test_many_small_requests_crowd_the_queue() -> None:
    """Each is an inference: there are no hedges while several per activation are queued."""
    state = measured(2, hedge_after=3.0, hedge_max_extra=1.0)
    drive(state, 1.0, *requests(10, first_id=9, accepted_at=1.0))
    batch = next(iter(state.batches.values()))
    other = list(state.batches.values())[1]
    drive(state, 1.5, answer(other, 1.5))
    drive(state, 4.5)

    assert batch.activation.held == [batch]
    assert state.hedging.is_crowded


def test_a_request_that_ends_after_its_deadline_is_dropped() -> None:
    """It is not made smaller, and the next one takes its place."""
    state = measured()
    late, early = Request(5, 3, 1.0, deadline=1.5), Request(6, 3, 1.0, deadline=3.5)
    commands = drive(state, 1.0, late, early)

    assert outcomes(commands.resolve) == [(5, "expired")]
    assert [cargo(each) for each in commands.dispatch] == [[(6, 0, 3)]]


def test_after_many_drops_one_is_tried() -> None:
    """The measured time may be out of date."""
    state = measured()
    late = requests(MOST_LEAVE_THE_LAST + 1, first_id=5, accepted_at=1.0, deadline=1.5)
    commands = drive(state, 1.0, *late)

    assert len(commands.resolve) == MOST_LEAVE_THE_LAST
    assert [cargo(each) for each in commands.dispatch] == [[(late[-1].id, 0, 1)]]


def test_a_slow_device_leaves_a_deadline_to_a_faster_one() -> None:
    """The request stays queued until a device that can make it is free."""
    state = make_state(2, batch_sizes=(4,), shares_rows=False)
    for _ in range(30):
        state.ledger.learn(0, 4, 1.0)
        state.ledger.learn(1, 4, 10.0)
    drive(state, 0.0, Request(0, 1, 0.0), *requests(40, first_id=1, deadline=200.0))
    (slow,) = [each for each in state.batches.values() if each.activation.device_id == 1]
    state.batches[0].parts[0].request.deadline = None
    urgent = Request(50, 1, 0.5, deadline=6.0, priority=1)
    commands = drive(state, 0.5, answer(slow, 0.5), urgent)

    assert commands.dispatch == []
    assert commands.resolve == [slow.parts[0].request]


def test_waiting_requests_come_in_as_others_leave() -> None:
    """Room is made for them within the same call."""
    state = own(2, max_samples=8)
    drive(state, 0.0, *(Request(each, 8, 0.0) for each in range(5)))
    statistics = state.statistics()

    assert (statistics.in_flight, statistics.queued, statistics.waiting) == (2, 1, 2)
    answer_all(state, 1.0)
    assert state.statistics().waiting == 0


def test_requests_ahead_count_as_one_inference_each() -> None:
    """Four single samples ahead take four inferences, not one."""
    state = measured()
    drive(state, 1.0, *requests(5, first_id=100, accepted_at=-9.0))
    request = Request(200, 1, 1.0, deadline=4.0)

    assert outcomes(drive(state, 1.0, request).resolve) == [(200, "rejected")]
    assert request.wait_s == pytest.approx(5.0)
    assert drive(state, 1.0, Request(201, 1, 1.0, deadline=6.0)).resolve == []


def test_requests_ahead_of_any_size_count_as_the_smallest() -> None:
    """A lower bound: a large one may run beside all the others."""
    state = measured(takes_any_size=True)
    drive(state, 1.0, Request(99, 1, 1.0))
    drive(state, 1.0, Request(100, 50, -9.0))

    assert outcomes(drive(state, 1.0, Request(200, 1, 1.0, deadline=2.5)).resolve) == [
        (200, "rejected")
    ]
    assert drive(state, 1.0, Request(201, 1, 1.0, deadline=3.0)).resolve == []


def test_only_requests_that_certainly_come_first_count() -> None:
    """Those of higher priority do; those of a less urgent kind, or of other tenants, do not."""
    state = measured()
    drive(state, 1.0, *requests(2, first_id=100, accepted_at=-9.0))
    queued = state.admission.queued
    drive(state, 1.0, *requests(2, first_id=110, accepted_at=-9.0, priority=1))

    assert queued.requests_before(Request(200, 1, 1.0)) == 3
    assert queued.requests_before(Request(200, 1, 1.0, deadline=0.5)) == 2
    assert queued.requests_before(Request(200, 1, 1.0, priority=2)) == 0
    drive(state, 1.0, Request(120, 1, 1.0, tenant="other"))
    assert queued.requests_before(Request(200, 1, 1.0)) == 2


def test_retry_after_counts_requests() -> None:
    """With four single samples queued, room for two more takes two inferences."""
    state = measured(max_samples=4, waits_when_full=False)
    drive(state, 1.0, *requests(5, first_id=100, accepted_at=1.0))
    request = Request(200, 2, 1.0)
    drive(state, 1.0, request)

    assert request.retry_after_s == pytest.approx(2.0)


def test_a_large_batch_is_not_stuck_because_small_ones_are_fast() -> None:
    """The limit follows the expected time of the batch where sizes have no bound."""
    state = measured(takes_any_size=True)
    assert state.next_wakeup() is None
    drive(state, 1.0, Request(100, 1000, 1.0))
    wakeup = state.next_wakeup()

    assert wakeup is not None
    assert wakeup > 40_000


def test_what_the_program_allows_does_not_change() -> None:
    """A live change of the policy cannot let requests share inferences."""
    state = own()
    with pytest.raises(InternalError):
        drive(state, 0.0, PolicyChanged(Policy(batch_sizes=(1, 4, 8))))
