"""Live changes of `set_size` and of the policy."""

from __future__ import annotations

from qaic_sched.core.events import (
    DeviceRetired,
    PolicyChanged,
    SetSizeChanged,
)
from qaic_sched.core.model import Policy, Request
from qaic_sched.core.state import SchedulerState
from tests.core.harness import (
    answer,
    answer_all,
    drive,
    health_of,
    held_by,
    make_state,
    outcomes,
    places,
    requests,
)


def test_a_larger_set_size_is_used_at_once() -> None:
    """Activations that were full get more batches."""
    state = make_state(num_activations=2)
    drive(state, 0.0, *requests(6))
    assert len(state.batches) == 2

    assert places(drive(state, 0.1, SetSizeChanged(2))) == [(0, 0), (0, 1)]


def test_a_smaller_set_size_lets_activations_drain() -> None:
    """An activation gets no batch while it holds as many as the new set_size."""
    state = make_state(set_size=3)
    drive(state, 0.0, *requests(6))
    drive(state, 0.1, SetSizeChanged(1))
    sent = [len(answer_first(state, 0.2 + number / 10)) for number in range(4)]

    assert sent == [0, 0, 1, 1]


def answer_first(state: SchedulerState, now: float) -> list[object]:
    """Answer the oldest batch; return the batches that are dispatched."""
    first = next(iter(state.batches.values()))
    return [*drive(state, now, answer(first, now)).dispatch]


def test_admitted_requests_stay_under_a_smaller_bound() -> None:
    """Newcomers follow the new policy, and waiting requests are still admitted."""
    state = make_state(max_samples=8, batch_sizes=(1,))
    drive(state, 0.0, *requests(12))
    statistics = state.statistics()
    assert (statistics.in_flight, statistics.queued, statistics.waiting) == (1, 8, 3)
    policy = Policy(batch_sizes=(1,), max_samples=2, waits_when_full=False, hedge_after=None)
    commands = drive(state, 1.0, PolicyChanged(policy))
    assert commands.resolve == []

    commands = drive(state, 1.0, Request(12, 1, 1.0))
    assert outcomes(commands.resolve) == [(12, "rejected")]
    for number in range(12):
        answer_all(state, 2.0 + number)
    assert state.statistics().done == 12


def test_a_shorter_timeout_applies_to_running_batches() -> None:
    """A batch that is stuck by the new policy is retried elsewhere in the same call."""
    state = make_state(devices=2, dispatch_timeout_s=60.0)
    drive(state, 0.0, *requests(2))
    drive(state, 1.0, answer(held_by(state, 1)[0], 1.0), DeviceRetired(0))
    policy = Policy(dispatch_timeout_s=2.0, hedge_after=None)
    commands = drive(state, 5.0, PolicyChanged(policy))

    assert places(commands) == [(1, 0)]
    assert health_of(state) == "quarantined"


def test_hedges_begin_with_a_policy_that_has_them() -> None:
    """A batch that is late by then is hedged, within the new budget."""
    state = make_state(devices=2)
    for number in range(6):
        drive(state, number / 100, Request(number, 1, number / 100))
        answer_all(state, number / 100 + 0.005)
    (batch,) = drive(state, 1.0, Request(6, 1, 1.0)).dispatch
    commands = drive(state, 2.0, PolicyChanged(Policy(hedge_after=2.0, hedge_max_extra=0.5)))

    assert [each.is_hedge for each in commands.dispatch] == [True]
    assert commands.dispatch[0].parts == batch.parts
    drive(state, 2.0, PolicyChanged(Policy(hedge_after=None, hedge_max_extra=0.0)))
    assert state.hedging.num_hedges == 0


def test_hedges_end_with_a_policy_without_them() -> None:
    """A late batch that waits for the budget is forgotten."""
    state = make_state(devices=2, hedge_after=2.0, hedge_max_extra=0.0)
    drive(state, 0.0, *requests(2))
    answer_all(state, 0.005)
    drive(state, 1.0, Request(6, 1, 1.0))
    drive(state, state.next_wakeup() or 0.0)
    assert len(state.hedging.unhedged) == 1
    drive(state, 2.0, PolicyChanged(Policy(hedge_after=None, hedge_max_extra=1.0)))

    assert (state.hedging.unhedged, state.hedging.num_hedges) == ([], 0)
