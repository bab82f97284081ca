"""Parts to be retried, by the device to avoid, and the budget of the host for that."""

from __future__ import annotations

import pytest

from qaic_sched.core.events import PolicyChanged
from qaic_sched.core.model import Failure, Part, Policy, Request, RetryGroup
from qaic_sched.core.retries import Retries, RetryBudget
from tests.core.harness import answer, drive, lost, make_state, outcomes, requests


def _group(request: Request, failed_on: int, parts: int = 1) -> RetryGroup:
    return RetryGroup([Part(request, each, 1) for each in range(parts)], failed_on, None)


def test_groups_line_up_by_the_device_that_failed_them() -> None:
    """Groups of one device keep their order, and delay no groups of another."""
    retries = Retries()
    request = Request(0, 9, 0.0)
    first, second, other = _group(request, 3), _group(request, 3), _group(request, 1)
    for group in (first, second, other):
        retries.add(group)

    assert retries.devices() == (3, 1)
    assert (retries.first(3), retries.first(1), retries.first(2)) == (first, other, None)
    assert list(retries) == [first, second, other]
    assert request.retrying == (*first.parts, *second.parts, *other.parts)


def test_a_group_that_is_sent_again_leaves_nothing_behind() -> None:
    """A group may leave from the front, the middle or as the last one."""
    retries = Retries()
    request = Request(0, 9, 0.0)
    groups = [_group(request, 0, parts=2) for _ in range(3)]
    for group in groups:
        retries.add(group)
    retries.take(groups[1])
    retries.take(groups[0])

    left = tuple(groups[2].parts)
    assert (len(retries), retries.first(0), request.retrying) == (1, groups[2], left)
    retries.take(groups[2])
    assert (len(retries), retries.devices(), request.retrying) == (0, (), ())


def test_parts_of_resolved_requests_leave_their_group() -> None:
    """The group goes with its last part, and the failure then has one group less to wait for."""
    retries = Retries()
    group = _group(Request(0, 9, 0.0), 0, parts=2)
    group.failure = failure = Failure(0)
    failure.num_open = 1
    retries.add(group)
    first, second = group.parts
    retries.drop(first)
    assert (group.parts, len(retries), failure.num_open) == ([second], 1, 1)
    assert failure.may_be_requests

    retries.drop(second)
    assert (len(retries), retries.devices(), failure.num_open) == (0, (), 0)


# The budget


def _spend(budget: RetryBudget, inferences: int, most: int = 1000) -> int:
    """Spend retries until none are left; return their number."""
    count = 0
    while count < most and budget.spend(inferences):
        count += 1
        budget.check()
    return count


def test_the_reserve_is_sixteen_full_batches() -> None:
    """A few failures are retried even without any inferences before."""
    assert _spend(RetryBudget(Policy()), 0) == 16
    assert _spend(RetryBudget(Policy(batch_sizes=(1, 8))), 0) == 128


@pytest.mark.parametrize(("share", "retries"), [(0.0, 0), (0.2, 20), (1.0, 100)])
def test_beyond_the_reserve_retries_are_a_fraction_of_the_inferences(
    share: float, retries: int
) -> None:
    """Each inference earns a fraction of a retry."""
    budget = RetryBudget(Policy(retry_max_extra=share, batch_sizes=(10,)))
    _spend(budget, 0)

    assert _spend(budget, 100) == retries
    assert _spend(budget, 100) == 0


def test_no_more_is_saved_up_than_the_reserve() -> None:
    """A million inferences without a failure do not pay for a flood of retries."""
    budget = RetryBudget(Policy())
    _spend(budget, 0)

    assert _spend(budget, 1_000_000) == 16


def test_beyond_the_budget_a_request_fails_with_its_first_failure() -> None:
    """Its last batch is the failed one; requests before it were retried."""
    state = make_state(devices=20)
    commands = drive(state, 0.0, *requests(20))
    failed = [answer(each, 1.0, failed=True) for each in commands.dispatch]

    assert outcomes(drive(state, 1.0, *failed).resolve) == [
        (number, "failed") for number in range(16, 20)
    ]
    assert sorted(part.request.id for each in state.batches.values() for part in each.parts) == [
        *range(16)
    ]
    assert state.num_retries == 16


def test_retries_of_lost_devices_have_no_budget() -> None:
    """When 19 of 20 devices are lost, the last one retries all their batches."""
    state = make_state(devices=20, set_size=2)
    dispatch = drive(state, 0.0, *requests(40)).dispatch
    gone = [lost(each, 1.0) for each in dispatch if each.activation.device_id]
    assert (len(gone), drive(state, 1.0, *gone).resolve) == (38, [])

    assert state.retry_budget.num_spent == 0
    now = 1.0
    while state.batches:
        now += 1.0
        drive(state, now, *(answer(each, now) for each in list(state.batches.values())))
    assert state.statistics().done == 40


def test_a_stuck_device_costs_no_budget() -> None:
    """The device is the cause, not its load."""
    state = make_state(devices=20, set_size=2, dispatch_timeout_s=2.0)
    drive(state, 0.0, *requests(40))
    first = [each for each in state.batches.values() if not each.activation.device_id]
    drive(state, 1.0, *(answer(each, 1.0) for each in first))
    assert drive(state, 2.0).resolve == []

    assert (state.retry_budget.num_spent, len(state.retries)) == (0, 36)


def test_a_change_of_the_fraction_counts_from_then_on() -> None:
    """Retries earned before are kept."""
    state = make_state(retry_max_extra=1.0, batch_sizes=(10,))
    budget = state.retry_budget
    _spend(budget, 0)
    state.num_batches = 30
    drive(state, 0.0, PolicyChanged(Policy(retry_max_extra=0.1, batch_sizes=(10,))))

    assert _spend(budget, 30) == 30
    assert _spend(budget, 80) == 5


def test_a_budget_that_is_spent_as_it_is_earned_is_no_violation() -> None:
    """Rounding in a sum of fifths does not count as an overrun."""
    budget = RetryBudget(Policy(retry_max_extra=0.2))
    spent = [_spend(budget, inferences) for inferences in range(501)]

    assert sum(spent) == budget.num_spent
    assert budget.num_spent in (16 + 99, 16 + 100)


def test_more_retries_than_the_budget_are_found() -> None:
    """The checker can fail."""
    budget = RetryBudget(Policy())
    _spend(budget, 0)
    budget.num_spent += 1

    with pytest.raises(AssertionError, match="more retries than the budget"):
        budget.check()
