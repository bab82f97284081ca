"""The checker can fail: a healthy state passes, and each corruption of one field is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from qaic_sched.core.events import Closed
from qaic_sched.core.invariants import check_invariants
from qaic_sched.core.model import Batch, Part, Request, RequestState, RetryGroup
from qaic_sched.core.state import SchedulerState
from qaic_sched.core.tenant_queue import TenantQueue
from tests.core.harness import answer, drive, make_state, requests


def _a_rich_state() -> SchedulerState:
    """Return a state with requests in flight, half dispatched, queued, waiting and retrying.

    Requests 0 and 1 are in flight, 2 waits for room on device 1 to be retried, 3 is dispatched up
    to its last 4 samples, 4 and 5 are queued, 6 and 7 wait for room.
    """
    state = make_state(devices=2, set_size=2, batch_sizes=(1, 2, 4), max_samples=12, max_bytes=90)
    first = drive(state, 0.0, Request(0, 4, 0.0, deadline=70.0), Request(1, 4, 0.0)).dispatch[0]
    drive(state, 0.0, Request(2, 4, 0.0, deadline=60.0))
    drive(state, 0.0, Request(3, 12, 0.0, num_bytes=30))
    drive(state, 0.0, *requests(2, first_id=4, samples=2, num_bytes=30, deadline=80.0))
    drive(state, 0.0, *requests(2, first_id=6, samples=5, num_bytes=10))
    again = next(each for each in state.batches.values() if each.parts[0].request.id == 2)
    assert again.activation is first.activation
    drive(state, 1.0, answer(again, 1.0, failed=True))
    return state


def test_a_healthy_state_passes() -> None:
    """The state that the corruptions start from has requests in every unresolved state."""
    state = _a_rich_state()
    statistics = state.statistics()

    check_invariants(state)
    assert (statistics.in_flight, statistics.queued, statistics.waiting) == (2, 4, 2)
    assert [part.request.id for group in state.retries for part in group.parts] == [2]
    assert state.requests[3].cursor == 8


def _lose_a_request(state: SchedulerState) -> None:
    del state.requests[0]


def _lose_a_queued_request(state: SchedulerState) -> None:
    state.accepted -= 1
    del state.requests[4]


def _lose_a_waiting_request(state: SchedulerState) -> None:
    state.accepted -= 1
    del state.requests[7]


def _count_an_acceptance_twice(state: SchedulerState) -> None:
    state.accepted += 1


def _forget_an_outcome(state: SchedulerState) -> None:
    state.totals[RequestState.DONE] -= 1


def _call_a_request_in_flight_waiting(state: SchedulerState) -> None:
    state.requests[0].state = RequestState.WAITING


def _call_a_request_in_flight_queued(state: SchedulerState) -> None:
    state.requests[0].state = RequestState.QUEUED


def _call_a_queued_request_in_flight(state: SchedulerState) -> None:
    state.requests[4].state = RequestState.IN_FLIGHT


def _keep_a_resolved_request(state: SchedulerState) -> None:
    state.requests[0].state = RequestState.DONE
    state.accepted -= 1


def _count_a_waiting_request_as_queued(state: SchedulerState) -> None:
    state.admission.queued.num_requests += 1
    state.admission.waiting.num_requests -= 1


def _hide_a_queued_request(state: SchedulerState) -> None:
    state.admission.queued.num_requests -= 1


def _call_a_closed_state_closed_too_early(state: SchedulerState) -> None:
    state.is_closed = True


def _lose_samples_in_flight(state: SchedulerState) -> None:
    state.requests[0].in_flight -= 1


def _drop_a_completion(state: SchedulerState) -> None:
    """Free the slot without settling the batch's parts."""
    batch = next(iter(state.batches.values()))
    del state.batches[batch.id]
    state.ledger.release(batch, state.now)


def _settle_a_part_without_its_request(state: SchedulerState) -> None:
    next(iter(state.batches.values())).parts.clear()


def _lose_a_retry(state: SchedulerState) -> None:
    state.retries._by_device.clear()


def _retry_a_part_twice(state: SchedulerState) -> None:
    group = next(iter(state.retries))
    copies = [Part(each.request, each.offset, each.samples) for each in group.parts]
    state.retries._by_device[group.failed_on][RetryGroup(copies, group.failed_on, None)] = None


def _forget_that_samples_are_retried(state: SchedulerState) -> None:
    state.requests[2].retrying = ()


def _move_a_cursor_back(state: SchedulerState) -> None:
    state.requests[3].cursor = 2


def _move_a_cursor_beyond_the_end(state: SchedulerState) -> None:
    state.requests[0].cursor = 5


def _dispatch_a_request_that_waits(state: SchedulerState) -> None:
    request = state.requests[6]
    request.cursor = 1
    state.admission.waiting.samples -= 1


def _leave_a_done_request_unresolved(state: SchedulerState) -> None:
    request = state.requests[0]
    request.in_flight = 0
    batch = next(each for each in state.batches.values() if each.parts[0].request is request)
    batch.parts = [Part(Request(99, 4, 0.0), 0, 4)]


def _queue_more_samples_than_the_bound(state: SchedulerState) -> None:
    state.policy = replace(state.policy, max_samples=7)


def _queue_more_bytes_than_the_bound(state: SchedulerState) -> None:
    state.policy = replace(state.policy, max_bytes=89)


def _leave_one_waiting_although_there_is_room(state: SchedulerState) -> None:
    state.policy = state.admission.policy = replace(state.policy, max_samples=100, max_bytes=None)


def _let_one_wait_although_the_policy_rejects(state: SchedulerState) -> None:
    state.policy = replace(state.policy, waits_when_full=False)


def _miscount_queued_samples(state: SchedulerState) -> None:
    state.admission.queued.samples -= 1


def _miscount_waiting_samples(state: SchedulerState) -> None:
    state.admission.waiting.samples += 1


def _miscount_queued_bytes(state: SchedulerState) -> None:
    state.admission.queued.num_bytes -= 1


def _serve_out_of_order(state: SchedulerState) -> None:
    state.requests[4].deadline, state.requests[5].deadline = 80.0, 70.5


def _drop_an_entry_of_the_queue(state: SchedulerState) -> None:
    _tenant_queue(state).pop()


def _double_an_entry_of_the_queue(state: SchedulerState) -> None:
    in_order = _tenant_queue(state).in_order
    in_order.append(in_order[-1])


def _tenant_queue(state: SchedulerState) -> TenantQueue:
    (queue,) = state.admission.queued._levels.of(0).queues.values()
    return queue


def _miscount_a_level(state: SchedulerState) -> None:
    state.admission.queued._levels.of(0).samples += 1


def _miscount_a_tenant(state: SchedulerState) -> None:
    _tenant_queue(state).account.samples += 1


def _hoard_stale_entries(state: SchedulerState) -> None:
    state.admission.queued.num_stale = 4


def _free_a_slot_too_early(state: SchedulerState) -> None:
    state.ledger.release(next(iter(state.batches.values())), state.now)


def _move_a_batch_to_another_activation(state: SchedulerState) -> None:
    next(iter(state.batches.values())).activation = state.ledger.devices[1][0]


def _pad_too_much(state: SchedulerState) -> None:
    next(iter(state.batches.values())).size = 8


def _forget_a_deadline(state: SchedulerState) -> None:
    state.requests[2].deadline = None


def _bring_a_deadline_forward(state: SchedulerState) -> None:
    state.requests[0].deadline = 2.0


def _hoard_stale_deadlines(state: SchedulerState) -> None:
    for request in requests(9, first_id=100, deadline=99.0):
        request.state = RequestState.DONE
        state.deadlines.add(request)


def _oversleep(state: SchedulerState) -> None:
    state.now = 60.0


def _close_a_batch_in_the_past(state: SchedulerState) -> None:
    state.batch_closes_at = 1.0


CORRUPTIONS: list[Callable[[SchedulerState], None]] = [
    _lose_a_request,
    _lose_a_queued_request,
    _lose_a_waiting_request,
    _count_an_acceptance_twice,
    _forget_an_outcome,
    _call_a_request_in_flight_waiting,
    _call_a_request_in_flight_queued,
    _call_a_queued_request_in_flight,
    _keep_a_resolved_request,
    _count_a_waiting_request_as_queued,
    _hide_a_queued_request,
    _call_a_closed_state_closed_too_early,
    _lose_samples_in_flight,
    _drop_a_completion,
    _settle_a_part_without_its_request,
    _lose_a_retry,
    _retry_a_part_twice,
    _forget_that_samples_are_retried,
    _move_a_cursor_back,
    _move_a_cursor_beyond_the_end,
    _dispatch_a_request_that_waits,
    _leave_a_done_request_unresolved,
    _queue_more_samples_than_the_bound,
    _queue_more_bytes_than_the_bound,
    _leave_one_waiting_although_there_is_room,
    _let_one_wait_although_the_policy_rejects,
    _miscount_queued_samples,
    _miscount_waiting_samples,
    _miscount_queued_bytes,
    _serve_out_of_order,
    _drop_an_entry_of_the_queue,
    _double_an_entry_of_the_queue,
    _miscount_a_level,
    _miscount_a_tenant,
    _hoard_stale_entries,
    _free_a_slot_too_early,
    _move_a_batch_to_another_activation,
    _pad_too_much,
    _forget_a_deadline,
    _bring_a_deadline_forward,
    _hoard_stale_deadlines,
    _oversleep,
    _close_a_batch_in_the_past,
]


@pytest.mark.parametrize("corrupt", CORRUPTIONS)
def test_a_corrupted_field_is_found(corrupt: Callable[[SchedulerState], None]) -> None:
    """Each corruption is an `AssertionError`."""
    state = _a_rich_state()
    corrupt(state)

    with pytest.raises(AssertionError):
        check_invariants(state)


def _a_state_with_a_partial_batch() -> SchedulerState:
    """Return a state with an idle activation and a partial batch that closes at 5."""
    state = make_state(batch_sizes=(1, 4), max_queue_delay_s=5.0)
    drive(state, 0.0, Request(0, 2, 0.0))
    assert state.batch_closes_at == 5.0
    return state


def _leave_an_activation_idle_in_a_drain(state: SchedulerState) -> None:
    state.is_draining = True


def _leave_an_activation_idle_with_a_full_batch_queued(state: SchedulerState) -> None:
    state.admission.queued.push(request := Request(1, 2, 0.0))
    state.requests[1] = request
    state.accepted += 1


def _leave_an_activation_idle_when_the_wait_is_over(state: SchedulerState) -> None:
    state.policy = replace(state.policy, max_queue_delay_s=0.0)


def _forget_when_the_batch_closes(state: SchedulerState) -> None:
    state.batch_closes_at = float("inf")


def _put_off_when_the_batch_closes(state: SchedulerState) -> None:
    state.batch_closes_at = 6.0


def _take_a_slot_for_nothing(state: SchedulerState) -> None:
    activation = state.ledger.devices[0][0]
    state.ledger.take(activation, state.now, Batch(7, activation, 1, 1, [], 0.0))


def _lose_a_free_slot(state: SchedulerState) -> None:
    state.ledger.speeds.groups[0].idle.clear()


def _send_an_empty_batch(state: SchedulerState) -> None:
    activation = state.ledger.devices[0][0]
    batch = state.batches[7] = Batch(7, activation, 1, 0, [], 0.0)
    state.ledger.take(activation, state.now, batch)
    state.stuck_watch.add(activation)


@pytest.mark.parametrize(
    "corrupt",
    [
        _leave_an_activation_idle_in_a_drain,
        _leave_an_activation_idle_with_a_full_batch_queued,
        _leave_an_activation_idle_when_the_wait_is_over,
        _forget_when_the_batch_closes,
        _put_off_when_the_batch_closes,
        _take_a_slot_for_nothing,
        _lose_a_free_slot,
        _send_an_empty_batch,
    ],
)
def test_work_left_undone_is_found(corrupt: Callable[[SchedulerState], None]) -> None:
    """An idle activation, a wrong wakeup or a wasted slot is an `AssertionError`."""
    state = _a_state_with_a_partial_batch()
    corrupt(state)

    with pytest.raises(AssertionError):
        check_invariants(state)


def test_a_closed_state_passes_with_batches_on_devices() -> None:
    """After a close, devices may still hold batches of resolved requests."""
    state = _a_rich_state()
    drive(state, 2.0, Closed())

    check_invariants(state)
    assert state.batches
    assert not state.requests
