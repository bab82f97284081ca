"""Early drop: requests that cannot meet their deadline, and those that a smaller batch saves."""

from __future__ import annotations

from qaic_sched.core.batching import fitting_size
from qaic_sched.core.model import Policy, Request
from qaic_sched.core.placement import has_faster
from qaic_sched.core.state import SchedulerState
from tests.core.harness import cargo, drive, make_state, outcomes, requests

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
