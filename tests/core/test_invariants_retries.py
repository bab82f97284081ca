"""The checker can fail: a group of retries that is wrong, and a tenant that stays isolated."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qaic_sched.core.invariants import check_invariants
from qaic_sched.core.model import Part, RetryGroup
from qaic_sched.core.state import SchedulerState
from tests.core.harness import answer, drive, make_state, requests


def _a_state_with_a_retry() -> SchedulerState:
    """Return a state whose requests 0 and 1 failed on device 0 and wait for device 1."""
    state = make_state(devices=2, batch_sizes=(2,))
    (first,) = drive(state, 0.0, *requests(2)).dispatch
    drive(state, 0.0, *requests(2, first_id=2))
    drive(state, 1.0, answer(first, 1.0, failed=True))
    assert [part.request.id for group in state.retries for part in group.parts] == [0, 1]
    return state


def _retry_another_part(state: SchedulerState) -> None:
    group = next(iter(state.retries))
    group.parts = [Part(each.request, each.offset, each.samples) for each in group.parts]


def _retry_an_empty_group(state: SchedulerState) -> None:
    state.retries.add(RetryGroup([], 0, None))


def _put_a_part_into_another_group(state: SchedulerState) -> None:
    group = next(iter(state.retries))
    group.parts[0].group = RetryGroup([], 0, None)


def _wait_for_an_explanation_that_never_comes(state: SchedulerState) -> None:
    (failure,) = (group.failure for group in state.retries)
    assert failure is not None
    failure.num_open += 1


def _isolate_a_tenant_for_ever(state: SchedulerState) -> None:
    state.admission.queued.tenants.isolated["a"] = state.now


@pytest.mark.parametrize(
    "corrupt",
    [
        _retry_another_part,
        _retry_an_empty_group,
        _put_a_part_into_another_group,
        _wait_for_an_explanation_that_never_comes,
        _isolate_a_tenant_for_ever,
    ],
)
def test_retries_that_do_not_fit_are_found(corrupt: Callable[[SchedulerState], None]) -> None:
    """Parts, groups, failures and isolated tenants are checked."""
    state = _a_state_with_a_retry()
    check_invariants(state)
    corrupt(state)

    with pytest.raises(AssertionError):
        check_invariants(state)
