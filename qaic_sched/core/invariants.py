"""Every rule of the core as an assertion against a recount. Slow; for tests and simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qaic_sched.core.batching import closes_at, compiled_size
from qaic_sched.core.health import DeviceState
from qaic_sched.core.model import RequestState
from qaic_sched.core.placement import choose, choose_elsewhere, has_faster
from qaic_sched.core.tenant_queue import urgency

if TYPE_CHECKING:
    from qaic_sched.core.model import Failure, Part, Request
    from qaic_sched.core.request_queue import RequestQueue
    from qaic_sched.core.state import SchedulerState

__all__ = ["check_invariants"]


def check_invariants(state: SchedulerState) -> None:
    """Raise `AssertionError` if the state breaks a rule; to be called after `handle`.

    No later decision changes because of the check.
    """
    _check_conservation(state)
    _check_requests(state)
    _check_queues(state)
    _check_slots(state)
    _check_health(state)
    _check_watch(state)
    _check_time(state)
    _check_hedges(state)
    _check_nothing_idles(state)


def _check_conservation(state: SchedulerState) -> None:
    states = [request.state for request in state.requests.values()]
    waiting = states.count(RequestState.WAITING)
    queued = states.count(RequestState.QUEUED)
    in_flight = states.count(RequestState.IN_FLIGHT)
    assert state.admission.waiting.num_requests == waiting
    assert state.num_in_flight == in_flight
    ended = sum(state.totals.values()) - state.totals[RequestState.REJECTED]
    assert state.accepted == ended + waiting + queued + in_flight
    if state.is_closed:
        assert not state.requests, "a closed scheduler owes an answer"


def _check_requests(state: SchedulerState) -> None:
    in_flight: dict[Request, int] = {}
    copies: dict[Part, int] = {}
    for batch in state.batches.values():
        for part in batch.parts:
            copies[part] = copies.get(part, 0) + 1
    for part, count in copies.items():
        assert part.copies == count, "a hedge counted twice"
        if not part.is_settled:
            in_flight[part.request] = in_flight.get(part.request, 0) + part.samples
    retrying: list[Part] = []
    for request in state.requests.values():
        assert not request.is_resolved
        assert request.in_flight == in_flight.get(request, 0)
        retrying += request.retrying
        dispatched = request.in_flight + sum(part.samples for part in request.retrying)
        assert 0 <= dispatched <= request.cursor <= request.samples
        waits = request.cursor < request.samples or bool(request.retrying)
        assert waits == (request.state is not RequestState.IN_FLIGHT)
        assert waits or request.in_flight, f"{request} is done and not resolved"
        assert request.state is not RequestState.WAITING or request.cursor == 0
    _check_groups(state, retrying)


def _check_groups(state: SchedulerState, retrying: list[Part]) -> None:
    groups = set(state.retries)
    queued = [part for group in groups for part in group.parts]
    assert len(queued) == len(retrying), "a part to be retried is lost"
    assert set(queued) == set(retrying), "a part to be retried is lost"
    assert all(group.parts for group in groups), "an empty group"
    assert all(part.group in groups for part in queued), "a part is in another group"
    groups.update(
        part.group for batch in state.batches.values() for part in batch.parts if part.group
    )
    num_open: dict[Failure, int] = {}
    for group in groups:
        if group.failure is not None:
            num_open[group.failure] = num_open.get(group.failure, 0) + 1
    for failure, count in num_open.items():
        assert failure.num_open == count, "a failure that is never explained"


def _check_queues(state: SchedulerState) -> None:
    policy, queued, waiting = state.policy, state.admission.queued, state.admission.waiting
    _check_queue(state, queued)
    _check_queue(state, waiting)
    # Requests of an earlier policy stay; while they exceed the bound, no request joins them.
    is_old = all(each.id <= state.admission.last_of_old_policy for each in queued)
    may_exceed = is_old or queued.num_requests == 1
    assert may_exceed or queued.samples <= policy.max_samples, "more queued than the bound"
    if policy.max_bytes is not None:
        is_within = queued.num_bytes <= policy.max_bytes
        assert may_exceed or is_within, "more bytes queued than the bound"
    head = waiting.head()
    assert head is None or not state.admission.has_room(head), "waits although there is room"
    is_old = all(each.id <= state.admission.last_of_old_policy for each in waiting)
    assert policy.waits_when_full or is_old, "waits although the policy rejects"


def _check_queue(state: SchedulerState, queue: RequestQueue) -> None:
    here = list(queue)
    undispatched = (each for each in state.requests.values() if each.cursor < each.samples)
    assert set(here) == {each for each in undispatched if each.state is queue.state}
    for tenant in {each.tenant for each in here}:
        own = [each for each in here if each.tenant == tenant]
        assert own == sorted(own, key=_order_of_service)
    queue.check()
    assert queue.num_requests == len(here)
    assert queue.samples == sum(each.samples - each.cursor for each in here)
    assert queue.num_bytes == sum(each.num_bytes for each in here)
    assert queue.num_stale <= len(here), "stale entries are over half"


def _order_of_service(request: Request) -> tuple[int, float, int]:
    return -request.priority, urgency(request), request.id


def _check_slots(state: SchedulerState) -> None:
    state.ledger.check()
    for batch in state.batches.values():
        assert batch in batch.activation.held, "a slot freed too early"
        samples = sum(part.samples for part in batch.parts)
        assert samples == (0 if batch.is_abandoned else batch.samples), "a part is lost"
        assert batch.samples > 0, "an empty batch"
        assert batch.size == compiled_size(state.policy, batch.samples)
        if not (state.policy.shares_rows or batch.is_abandoned):
            (part,) = batch.parts
            assert part.samples == part.request.samples, "a request that must not be split is"
    held = [batch for activation in state.ledger for batch in activation.held]
    assert len(held) == len(state.batches), "a slot that is never freed"
    state.retry_budget.check()
    state.hedging.check(state.num_batches)


def _check_health(state: SchedulerState) -> None:
    state.health.check()
    tenants = state.admission.queued.tenants
    assert all(until > state.now for until in tenants.isolated.values()), "isolated for ever"
    for device_id, activations in state.ledger.devices.items():
        parked = [each.is_parked for each in activations if not each.is_retiring]
        match state.health.state_of(device_id):
            case DeviceState.READY:
                assert not any(parked), f"device {device_id} is ready and not used"
            case DeviceState.PROBATION:
                assert parked == [index > 0 for index in range(len(parked))]
            case _:
                assert all(parked), f"device {device_id} is used in quarantine"
    _check_retiring(state)


def _check_retiring(state: SchedulerState) -> None:
    ledger = state.ledger
    assert ledger.leaving.keys() <= ledger.retiring.keys(), "a device that is never closed"
    for device_id, activations in ledger.devices.items():
        leave = ledger.retiring.get(device_id, [])
        assert all(each in activations for each in leave), "removed, and still retiring"
        for each in activations:
            assert each in leave or not each.is_retiring, f"{each} retires forever"
            assert each.is_parked or not each.is_retiring, f"{each} retires and is chosen"
    if ledger.retiring and not state.speeds.has_live() and not state.is_closed:
        useful = (each for each in ledger.leaving if not state.health.is_quarantined(each))
        assert not any(useful), "a retiring device could work, and no other does"


def _check_watch(state: SchedulerState) -> None:
    for batch in state.batches.values():
        is_seen = batch.is_abandoned or batch.activation in state.stuck_watch
        assert is_seen, f"batch {batch.id} could be stuck unnoticed"


def _check_time(state: SchedulerState) -> None:
    due = [each.deadline for each in state.requests.values() if each.deadline is not None]
    next_at = min(due, default=float("inf"))
    assert state.deadlines.next_at() == next_at
    assert len(state.deadlines) <= 2 * len(due) + 1, "stale deadlines are over half"
    wakeup = state.next_wakeup()
    assert wakeup is None or wakeup > state.now, "something is due and was not done"


def _check_hedges(state: SchedulerState) -> None:
    hedging = state.hedging
    sent_now = sum(each.submitted_at == state.now for each in state.batches.values())
    # Batches of this call may have earned a hedge too late for it.
    has_budget = hedging.has_budget(state.num_batches - sent_now) and not hedging.is_crowded
    for late in hedging.unhedged:
        able = choose_elsewhere(state.ledger, late.device_id)
        may = has_budget and able is not None and able.device_id != late.device_id
        may = may and any(map(hedging.parts_to_hedge, late.held))
        assert not may, f"{able} could repeat the batches of {late}"


def _check_nothing_idles(state: SchedulerState) -> None:
    ledger, policy, now = state.ledger, state.policy, state.now
    for device_id in state.retries.devices():
        able = choose_elsewhere(ledger, device_id)
        assert able is None, f"{able} could retry what failed on device {device_id}"
    queued, waiting = state.admission.queued, state.admission.waiting
    if ledger.devices and not state.speeds.has_live():
        assert len(state.requests) == state.num_in_flight, "queued, and no device works"
    if not queued.samples:
        return
    size, batches = policy.max_batch_size, queued.samples // policy.max_batch_size
    if not policy.shares_rows and (head := queued.head()) is not None:
        size, batches = compiled_size(policy, head.samples), queued.num_requests
    activation, closes = choose(ledger, now, size, batches)
    if activation is not None:
        if has_faster(ledger, activation):
            return  # it may be left to a faster device, for the sake of a deadline
        assert policy.shares_rows, f"{activation} could have a request and has none"
        can_grow = not (state.is_draining or waiting.num_requests)
        closes = closes_at(policy, queued, activation, can_grow=can_grow)
    assert closes > now, f"{activation} could have a batch and has none"
    assert closes == state.batch_closes_at
