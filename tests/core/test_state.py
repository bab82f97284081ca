"""The state machine as a whole: illegal events, conservation, statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from qaic_sched.core.events import (
    Cancelled,
    Closed,
    Completed,
    DeviceOpened,
    DrainStarted,
    Event,
    ReloadFailed,
)
from qaic_sched.core.invariants import check_invariants
from qaic_sched.core.model import DeviceStatistics, Fault, Policy, Request
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
    snapshot,
    state_at_work,
)


def _a_state_in_a_drain() -> SchedulerState:
    state = state_at_work()
    drive(state, 2.0, DrainStarted())
    return state


def _a_closed_state() -> SchedulerState:
    state = state_at_work()
    drive(state, 2.0, Closed())
    return state


def _an_empty_state() -> SchedulerState:
    return make_state(devices=0)


def _a_state_with_a_lost_device() -> SchedulerState:
    """Return a state whose device 0 was lost at 1.95 and still holds a batch."""
    state = make_state(devices=2, set_size=2)
    drive(state, 1.0, *requests(4, accepted_at=1.0))
    drive(state, 1.95, Completed(0, 1.95, Fault.LOST))
    assert state.statistics().devices[0] == DeviceStatistics("quarantined", 1, 1)
    return state


def _a_state_with_a_device_that_came_back() -> SchedulerState:
    state = _a_state_with_a_lost_device()
    held = [each for each in state.batches.values() if each.activation.device_id == 0]
    drive(state, 1.96, *(Completed(each.id, 1.96, Fault.LOST) for each in held))
    drive(state, 1.96, DeviceOpened(0, 1, 2))
    return state


def _a_closed_state_with_a_lost_device() -> SchedulerState:
    state = _a_state_with_a_lost_device()
    drive(state, 1.96, *(answer(each, 1.96) for each in list(state.batches.values())), Closed())
    return state


ILLEGAL: list[tuple[Callable[[], SchedulerState], Event]] = [
    (state_at_work, Request(3, 1, 2.0)),
    (state_at_work, Request(0, 1, 2.0)),
    (state_at_work, Request(-1, 1, 2.0)),
    (state_at_work, Request(4, 0, 2.0)),
    (state_at_work, Request(4, -1, 2.0)),
    (_a_state_in_a_drain, Request(4, 1, 2.0)),
    (_a_closed_state, Request(4, 1, 2.0)),
    (state_at_work, Completed(99, 2.0)),
    (state_at_work, Completed(-1, 2.0)),
    (state_at_work, Completed(0, 2.0)),  # answered already
    (state_at_work, Completed(0, 2.0, Fault.INFERENCE)),
    (state_at_work, Cancelled(4)),
    (_an_empty_state, Cancelled(0)),
    (state_at_work, DeviceOpened(1, 1, 1)),  # open already
    (state_at_work, DeviceOpened(2, 1, 2)),  # another set_size
    (state_at_work, DeviceOpened(2, 0, 1)),
    (state_at_work, DeviceOpened(2, 1, 0)),
    (_an_empty_state, DeviceOpened(0, 0, 1)),
    (_an_empty_state, DeviceOpened(0, 1, 0)),
    (_an_empty_state, DeviceOpened(0, 1, -1)),
    (_a_closed_state, DeviceOpened(2, 1, 1)),
    (_a_state_with_a_lost_device, DeviceOpened(0, 1, 2)),  # it holds a batch from before
    (_a_state_with_a_lost_device, DeviceOpened(0, 1, 1)),
    (_a_state_with_a_lost_device, DeviceOpened(0, 0, 2)),
    (_a_state_with_a_lost_device, DeviceOpened(1, 1, 2)),  # never left
    (_a_state_with_a_lost_device, ReloadFailed(1)),
    (_a_state_with_a_lost_device, ReloadFailed(7)),  # unknown
    (_a_state_with_a_device_that_came_back, DeviceOpened(0, 1, 2)),
    (_a_state_with_a_device_that_came_back, ReloadFailed(0)),
    (_a_closed_state_with_a_lost_device, DeviceOpened(0, 1, 2)),
]


def _history_from(state: SchedulerState) -> list[object]:
    """Resolve everything; return all reports and decisions on the way."""
    history = snapshot(state)
    if not state.ledger.num_activations:
        history.append(places(drive(state, 2.0, DeviceOpened(0, 1, 1))))
    if not state.is_draining:
        drive(state, 2.0, Request(4, 1, 2.0, deadline=8.0))
    for now in (2.0, 2.5, 3.0, 4.0, 5.0, 9.0, 10.0):
        commands = answer_all(state, now)
        history += [[cargo(each) for each in commands.dispatch], places(commands)]
        history += [outcomes(commands.resolve), *snapshot(state)]
    assert not state.requests
    return history


@pytest.mark.parametrize(("make", "event"), ILLEGAL)
def test_an_illegal_event_raises_and_changes_nothing(
    make: Callable[[], SchedulerState], event: Event
) -> None:
    """The state reports the same before and after, and later decisions are the same."""
    state = make()
    before = snapshot(state)
    with pytest.raises(InternalError):
        state.handle(2.0, [event])
    check_invariants(state)

    assert snapshot(state) == before
    assert _history_from(state) == _history_from(make())


def test_time_never_goes_back() -> None:
    """A call with an earlier `now` raises, and its events are not handled."""
    state = state_at_work()
    before = snapshot(state)
    with pytest.raises(InternalError, match=r"from 2\.0 to 1\.5"):
        state.handle(1.5, [Request(4, 1, 1.5)])

    assert (snapshot(state), state.now) == (before, 2.0)
    assert _history_from(state) == _history_from(state_at_work())


def test_events_before_an_illegal_one_stand() -> None:
    """The next call returns their commands, once."""
    state = make_state(devices=2)
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    with pytest.raises(InternalError, match="batch 7 is not in flight"):
        state.handle(1.0, [Request(1, 1, 1.0), answer(batch, 1.0), Completed(7, 1.0), Cancelled(1)])
    commands = drive(state, 1.0)

    assert outcomes(commands.resolve) == [(0, "done")]
    assert commands.dispatch == []
    again = drive(state, 1.0)
    assert (again.resolve, again.dispatch) == ([], [])


def test_an_error_names_the_request_batch_or_device() -> None:
    """The message identifies the illegal event."""
    state = make_state()
    with pytest.raises(InternalError, match="<Request 5 waiting: 0 of 0 dispatched"):
        state.handle(0.0, [Request(5, 0, 0.0)])
    with pytest.raises(InternalError, match="request 5 never arrived"):
        state.handle(0.0, [Cancelled(5)])
    with pytest.raises(InternalError, match="device 0 is not in quarantine"):
        state.handle(0.0, [DeviceOpened(0, 1, 1)])
    with pytest.raises(InternalError, match=r"set_size=3.* does not fit"):
        state.handle(0.0, [DeviceOpened(1, 1, 3)])


def test_without_events_nothing_happens() -> None:
    """An unnecessary call returns no commands and changes nothing."""
    state = state_at_work()
    before = snapshot(state)
    commands = drive(state, 2.0)

    assert (commands.dispatch, commands.resolve) == ([], [])
    assert snapshot(state) == before


def test_accepted_requests_are_conserved() -> None:
    """accepted = done + failed + cancelled + expired + waiting + queued + in flight."""
    state = make_state(max_samples=2, max_attempts=1)
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    drive(state, 1.0, answer(batch, 1.0))
    drive(state, 1.0, Request(1, 1, 1.0))
    drive(state, 1.0, *requests(2, first_id=2, accepted_at=1.0, deadline=4.0), Request(4, 1, 1.0))
    answer_all(state, 2.0)
    commands = drive(state, 3.0, Completed(2, 3.0, Fault.INFERENCE))
    drive(state, 3.0, *requests(3, first_id=5), Cancelled(4), Cancelled(7))
    drive(state, 4.0, *requests(2, first_id=8))
    now = state.statistics()

    assert outcomes(commands.resolve) == [(2, "failed")]
    assert (now.done, now.failed, now.cancelled, now.expired) == (2, 1, 2, 1)
    assert (now.waiting, now.queued, now.in_flight) == (2, 2, 0)
    assert (now.accepted, now.rejected) == (10, 0)


def test_statistics_are_a_snapshot() -> None:
    """They do not change with the state."""
    state = make_state(devices=0)
    before = state.statistics()
    drive(state, 0.0, Request(0, 3, 0.0, num_bytes=30))

    assert (before.accepted, before.queued_samples, before.queued_bytes) == (0, 0, 0)
    after = replace(before, accepted=1, queued=1, queued_samples=3, queued_bytes=30)
    assert state.statistics() == after


def test_nothing_is_left_of_requests_served() -> None:
    """Memory is bounded by the unresolved requests."""
    state = make_state(devices=2, set_size=2, batch_sizes=(1, 8))
    for first_id in range(0, 3_000, 10):
        now = float(first_id)
        state.handle(now, requests(10, first_id, deadline=1e9))
        while state.batches:
            state.handle(now, [answer(each, now) for each in state.batches.values()])
    drive(state, 3_000.0)

    assert state.statistics().done == 3_000
    assert (state.requests, state.batches, len(state.retries)) == ({}, {}, 0)
    assert (len(state.deadlines), list(state.admission.queued)) == (0, [])
    assert len(state.admission.queued._levels) == 1


def test_a_fresh_state_has_nothing_to_do() -> None:
    """It has no device, no request and no wakeup."""
    state = SchedulerState(Policy())
    commands = drive(state, 0.0)

    assert (commands.dispatch, commands.resolve, state.next_wakeup()) == ([], [], None)
    assert state.statistics().devices == {}


def test_the_shell_reads_set_size_and_quarantine() -> None:
    """`set_size` is 0 before any device; `was_slow` excludes quarantines for a loss."""
    assert make_state(devices=0).set_size == 0
    state = _a_state_with_a_lost_device()

    assert state.set_size == 2
    assert [state.is_quarantined(each) for each in (0, 1)] == [True, False]
    assert not state.was_slow(0)
