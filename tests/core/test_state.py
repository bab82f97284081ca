"""The state machine as a whole: the door, conservation, cancellation, drain and close."""

from __future__ import annotations

from collections import Counter
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
)


def _a_state_at_work() -> SchedulerState:
    """Two in flight, a large one half dispatched, one waiting, one done, deadlines ahead."""
    state = make_state(devices=2, batch_sizes=(1, 2), max_samples=4, max_queue_delay_s=0.5)
    (batch,) = drive(state, 1.0, Request(0, 2, 1.0)).dispatch
    drive(state, 2.0, answer(batch, 2.0))
    drive(state, 2.0, *requests(2, first_id=1, samples=3, accepted_at=2.0, deadline=9.0))
    drive(state, 2.0, Request(3, 3, 2.0, priority=1))
    return state


def _a_state_in_a_drain() -> SchedulerState:
    state = _a_state_at_work()
    drive(state, 2.0, DrainStarted())
    return state


def _a_closed_state() -> SchedulerState:
    state = _a_state_at_work()
    drive(state, 2.0, Closed())
    return state


def _an_empty_state() -> SchedulerState:
    return make_state(devices=0)


def _a_state_with_a_lost_device() -> SchedulerState:
    """Device 0 was lost at 1.95, and still holds a batch."""
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
    (_a_state_at_work, Request(3, 1, 2.0)),
    (_a_state_at_work, Request(0, 1, 2.0)),
    (_a_state_at_work, Request(-1, 1, 2.0)),
    (_a_state_at_work, Request(4, 0, 2.0)),
    (_a_state_at_work, Request(4, -1, 2.0)),
    (_a_state_in_a_drain, Request(4, 1, 2.0)),
    (_a_closed_state, Request(4, 1, 2.0)),
    (_a_state_at_work, Completed(99, 2.0)),
    (_a_state_at_work, Completed(-1, 2.0)),
    (_a_state_at_work, Completed(0, 2.0)),  # answered already
    (_a_state_at_work, Completed(0, 2.0, Fault.INFERENCE)),
    (_a_state_at_work, Cancelled(4)),
    (_an_empty_state, Cancelled(0)),
    (_a_state_at_work, DeviceOpened(1, 1, 1)),  # open already
    (_a_state_at_work, DeviceOpened(2, 1, 2)),  # another set_size
    (_a_state_at_work, DeviceOpened(2, 0, 1)),
    (_a_state_at_work, DeviceOpened(2, 1, 0)),
    (_an_empty_state, DeviceOpened(0, 0, 1)),
    (_an_empty_state, DeviceOpened(0, 1, 0)),
    (_an_empty_state, DeviceOpened(0, 1, -1)),
    (_a_closed_state, DeviceOpened(2, 1, 1)),
    (_a_state_with_a_lost_device, DeviceOpened(0, 1, 2)),  # it holds a batch from before
    (_a_state_with_a_lost_device, DeviceOpened(0, 1, 1)),
    (_a_state_with_a_lost_device, DeviceOpened(0, 0, 2)),
    (_a_state_with_a_lost_device, DeviceOpened(1, 1, 2)),  # never left
    (_a_state_with_a_lost_device, ReloadFailed(1)),
    (_a_state_with_a_lost_device, ReloadFailed(7)),  # nobody knows it
    (_a_state_with_a_device_that_came_back, DeviceOpened(0, 1, 2)),
    (_a_state_with_a_device_that_came_back, ReloadFailed(0)),
    (_a_closed_state_with_a_lost_device, DeviceOpened(0, 1, 2)),
]


def _told(state: SchedulerState) -> list[object]:
    """All that the state says to the outside."""
    return [state.statistics(), state.next_wakeup(), len(state.batches), list(state.requests)]


def _history_from(state: SchedulerState) -> list[object]:
    """What the state says and decides until everything it has is resolved."""
    history = _told(state)
    if not state.ledger.num_activations:
        history.append(places(drive(state, 2.0, DeviceOpened(0, 1, 1))))
    if not state.is_draining:
        drive(state, 2.0, Request(4, 1, 2.0, deadline=8.0))
    for now in (2.0, 2.5, 3.0, 4.0, 5.0, 9.0, 10.0):
        commands = answer_all(state, now)
        history += [[cargo(each) for each in commands.dispatch], places(commands)]
        history += [outcomes(commands.resolve), *_told(state)]
    assert not state.requests
    return history


@pytest.mark.parametrize(("make", "event"), ILLEGAL)
def test_an_illegal_event_raises_and_changes_nothing(
    make: Callable[[], SchedulerState], event: Event
) -> None:
    """The state says the same before and after, and decides the same ever after."""
    state = make()
    before = _told(state)
    with pytest.raises(InternalError):
        state.handle(2.0, [event])
    check_invariants(state)

    assert _told(state) == before
    assert _history_from(state) == _history_from(make())


def test_time_never_goes_back() -> None:
    """A call with an earlier `now` is refused whole: its events are not taken in."""
    state = _a_state_at_work()
    before = _told(state)
    with pytest.raises(InternalError, match=r"from 2\.0 to 1\.5"):
        state.handle(1.5, [Request(4, 1, 1.5)])

    assert (_told(state), state.now) == (before, 2.0)
    assert _history_from(state) == _history_from(_a_state_at_work())


def test_events_before_an_illegal_one_stand() -> None:
    """What they led to comes out of the next call, once."""
    state = make_state(devices=2)
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    with pytest.raises(InternalError, match="batch 7 is not in flight"):
        state.handle(1.0, [Request(1, 1, 1.0), answer(batch, 1.0), Completed(7, 1.0), Cancelled(1)])
    commands = drive(state, 1.0)

    assert outcomes(commands.resolve) == [(0, "done")]
    assert commands.dispatch == []
    again = drive(state, 1.0)
    assert (again.resolve, again.dispatch) == ([], [])


def test_an_error_names_what_may_not_happen() -> None:
    """Whoever reads the report of our fault sees the request, the batch or the device."""
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
    """A call that was not needed says nothing and changes nothing."""
    state = _a_state_at_work()
    before = _told(state)
    commands = drive(state, 2.0)

    assert (commands.dispatch, commands.resolve) == ([], [])
    assert _told(state) == before


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


# Cancellation


def test_a_cancelled_queued_request_leaves_the_queue() -> None:
    """It is resolved at once and never dispatched."""
    state = make_state()
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    drive(state, 0.0, *requests(2, first_id=1))
    assert outcomes(drive(state, 0.5, Cancelled(1)).resolve) == [(1, "cancelled")]

    commands = drive(state, 1.0, answer(batch, 1.0))
    assert [cargo(each) for each in commands.dispatch] == [[(2, 0, 1)]]


def test_a_cancelled_waiting_request_leaves_the_door() -> None:
    """It is resolved at once and never admitted."""
    state = make_state(devices=0, max_samples=1)
    drive(state, 0.0, *requests(3))
    assert outcomes(drive(state, 0.0, Cancelled(1)).resolve) == [(1, "cancelled")]

    drive(state, 0.0, Cancelled(0))
    assert [request.id for request in state.admission.queued] == [2]


def test_a_request_cancelled_in_flight_keeps_its_slot_until_the_answer() -> None:
    """Its caller hears at once, the device's answer frees the slot and reaches nobody."""
    state = make_state()
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    assert outcomes(drive(state, 0.5, Cancelled(0)).resolve) == [(0, "cancelled")]
    assert drive(state, 0.5, Request(1, 1, 0.5)).dispatch == []
    assert state.statistics().devices[0].in_flight == 1

    commands = drive(state, 1.0, answer(batch, 1.0))
    assert (commands.resolve, places(commands)) == ([], [(0, 0)])


def test_a_cancelled_request_does_not_touch_the_company_in_its_batch() -> None:
    """The others of the batch are done as if nothing had happened."""
    state = make_state(batch_sizes=(4,))
    (batch,) = drive(state, 0.0, *requests(3)).dispatch
    drive(state, 0.5, Cancelled(1))

    assert outcomes(drive(state, 1.0, answer(batch, 1.0)).resolve) == [(0, "done"), (2, "done")]


def test_a_half_dispatched_request_is_cancelled_as_a_whole() -> None:
    """Its samples leave the queue and its answers reach nobody."""
    state = make_state(batch_sizes=(2,))
    drive(state, 0.0, Request(0, 9, 0.0))
    assert outcomes(drive(state, 0.5, Cancelled(0)).resolve) == [(0, "cancelled")]

    commands = answer_all(state, 1.0)
    assert (commands.resolve, commands.dispatch) == ([], [])
    assert state.statistics().queued_samples == 0


def test_a_request_is_cancelled_while_it_waits_for_another_attempt() -> None:
    """Its part is not tried again."""
    state = make_state(devices=2)
    first, second = drive(state, 0.0, *requests(2)).dispatch
    drive(state, 1.0, answer(first, 1.0, failed=True))
    assert outcomes(drive(state, 1.0, Cancelled(0)).resolve) == [(0, "cancelled")]

    assert drive(state, 2.0, answer(second, 2.0)).dispatch == []


@pytest.mark.parametrize("end", ["done", "cancelled", "failed", "expired", "rejected"])
def test_cancelling_a_resolved_request_has_no_effect(end: str) -> None:
    """However it ended."""
    state = make_state(max_samples=1, waits_when_full=False, max_attempts=1)
    drive(state, 0.0, Request(0, 1, 0.0, deadline=5.0))
    if end == "rejected":
        drive(state, 0.0, Request(1, 1, 0.0), Request(2, 1, 0.0))
    ends: dict[str, Callable[[], object]] = {
        "done": lambda: answer_all(state, 1.0),
        "cancelled": lambda: drive(state, 1.0, Cancelled(0)),
        "failed": lambda: drive(state, 1.0, Completed(0, 1.0, Fault.INFERENCE)),
        "expired": lambda: drive(state, 5.0),
        "rejected": lambda: drive(state, 1.0),
    }
    ends[end]()
    before = _told(state)
    commands = drive(state, state.now, Cancelled(2 if end == "rejected" else 0))

    assert (commands.resolve, _told(state)) == ([], before)
    assert getattr(state.statistics(), end) == 1


# Drain and close


def test_a_drain_finishes_what_is_there() -> None:
    """Waiting, queued, in flight and to be tried again: all are done, and nothing new comes in."""
    state = make_state(devices=2, max_samples=2)
    drive(state, 0.0, *requests(8))
    drive(state, 0.0, DrainStarted())
    drive(state, 1.0, Completed(0, 1.0, Fault.INFERENCE))
    now = 1.0
    while state.requests:
        now += 1.0
        answer_all(state, now)
    with pytest.raises(InternalError):
        state.handle(now, [Request(8, 1, now)])

    assert state.statistics().done == 8
    assert state.is_draining
    assert not state.is_closed


def test_a_device_may_open_during_a_drain() -> None:
    """It helps to finish."""
    state = make_state(devices=0)
    drive(state, 0.0, Request(0, 1, 0.0), DrainStarted())

    assert places(drive(state, 1.0, DeviceOpened(0, 1, 1))) == [(0, 0)]


def test_closing_cancels_everything_wherever_it_is() -> None:
    """Each is resolved once, in the order of arrival; late answers reach nobody."""
    state = _a_state_at_work()
    commands = drive(state, 3.0, Closed())
    assert outcomes(commands.resolve) == [(1, "cancelled"), (2, "cancelled"), (3, "cancelled")]
    assert (commands.dispatch, state.next_wakeup()) == ([], None)
    assert sum(each.in_flight for each in state.statistics().devices.values()) > 0

    commands = answer_all(state, 4.0)
    assert (commands.resolve, commands.dispatch, state.batches) == ([], [], {})
    assert sum(each.in_flight for each in state.statistics().devices.values()) == 0


def test_closing_twice_resolves_nobody_twice() -> None:
    """The second time there is nobody left."""
    state = _a_closed_state()

    assert drive(state, 3.0, Closed()).resolve == []


def test_closing_with_ten_thousand_waiting_resolves_each_once_and_keeps_nothing() -> None:
    """Queue, door and deadlines are empty after it, entries included."""
    state = make_state(max_samples=100)
    drive(state, 0.0, *requests(5_001, deadline=60.0))
    for urgent in range(3):
        drive(state, 0.0, *requests(1_700, 5_001 + 1_700 * urgent, priority=urgent))
    assert state.statistics().waiting == 10_000
    commands = drive(state, 1.0, Closed())

    assert Counter(commands.resolve).most_common(1)[0][1] == 1
    assert len(commands.resolve) == 10_101
    assert state.statistics().cancelled == 10_101
    assert len(state.deadlines) == 0
    queues = (state.admission.queued, state.admission.waiting)
    assert [(each.head(), each.samples, each.num_requests) for each in queues] == [(None, 0, 0)] * 2


def test_nothing_is_left_of_requests_served() -> None:
    """Memory is bounded by what is there, not by what was."""
    state = make_state(devices=2, set_size=2, batch_sizes=(1, 8))
    for first_id in range(0, 3_000, 10):
        now = float(first_id)
        state.handle(now, requests(10, first_id, deadline=1e9))
        while state.batches:
            state.handle(now, [answer(each, now) for each in state.batches.values()])
    drive(state, 3_000.0)

    assert state.statistics().done == 3_000
    assert (state.requests, state.batches, len(state.retries)) == ({}, {}, 0)
    assert (len(state.deadlines), state.admission.queued._levels) == (0, {})


def test_a_fresh_state_has_nothing_to_do() -> None:
    """No device, no request, no wakeup."""
    state = SchedulerState(Policy())
    commands = drive(state, 0.0)

    assert (commands.dispatch, commands.resolve, state.next_wakeup()) == ([], [], None)
    assert state.statistics().devices == {}
