"""Hedges: batches of late activations are repeated elsewhere, and the first answer counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qaic_sched.core.events import Cancelled, Completed, SetSizeChanged
from qaic_sched.core.invariants import check_invariants
from qaic_sched.core.model import Batch, Fault, Request
from qaic_sched.core.state import SchedulerState
from tests.core.harness import (
    answer,
    answer_all,
    attempts_of,
    cargo,
    drive,
    make_state,
    outcomes,
    places,
    requests,
)


def _measured(devices: int = 2, **policy: Any) -> SchedulerState:
    """Return a state with 0.1 s inferences, late after 0.3 s; nothing is in flight at 1.0."""
    state = make_state(devices, hedge_after=3.0, **{"hedge_max_extra": 1.0, **policy})
    drive(state, 0.0, *requests(devices))
    answer_all(state, 0.1)
    drive(state, 1.0)
    return state


def _hedged(state: SchedulerState, samples: int = 1) -> tuple[Batch, Batch]:
    """Send request 9 at 1.0, late at 1.3; return its batch and the hedge."""
    (batch,) = drive(state, 1.0, Request(9, samples, 1.0)).dispatch
    assert state.next_wakeup() == pytest.approx(1.3)
    (copy,) = drive(state, state.next_wakeup() or 0.0).dispatch
    assert (cargo(copy), copy.is_hedge, batch.is_hedge) == (cargo(batch), True, False)
    assert copy.activation.device_id != batch.activation.device_id
    return batch, copy


def test_a_timer_tick_delays_looks_but_no_deadline() -> None:
    """A timer that fires early would find nothing to do and be set again, many times."""
    state = _measured()
    drive(state, 1.0, Request(9, 1, 1.0))
    assert (state.next_wakeup(), state.next_wakeup(0.25)) == pytest.approx((1.3, 1.55))
    drive(state, 1.0, Request(10, 1, 1.0, deadline=1.4))

    assert (state.next_wakeup(), state.next_wakeup(0.25)) == pytest.approx((1.3, 1.4))


@pytest.mark.parametrize("first", [0, 1])
def test_the_first_answer_counts_and_the_other_is_ignored(first: int) -> None:
    """Either copy may be first; each frees its own slot."""
    state = _measured()
    pair = _hedged(state)
    assert outcomes(drive(state, 1.4, answer(pair[first], 1.4)).resolve) == [(9, "done")]

    assert drive(state, 1.5, answer(pair[1 - first], 1.5)).resolve == []
    assert state.batches == {}


@pytest.mark.parametrize("first", [0, 1])
def test_a_copy_that_fails_costs_nothing_while_the_other_may_answer(first: int) -> None:
    """The failure does not count as an attempt and causes no retry."""
    state = _measured(max_attempts=1)
    pair = _hedged(state)
    commands = drive(state, 1.4, answer(pair[first], 1.4, failed=True))
    assert (commands.resolve, commands.dispatch) == ([], [])

    assert outcomes(drive(state, 1.5, answer(pair[1 - first], 1.5)).resolve) == [(9, "done")]


def test_a_copy_that_fails_after_the_answer_is_not_retried() -> None:
    """Its samples are done."""
    state = _measured()
    batch, copy = _hedged(state)
    drive(state, 1.4, answer(copy, 1.4))
    commands = drive(state, 1.5, Completed(batch.id, 1.5, Fault.INFERENCE))

    assert (commands.resolve, commands.dispatch) == ([], [])


def test_copies_that_all_fail_are_one_attempt() -> None:
    """The part is then retried as after any failure."""
    state = _measured(devices=3)
    batch, copy = _hedged(state)
    drive(state, 1.4, answer(batch, 1.4, failed=True))
    (again,) = drive(state, 1.5, answer(copy, 1.5, failed=True)).dispatch

    assert [attempts_of(part) for part in again.parts] == [1]
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
    """The request is done once, with its last part."""
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


def test_no_hedge_for_a_resolved_request_or_without_device_or_budget() -> None:
    """There is none for a cancelled request, with a single device, or with a budget of 0."""
    cancelled = _measured()
    drive(cancelled, 1.0, Request(9, 1, 1.0))
    drive(cancelled, 1.1, Cancelled(9))
    alone, frugal = _measured(devices=1), _measured(hedge_max_extra=0.0)
    for state in (alone, frugal):
        drive(state, 1.0, Request(9, 1, 1.0))

    assert [drive(each, 1.5).dispatch for each in (cancelled, alone, frugal)] == [[], [], []]


def test_a_late_batch_on_a_full_host_gets_the_next_free_slot() -> None:
    """It goes before queued requests; otherwise hedges would wait longest on the busiest hosts."""
    state = _measured()
    drive(state, 1.0, *(Request(each, 1, 1.0) for each in range(9, 13)))
    first, second = state.batches.values()
    drive(state, 1.31)
    assert state.hedging.num_hedges == 0

    (copy,) = drive(state, 1.32, answer(second, 1.32)).dispatch
    assert (cargo(copy), copy.is_hedge) == (cargo(first), True)
    assert outcomes(drive(state, 1.42, answer(copy, 1.42)).resolve) == [(9, "done")]


def test_a_late_batch_gets_a_slot_of_a_larger_set_size() -> None:
    """It gets one in the same step, before queued requests."""
    state = _measured()
    drive(state, 1.0, *(Request(each, 1, 1.0) for each in range(9, 13)))
    first, second = state.batches.values()
    drive(state, 1.31)
    copies = drive(state, 1.32, SetSizeChanged(2)).dispatch

    assert [(cargo(each), each.is_hedge) for each in copies] == [
        (cargo(first), True),
        (cargo(second), True),
    ]


def test_no_hedge_while_the_queue_is_crowded() -> None:
    """With over two batches queued per activation, a hedge delays the queue more than it helps."""
    state = _measured()
    drive(state, 1.0, *(Request(each, 1, 1.0) for each in range(9, 16)))
    _, second = state.batches.values()
    drive(state, 1.31)
    (sent,) = drive(state, 1.32, answer(second, 1.32)).dispatch
    assert (sent.is_hedge, state.admission.queued.samples) == (False, 4)

    (copy,) = drive(state, 1.42, answer(sent, 1.42)).dispatch
    assert copy.is_hedge


def test_a_batch_answered_before_its_hedge_is_not_hedged() -> None:
    """It was answered before a slot was free."""
    state = _measured()
    drive(state, 1.0, *(Request(each, 1, 1.0) for each in range(9, 13)))
    first, second = state.batches.values()
    drive(state, 1.31)
    drive(state, 1.32, answer(first, 1.32), answer(second, 1.32))

    assert (state.hedging.num_hedges, state.hedging.unhedged) == (0, [])


def test_a_hedge_waits_for_its_budget() -> None:
    """With a budget of one in eight inferences, the second hedge waits for a ninth inference."""
    state = _measured(devices=5, hedge_max_extra=1 / 8)
    drive(state, 1.0, Request(9, 1, 1.0), Request(10, 1, 1.0))
    (copy,) = drive(state, 1.31).dispatch
    assert cargo(copy)[0][0] == 9

    drive(state, 1.32, Request(11, 1, 1.32))
    assert (state.hedging.num_hedges, state.num_batches) == (1, 9)
    (copy,) = drive(state, 1.33).dispatch
    assert (copy.is_hedge, cargo(copy)[0][0]) == (True, 10)


def test_a_batch_sent_before_any_measurement_is_hedged() -> None:
    """It is judged by the times measured since, and answered activations stay watched."""
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


def test_delays_of_a_few_milliseconds_are_not_hedged() -> None:
    """Inferences of 0.1 ms are late after 10 ms, not after 0.3."""
    state = make_state(2, hedge_after=3.0, hedge_max_extra=1.0)
    drive(state, 0.0, *requests(2))
    answer_all(state, 0.0001)
    drive(state, 1.0, Request(9, 1, 1.0))

    assert state.next_wakeup() == pytest.approx(1.010)


def test_a_slow_device_does_not_expire_requests_for_a_faster_one() -> None:
    """A request expires early only if no device can serve it in time."""
    state = make_state(devices=3)
    for _ in range(40):
        for device_id, execute_s in ((0, 0.01), (1, 0.01), (2, 0.05)):
            state.ledger.learn(device_id, 1, execute_s)
    commands = drive(state, 1.0, *requests(2))
    assert places(commands) == [(0, 0), (1, 0)]

    assert drive(state, 1.0, Request(2, 1, 1.0, deadline=1.03)).resolve == []


def test_the_checker_finds_a_missing_hedge() -> None:
    """A late batch without a hedge, with a free slot and a budget, is an `AssertionError`."""
    state = _measured(hedge_max_extra=0.0)
    drive(state, 1.0, Request(9, 1, 1.0))
    assert drive(state, 1.3).dispatch == []
    check_invariants(state)
    state.hedging.change(replace(state.policy, hedge_max_extra=1.0), state.num_batches)

    with pytest.raises(AssertionError, match="could repeat"):
        check_invariants(state)


def _with_late_answers(overtime: float, **policy: Any) -> SchedulerState:
    """Return a state in which one batch of ten was late, by `overtime` mean execution times."""
    state = _measured(**policy)
    for num_batches in (10, 20, 30, 40):
        state.hedging.lateness.record(overtime, num_batches)
    return state


@pytest.mark.parametrize(
    ("overtime", "share", "goes_first"), [(9.0, 1.0, True), (1.0, 1.0, False), (9.0, 0.05, False)]
)
def test_a_hedge_goes_ahead_of_the_queue_only_where_something_is_wrong(
    overtime: float, share: float, goes_first: bool
) -> None:
    """It does not where late batches soon end, nor where late batches are common."""
    state = _with_late_answers(overtime, hedge_max_extra=share)
    drive(state, 1.0, *(Request(each, 1, 1.0) for each in range(9, 13)))
    _, second = state.batches.values()
    (third,) = drive(state, 1.25, answer(second, 1.25)).dispatch
    drive(state, 1.31)
    (sent,) = drive(state, 1.35, answer(third, 1.35)).dispatch

    assert sent.is_hedge == goes_first


def test_another_hedge_waits_for_capacity_to_spare() -> None:
    """A quarter of the activations stays idle, beside those that queued batches need."""
    state = _with_late_answers(1.0, devices=4)
    drive(state, 1.0, *(Request(each, 1, 1.0) for each in range(9, 13)))
    first, *others = state.batches.values()
    drive(state, 1.2, answer(others[0], 1.2))
    drive(state, 1.29, answer(others[1], 1.29))
    drive(state, 1.29, Request(13, 1, 1.29))
    drive(state, 1.31)
    assert state.hedging.num_hedges == 0

    (copy,) = drive(state, 1.32, answer(others[2], 1.32)).dispatch
    assert (cargo(copy), copy.is_hedge) == (cargo(first), True)


def test_overtime_is_learned_from_late_answers() -> None:
    """After four of them, in mean execution times beyond the time when a batch is late."""
    state = _measured(devices=1)
    lateness = state.hedging.lateness
    for number in range(4):
        assert lateness.expected_overtime(1.0, state.num_batches) == float("inf")
        now = 10.0 * (1 + number)
        (batch,) = drive(state, now, Request(9 + number, 1, now)).dispatch
        over_s = 2.0 * batch.expected_s
        drive(state, now, answer(batch, now + 3 * batch.expected_s + over_s))

    assert lateness.expected_overtime(1.0, state.num_batches) == pytest.approx(2.0)
    assert lateness.expected_overtime(0.01, state.num_batches) == 0.0


def test_a_delay_of_the_host_says_nothing_about_hedges() -> None:
    """An inference of 0.1 ms that takes 5 ms is not late."""
    state = make_state(1)
    for number in range(9):
        (batch,) = drive(state, float(number), Request(number, 1, float(number))).dispatch
        drive(state, number + 0.5, answer(batch, number + (0.005 if number > 4 else 0.0001)))

    assert state.hedging.lateness.expected_overtime(1.0, state.num_batches) == float("inf")
