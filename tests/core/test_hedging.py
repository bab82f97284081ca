"""Hedges: what a late activation holds is repeated elsewhere, and only one answer counts."""

from __future__ import annotations

from typing import Any

import pytest

from qaic_sched.core.events import Cancelled, Completed, SetSizeChanged
from qaic_sched.core.model import Batch, Fault, Request
from qaic_sched.core.state import SchedulerState
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


def _measured(devices: int = 2, **policy: Any) -> SchedulerState:
    """Inferences take 0.1 s, so they are late after 0.3; nothing is in flight at 1.0."""
    state = make_state(devices, hedge_after=3.0, **{"hedge_max_extra": 1.0, **policy})
    drive(state, 0.0, *requests(devices))
    answer_all(state, 0.1)
    drive(state, 1.0)
    return state


def _hedged(state: SchedulerState, samples: int = 1) -> tuple[Batch, Batch]:
    """Request 9 is sent at 1.0 and late at 1.3: its batch, and the copy of it."""
    (batch,) = drive(state, 1.0, Request(9, samples, 1.0)).dispatch
    assert state.next_wakeup() == pytest.approx(1.3)
    (copy,) = drive(state, state.next_wakeup() or 0.0).dispatch
    assert (cargo(copy), copy.is_hedge, batch.is_hedge) == (cargo(batch), True, False)
    assert copy.activation.device_id != batch.activation.device_id
    return batch, copy


def test_timers_that_may_be_early_are_set_a_tick_late_for_a_look_but_for_no_deadline() -> None:
    """Or they would find nothing to do and be set again, many times."""
    state = _measured()
    drive(state, 1.0, Request(9, 1, 1.0))
    assert (state.next_wakeup(), state.next_wakeup(0.25)) == pytest.approx((1.3, 1.55))
    drive(state, 1.0, Request(10, 1, 1.0, deadline=1.4))

    assert (state.next_wakeup(), state.next_wakeup(0.25)) == pytest.approx((1.3, 1.4))


@pytest.mark.parametrize("first", [0, 1])
def test_the_first_answer_counts_and_the_other_reaches_nobody(first: int) -> None:
    """Whichever it is; each frees its own slot."""
    state = _measured()
    pair = _hedged(state)
    assert outcomes(drive(state, 1.4, answer(pair[first], 1.4)).resolve) == [(9, "done")]

    assert drive(state, 1.5, answer(pair[1 - first], 1.5)).resolve == []
    assert state.batches == {}


@pytest.mark.parametrize("first", [0, 1])
def test_a_copy_that_fails_costs_nothing_while_the_other_may_answer(first: int) -> None:
    """It is no attempt, and nothing is tried again."""
    state = _measured(max_attempts=1)
    pair = _hedged(state)
    commands = drive(state, 1.4, answer(pair[first], 1.4, failed=True))
    assert (commands.resolve, commands.dispatch) == ([], [])

    assert outcomes(drive(state, 1.5, answer(pair[1 - first], 1.5)).resolve) == [(9, "done")]


def test_a_copy_that_fails_after_the_answer_is_not_tried_again() -> None:
    """Its samples are done."""
    state = _measured()
    batch, copy = _hedged(state)
    drive(state, 1.4, answer(copy, 1.4))
    commands = drive(state, 1.5, Completed(batch.id, 1.5, Fault.INFERENCE))

    assert (commands.resolve, commands.dispatch) == ([], [])


def test_copies_that_all_fail_are_one_attempt() -> None:
    """Then the part is tried again, as after any failure."""
    state = _measured(devices=3)
    batch, copy = _hedged(state)
    drive(state, 1.4, answer(batch, 1.4, failed=True))
    (again,) = drive(state, 1.5, answer(copy, 1.5, failed=True)).dispatch

    assert [part.attempts for part in again.parts] == [1]
    assert outcomes(answer_all(state, 1.6).resolve) == [(9, "done")]


def test_both_copies_may_hang() -> None:
    """Each device is found stuck in its own time; the request fails with the last one."""
    state = _measured()
    _hedged(state)
    ends = []
    while state.requests:
        ends += outcomes(drive(state, state.next_wakeup() or 0.0).resolve)

    assert ends == [(9, "failed")]
    assert len(state.batches) == 2
    assert (
        drive(state, 99.0, *(answer(each, 99.0) for each in state.batches.values())).resolve == []
    )


def test_half_of_a_request_is_hedged_while_the_rest_is_queued() -> None:
    """The request is done with its last part, once."""
    state = _measured()
    drive(state, 1.0, Request(8, 1, 1.0), Request(9, 2, 1.0))
    eight, nine = state.batches.values()
    drive(state, 1.05, answer(eight, 1.05))
    last = next(each for each in state.batches.values() if each is not nine)
    drive(state, 1.15, answer(last, 1.15))
    (copy,) = drive(state, state.next_wakeup() or 0.0).dispatch
    assert cargo(copy) == cargo(nine)

    assert outcomes(drive(state, 1.4, answer(copy, 1.4)).resolve) == [(9, "done")]
    assert drive(state, 1.5, answer(nine, 1.5)).resolve == []


def test_nothing_is_hedged_for_nobody_or_nowhere_or_beyond_the_budget() -> None:
    """A cancelled request, a device that is alone, no share for extra inferences."""
    cancelled = _measured()
    drive(cancelled, 1.0, Request(9, 1, 1.0))
    drive(cancelled, 1.1, Cancelled(9))
    alone, frugal = _measured(devices=1), _measured(hedge_max_extra=0.0)
    for state in (alone, frugal):
        drive(state, 1.0, Request(9, 1, 1.0))

    assert [drive(each, 1.5).dispatch for each in (cancelled, alone, frugal)] == [[], [], []]


def test_who_is_late_on_a_full_host_gets_the_next_free_slot() -> None:
    """Before anybody who is queued; else work would wait the longer the busier the host is."""
    state = _measured()
    drive(state, 1.0, *(Request(each, 1, 1.0) for each in range(9, 13)))
    first, second = state.batches.values()
    drive(state, 1.31)
    assert state.hedging.num_hedges == 0

    (copy,) = drive(state, 1.32, answer(second, 1.32)).dispatch
    assert (cargo(copy), copy.is_hedge) == (cargo(first), True)
    assert outcomes(drive(state, 1.42, answer(copy, 1.42)).resolve) == [(9, "done")]


def test_who_is_late_gets_a_slot_that_a_larger_set_size_makes() -> None:
    """In the same step, before those who are queued."""
    state = _measured()
    drive(state, 1.0, *(Request(each, 1, 1.0) for each in range(9, 13)))
    first, second = state.batches.values()
    drive(state, 1.31)
    copies = drive(state, 1.32, SetSizeChanged(2)).dispatch

    assert [(cargo(each), each.is_hedge) for each in copies] == [
        (cargo(first), True),
        (cargo(second), True),
    ]


def test_nobody_is_hedged_while_the_queue_is_crowded() -> None:
    """With over two batches queued per activation it would cost those more than it helps one."""
    state = _measured()
    drive(state, 1.0, *(Request(each, 1, 1.0) for each in range(9, 16)))
    _, second = state.batches.values()
    drive(state, 1.31)
    (sent,) = drive(state, 1.32, answer(second, 1.32)).dispatch
    assert (sent.is_hedge, state.admission.queued.samples) == (False, 4)

    (copy,) = drive(state, 1.42, answer(sent, 1.42)).dispatch
    assert copy.is_hedge


def test_who_is_late_no_longer_is_not_hedged() -> None:
    """It answered before a slot was free."""
    state = _measured()
    drive(state, 1.0, *(Request(each, 1, 1.0) for each in range(9, 13)))
    first, second = state.batches.values()
    drive(state, 1.31)
    drive(state, 1.32, answer(first, 1.32), answer(second, 1.32))

    assert (state.hedging.num_hedges, state.hedging.unhedged) == (0, [])


def test_what_the_budget_does_not_allow_yet_is_hedged_once_it_does() -> None:
    """One in eight inferences: the second hedge has to wait for a ninth inference."""
    state = _measured(devices=5, hedge_max_extra=1 / 8)
    drive(state, 1.0, Request(9, 1, 1.0), Request(10, 1, 1.0))
    (copy,) = drive(state, 1.31).dispatch
    assert cargo(copy)[0][0] == 9

    drive(state, 1.32, Request(11, 1, 1.32))
    assert (state.hedging.num_hedges, state.num_batches) == (1, 9)
    (copy,) = drive(state, 1.33).dispatch
    assert (copy.is_hedge, cargo(copy)[0][0]) == (True, 10)


def test_what_was_sent_before_anything_was_measured_is_hedged_as_well() -> None:
    """It is judged by what the others took; and nobody is forgotten who has answered by then."""
    state = make_state(3, hedge_after=3.0, hedge_max_extra=1.0)
    drive(state, 0.0, *requests(2))
    first, second = state.batches.values()
    drive(state, 0.1, answer(first, 0.1))
    (copy,) = drive(state, state.next_wakeup() or 0.0).dispatch
    assert (cargo(copy), state.now) == (cargo(second), pytest.approx(0.3))

    answer_all(state, 0.4)
    drive(state, 1.0, *requests(3, first_id=2, accepted_at=1.0))
    assert state.next_wakeup() == pytest.approx(1.0 + 3 * 0.2)
    assert len(drive(state, 1.1, *(answer(each, 1.1) for each in state.batches.values())).resolve)


def test_what_the_host_can_be_late_by_is_not_hedged() -> None:
    """Inferences of a tenth of a millisecond are late after ten milliseconds, not after 0.3."""
    state = make_state(2, hedge_after=3.0, hedge_max_extra=1.0)
    drive(state, 0.0, *requests(2))
    answer_all(state, 0.0001)
    drive(state, 1.0, Request(9, 1, 1.0))

    assert state.next_wakeup() == pytest.approx(1.010)


def test_a_slow_device_does_not_expire_what_a_fast_one_will_do_in_time() -> None:
    """Only who can be served in time by nobody is told so before the deadline."""
    state = make_state(devices=3)
    for _ in range(40):
        for device_id, execute_s in ((0, 0.01), (1, 0.01), (2, 0.05)):
            state.ledger.learn(device_id, 1, execute_s)
    commands = drive(state, 1.0, *requests(2))
    assert places(commands) == [(0, 0), (1, 0)]

    assert drive(state, 1.0, Request(2, 1, 1.0, deadline=1.03)).resolve == []
