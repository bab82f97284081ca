"""Deadlines at dispatch: requests dropped, saved by a smaller batch, or by a batch in time."""

from __future__ import annotations

from typing import Any

import pytest

from qaic_sched.core.batching import fitting_size
from qaic_sched.core.model import Policy, Request, RequestState
from qaic_sched.core.placement import has_faster
from qaic_sched.core.state import SchedulerState
from tests.core.harness import answer, cargo, drive, make_state, outcomes, requests

COST_S = {1: 4.0, 2: 5.0, 4: 7.0}


def _learned(set_size: int = 1) -> SchedulerState:
    """Return a state with one activation that takes 4, 5 and 7 s for batches of 1, 2 and 4."""
    state = make_state(batch_sizes=(1, 2, 4), set_size=set_size)
    for size, execute_s in COST_S.items():
        state.ledger.learn(0, size, execute_s)
    return state


def test_the_largest_size_that_is_done_in_time() -> None:
    """`fitting_size` never exceeds the size that holds the samples; 0 if every size is too slow."""
    policy = Policy(batch_sizes=(1, 2, 4))
    sizes = [fitting_size(policy, 4, seconds, COST_S.__getitem__) for seconds in (3, 4, 6, 9)]

    assert sizes == [0, 1, 2, 4]
    assert fitting_size(policy, 1, 9.0, COST_S.__getitem__) == 1


def test_a_hopeless_request_is_dropped_if_others_fill_the_batch() -> None:
    """It expires at once, and the batch keeps its size."""
    state = _learned()
    late = Request(0, 1, 0.0, deadline=6.0)
    others = [Request(index, 1, 0.0, deadline=20.0) for index in range(1, 5)]
    commands = drive(state, 0.0, late, *others)

    assert outcomes(commands.resolve) == [(0, "expired")]
    assert [cargo(batch) for batch in commands.dispatch] == [
        [(index, 0, 1) for index in (1, 2, 3, 4)]
    ]


def test_without_others_the_batch_is_shrunk_to_save_it() -> None:
    """A batch of 4 would be late for three samples, a batch of 2 is not."""
    state = _learned()
    several = [Request(index, 1, 0.0, deadline=6.0) for index in range(3)]
    commands = drive(state, 0.0, *several)

    assert commands.resolve == []
    assert [(batch.size, batch.samples) for batch in commands.dispatch] == [(2, 2)]


def test_a_request_that_no_size_can_save_expires_at_once() -> None:
    """Its deadline is before the end of the smallest batch."""
    state = _learned()
    commands = drive(state, 0.0, Request(0, 1, 0.0, deadline=3.0))

    assert outcomes(commands.resolve) == [(0, "expired")]
    assert commands.dispatch == []
    assert state.next_wakeup() is None


def test_no_request_is_dropped_before_anything_was_measured() -> None:
    """An unknown time is not too long."""
    state = make_state(batch_sizes=(4,))
    commands = drive(state, 0.0, Request(0, 1, 0.0, deadline=1e-9))

    assert commands.resolve == []
    assert len(commands.dispatch) == 1


def test_requests_without_a_deadline_are_never_dropped() -> None:
    """The time of their batch does not matter."""
    state = _learned()
    commands = drive(state, 0.0, *requests(9))

    assert commands.resolve == []
    assert len(commands.dispatch) == 1


def test_the_earliest_deadline_goes_first_within_a_priority() -> None:
    """Deadlines do not overtake priorities, and requests without one for ten seconds only."""
    state = make_state(batch_sizes=(1,))
    drive(state, 0.0, Request(0, 1, 0.0))
    queued = [
        Request(1, 1, 0.0),
        Request(2, 1, 0.0, deadline=9.0),
        Request(3, 1, 0.0, deadline=5.0),
        Request(4, 1, 0.0, deadline=11.0),
        Request(5, 1, 0.0, priority=1),
    ]
    drive(state, 0.0, *queued)

    assert [request.id for request in state.admission.queued] == [5, 3, 2, 1, 4]


def test_a_slow_device_leaves_a_deadline_to_a_faster_one() -> None:
    """A request that a slow device would serve too late waits; the slow device stays idle."""
    state = make_state(devices=3, batch_sizes=(1,))
    for _ in range(40):
        for device_id, execute_s in ((0, 1.0), (1, 1.0), (2, 1.6)):
            state.ledger.learn(device_id, 1, execute_s)
    drive(state, 1.0, *requests(2))
    several = [Request(index, 1, 1.0, deadline=2.5) for index in range(2, 5)]
    commands = drive(state, 1.0, *several)

    assert has_faster(state.ledger, state.ledger.devices[2][0])
    assert commands.dispatch == []
    assert commands.resolve == []


def test_after_many_drops_one_request_is_tried_anyway() -> None:
    """Otherwise a device that has become fast again would never be measured."""
    state = _learned()
    hopeless = [Request(index, 1, 0.0, deadline=3.0) for index in range(12)]
    commands = drive(state, 0.0, *hopeless)

    assert len(commands.resolve) == 8
    assert len(commands.dispatch) == 1


def test_a_deadline_needs_a_margin_if_times_vary() -> None:
    """The margin is two standard deviations: half of the inferences exceed the mean."""
    state = make_state(batch_sizes=(1,))
    for execute_s in (0.5, 1.5) * 300:
        state.ledger.learn(0, 1, execute_s)
    commands = drive(state, 0.0, Request(0, 1, 0.0, deadline=1.5))

    assert outcomes(commands.resolve) == [(0, "expired")]
    assert outcomes(drive(state, 0.0, Request(1, 1, 0.0, deadline=2.5)).resolve) == []


# A partial batch closes in time for the deadlines in it


def _state_with_times(execute_s: float = 0.004, **policy: Any) -> SchedulerState:
    """Return a state of one device that has answered four batches in this time, the last at 1.0."""
    state = make_state(max_queue_delay_s=0.02, **policy)
    for number in range(4):
        sent_at = 1.0 - (4 - number) * execute_s
        size = state.policy.max_batch_size
        (batch,) = drive(state, sent_at, Request(number, size, sent_at)).dispatch
        drive(state, sent_at + execute_s, answer(batch, sent_at + execute_s))
    return state


def test_a_batch_closes_in_time_for_a_deadline() -> None:
    """It waits for company until the execute time and a margin are left, not until it is late."""
    state = _state_with_times(batch_sizes=(8,))
    drive(state, 1.0, Request(4, 1, 1.0, deadline=1.010))
    wakeup = state.next_wakeup()
    assert wakeup == pytest.approx(1.010 - 0.004 - 0.002)
    (batch,) = drive(state, wakeup).dispatch

    assert outcomes(drive(state, 1.009, answer(batch, 1.009)).resolve) == [(4, "done")]


def test_a_batch_closes_for_the_earliest_deadline_of_all_in_it() -> None:
    """A later request of another tenant and a lower priority counts as well."""
    state = _state_with_times(batch_sizes=(8,))
    drive(state, 1.0, Request(4, 1, 1.0, deadline=9.0, priority=1), Request(5, 1, 1.0))
    assert state.next_wakeup() == pytest.approx(1.020)
    drive(state, 1.001, Request(6, 1, 1.001, deadline=1.009, priority=-1, tenant="b"))

    assert state.next_wakeup() == pytest.approx(1.003)
    assert len(drive(state, 1.003).dispatch[0].parts) == 3


def test_a_deadline_that_leaves_no_time_to_wait_closes_the_batch_at_once() -> None:
    """The request is in time if it goes now."""
    state = _state_with_times(batch_sizes=(8,))

    assert len(drive(state, 1.0, Request(4, 1, 1.0, deadline=1.0045)).dispatch) == 1


def test_a_request_without_hope_leaves_its_room_to_a_waiting_one() -> None:
    """The queue has room again in the same call."""
    state = _state_with_times(batch_sizes=(8,), max_samples=1)
    hopeless = Request(4, 1, 1.0, deadline=1.001)
    drive(state, 1.0, hopeless, Request(5, 1, 1.0))

    assert state.requests[5].state is not RequestState.WAITING


def test_a_request_without_hope_does_not_close_the_batch_of_the_others() -> None:
    """It expires at once, and the others wait for company."""
    state = _state_with_times(batch_sizes=(8,))
    hopeless = Request(4, 1, 1.0, deadline=1.001)
    commands = drive(state, 1.0, hopeless, *requests(2, first_id=5, accepted_at=1.0))

    assert (commands.dispatch, outcomes(commands.resolve)) == ([], [(4, "expired")])
    assert state.next_wakeup() == pytest.approx(1.020)


@pytest.mark.parametrize(("stay_s", "waits_s"), [(0.010, 0.0), (0.070, 0.004), (0.1, 0.020)])
def test_before_any_time_is_measured_a_deadline_leaves_ample_room(
    stay_s: float, waits_s: float
) -> None:
    """An inference may take a few times the delay, so a near deadline does not wait for company."""
    state = make_state(batch_sizes=(8,), max_queue_delay_s=0.02)
    (batch, *_) = (
        drive(state, 1.0, Request(0, 1, 1.0, deadline=1.0 + stay_s)).dispatch
        or drive(state, state.next_wakeup() or 0.0).dispatch
    )

    assert batch.submitted_at == pytest.approx(1.0 + waits_s)


def test_the_rest_of_a_batch_is_not_left_behind_its_deadline() -> None:
    """With another inference ahead of it, the rest would be late: the batch holds all, padded."""
    state = make_state(batch_sizes=(4, 8))
    for number, (size, execute_s) in enumerate([(4, 0.5), (8, 0.8)] * 4):
        (batch,) = drive(state, float(number), Request(number, size, float(number))).dispatch
        drive(state, number + execute_s, answer(batch, number + execute_s))
    urgent = Request(9, 1, 10.0, deadline=10.85, priority=-1)
    (batch,) = drive(state, 10.0, Request(8, 4, 10.0), urgent).dispatch

    assert cargo(batch) == [(8, 0, 4), (9, 0, 1)]
