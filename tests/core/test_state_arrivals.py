"""Arrivals that the queue ahead would make late are rejected."""

from __future__ import annotations

from typing import Any

import pytest

from qaic_sched.core.model import Request, RequestState
from qaic_sched.core.state import SchedulerState
from tests.core.harness import answer_all, drive, make_state, outcomes, requests


def _busy(queued: int, devices: int = 1, **policy: Any) -> SchedulerState:
    """Return a state with 1 s inferences, all devices busy since 1.0, and the given samples queued.

    The queued ones have waited for so long that they are more urgent than any newcomer.
    """
    state = make_state(devices, **policy)
    drive(state, 0.0, *requests(devices, samples=state.policy.max_batch_size))
    answer_all(state, 1.0)
    samples = devices * state.policy.max_batch_size + queued
    drive(state, 1.0, *requests(samples, first_id=100, accepted_at=-9.0))
    return state


def test_a_hopeless_arrival_is_rejected_with_retry_after() -> None:
    """Four inferences ahead and its own take 5 s, and its deadline leaves three."""
    state = _busy(4)
    request = Request(200, 1, 1.0, deadline=4.0)

    assert outcomes(drive(state, 1.0, request).resolve) == [(200, "rejected")]
    assert (request.wait_s, request.retry_after_s) == (pytest.approx(5.0), pytest.approx(2.0))
    assert state.statistics().rejected == 1


def test_an_arrival_that_may_be_in_time_is_admitted() -> None:
    """It is admitted with exactly enough time, and without a deadline."""
    state = _busy(4)
    several = Request(200, 1, 1.0, deadline=6.0), Request(201, 1, 1.0)

    assert drive(state, 1.0, *several).resolve == []


def test_an_arrival_more_urgent_than_the_queue_is_admitted() -> None:
    """With a higher priority or an earlier deadline nothing is ahead of it."""
    state = _busy(0)
    urgent = Request(200, 1, 1.0, deadline=3.0, priority=1)
    early = Request(201, 1, 1.0, deadline=3.0)
    drive(state, 1.0, *requests(4, first_id=190, accepted_at=1.0))

    assert drive(state, 1.0, urgent, early).resolve == []


def test_devices_work_in_parallel() -> None:
    """Eight requests ahead on four devices take two rounds, before its own."""
    state = _busy(8, devices=4)
    arrivals = [Request(200, 1, 1.0, deadline=3.5), Request(201, 1, 1.0, deadline=4.5)]

    assert outcomes(drive(state, 1.0, *arrivals).resolve) == [(200, "rejected")]


def test_a_large_request_waits_for_its_own_batches() -> None:
    """Six samples in batches of two are three inferences, one after the other."""
    state = _busy(0, batch_sizes=(2,))
    arrivals = [Request(200, 6, 1.0, deadline=3.9), Request(201, 6, 1.0, deadline=9.0)]

    assert outcomes(drive(state, 1.0, *arrivals).resolve) == [(200, "rejected")]


def test_requests_that_wait_for_room_count_as_ahead() -> None:
    """They delay a newcomer as queued requests do."""
    state = _busy(6, max_samples=2)
    assert state.statistics().waiting == 4

    refused = Request(200, 1, 1.0, deadline=5.0)
    assert outcomes(drive(state, 1.0, refused).resolve) == [(200, "rejected")]


def test_no_arrival_is_rejected_before_anything_was_measured() -> None:
    """Without a measured execution time there is no estimate."""
    state = make_state()
    drive(state, 0.0, *requests(50))

    assert drive(state, 0.0, Request(50, 1, 0.0, deadline=0.001)).resolve == []


def test_an_arrival_late_even_on_an_idle_host_expires() -> None:
    """The queue is not the cause, so it is admitted, and expires."""
    state = _busy(4)
    request = Request(200, 1, 1.0, deadline=1.5)
    commands = drive(state, 1.0, request)

    assert request.state is RequestState.QUEUED
    assert commands.resolve == []
    assert outcomes(drive(state, 1.5).resolve) == [(200, "expired")]
