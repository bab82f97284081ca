"""Who is refused at the door because those before it would make it late."""

from __future__ import annotations

from typing import Any

import pytest

from qaic_sched.core.model import Request, RequestState
from qaic_sched.core.state import SchedulerState
from tests.core.harness import answer_all, drive, make_state, outcomes, requests


def _busy(queued: int, devices: int = 1, **policy: Any) -> SchedulerState:
    """Inferences take 1 s; at 1.0 every device has begun one, and so many samples are queued.

    Those have waited for so long that they are more urgent than any newcomer with time left.
    """
    state = make_state(devices, **policy)
    drive(state, 0.0, *requests(devices, samples=state.policy.max_batch_size))
    answer_all(state, 1.0)
    samples = devices * state.policy.max_batch_size + queued
    drive(state, 1.0, *requests(samples, first_id=100, accepted_at=-9.0))
    return state


def test_who_cannot_be_in_time_is_refused_at_once_and_told_when_to_come_again() -> None:
    """Four are before it, a second each; with its own that is five, and it has three."""
    state = _busy(4)
    request = Request(200, 1, 1.0, deadline=4.0)

    assert outcomes(drive(state, 1.0, request).resolve) == [(200, "rejected")]
    assert (request.wait_s, request.retry_after_s) == (pytest.approx(5.0), pytest.approx(2.0))
    assert state.statistics().rejected == 1


def test_who_may_be_in_time_is_let_in() -> None:
    """With exactly as long as it takes, and with no deadline at all."""
    state = _busy(4)
    several = Request(200, 1, 1.0, deadline=6.0), Request(201, 1, 1.0)

    assert drive(state, 1.0, *several).resolve == []


def test_the_more_urgent_is_let_in_whoever_waits() -> None:
    """A higher priority or an earlier deadline has nobody before it."""
    state = _busy(0)
    urgent = Request(200, 1, 1.0, deadline=3.0, priority=1)
    early = Request(201, 1, 1.0, deadline=3.0)
    drive(state, 1.0, *requests(4, first_id=190, accepted_at=1.0))

    assert drive(state, 1.0, urgent, early).resolve == []


def test_devices_work_side_by_side() -> None:
    """Eight before it on four devices are two rounds, then its own."""
    state = _busy(8, devices=4)
    arrivals = [Request(200, 1, 1.0, deadline=3.5), Request(201, 1, 1.0, deadline=4.5)]

    assert outcomes(drive(state, 1.0, *arrivals).resolve) == [(200, "rejected")]


def test_a_large_request_has_itself_to_wait_for() -> None:
    """Six samples in batches of two are three inferences, one after the other."""
    state = _busy(0, batch_sizes=(2,))
    arrivals = [Request(200, 6, 1.0, deadline=3.9), Request(201, 6, 1.0, deadline=9.0)]

    assert outcomes(drive(state, 1.0, *arrivals).resolve) == [(200, "rejected")]


def test_those_that_wait_for_room_count_as_well() -> None:
    """They are before a newcomer like those in the queue."""
    state = _busy(6, max_samples=2)
    assert state.statistics().waiting == 4

    refused = Request(200, 1, 1.0, deadline=5.0)
    assert outcomes(drive(state, 1.0, refused).resolve) == [(200, "rejected")]


def test_nobody_is_refused_before_anything_was_measured() -> None:
    """How long things take is not known then."""
    state = make_state()
    drive(state, 0.0, *requests(50))

    assert drive(state, 0.0, Request(50, 1, 0.0, deadline=0.001)).resolve == []


def test_who_would_be_late_on_an_idle_host_too_is_not_sent_away_to_come_again() -> None:
    """That is not the queue's fault: it is let in, and told that it cannot be done."""
    state = _busy(4)
    request = Request(200, 1, 1.0, deadline=1.5)
    commands = drive(state, 1.0, request)

    assert request.state is RequestState.QUEUED
    assert commands.resolve == []
    assert outcomes(drive(state, 1.5).resolve) == [(200, "expired")]
