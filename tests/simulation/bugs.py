"""The bugs themselves: each function takes a method and returns one that breaks a promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qaic_sched.core.admission import Admission
from qaic_sched.core.deadlines import Deadlines
from qaic_sched.core.events import Cancelled, Completed, LoopStalled
from qaic_sched.core.health import Health
from qaic_sched.core.model import (
    Activation,
    Batch,
    DeviceNews,
    Fault,
    Part,
    Request,
    RequestState,
    RetryGroup,
)
from qaic_sched.core.outliers import Outliers
from qaic_sched.core.priority_levels import PriorityLevel, PriorityLevels
from qaic_sched.core.request_queue import RequestQueue
from qaic_sched.core.retries import Retries, RetryBudget
from qaic_sched.core.slot_ledger import SlotLedger
from qaic_sched.core.stalls import Stalls
from qaic_sched.core.state import SchedulerState
from qaic_sched.core.tenant_queue import TenantQueue
from qaic_sched.core.timeout_watch import TimeoutWatch

__all__ = [
    "Mutant",
    "Original",
    "blames_a_device_for_bad_values",
    "blames_a_device_for_each_retry",
    "counts_a_hedge_twice",
    "counts_a_stall_against_devices",
    "counts_in_flight_wrong",
    "drops_a_completion",
    "fails_the_company_of_a_culprit",
    "forgets_a_deadline",
    "forgets_a_partial_batch",
    "forgets_the_retry_budget",
    "forgets_waiting_requests",
    "frees_a_slot_at_the_timeout",
    "hedges_after_a_stall",
    "ignores_a_reported_loss",
    "keeps_a_loss_to_itself",
    "keeps_queues_that_ran_empty",
    "learns_from_a_stall",
    "lets_requests_share",
    "loses_a_retried_part",
    "loses_half_of_a_split",
    "miscounts_the_samples_above",
    "mixes_an_isolated_tenant",
    "never_looks_for_stuck_batches",
    "never_probes",
    "reloads_an_outlier_at_work",
    "resolves_twice",
    "retries_bad_values",
    "splits_whole_requests",
    "takes_one_slow_answer_for_many",
    "uses_a_late_answer",
    "uses_a_quarantined_device",
    "uses_retiring_activations",
    "waits_past_a_deadline",
]

Original = Callable[..., Any]
Mutant = tuple[type, str, Callable[[Original], Original]]

_NEVER = float("inf")


def drops_a_completion(part_done: Original) -> Original:
    def mutant(self: SchedulerState, part: Part, batch: Batch) -> None:
        if batch.id % 16 != 5:
            part_done(self, part, batch)

    return mutant


def frees_a_slot_at_the_timeout(give_up_on: Original) -> Original:
    def mutant(self: SchedulerState, activation: Activation) -> None:
        give_up_on(self, activation)
        for batch in [each for each in activation.held if each.is_abandoned]:
            self.ledger.release(batch, self.now)

    return mutant


def resolves_twice(cancelled: Original) -> Original:
    def mutant(self: SchedulerState, event: Cancelled) -> None:
        request = self.requests.get(event.request_id)
        cancelled(self, event)
        if request is not None and request.in_flight:
            self._commands.resolve.append(request)

    return mutant


def loses_a_retried_part(add: Original) -> Original:
    def mutant(self: Retries, group: RetryGroup) -> None:
        if not group.parts[0].offset:
            add(self, group)

    return mutant


def loses_half_of_a_split(retry: Original) -> Original:
    def mutant(self: SchedulerState, parts: list[Part], batch: Batch, *others: Any) -> None:
        retry(self, parts[: (len(parts) + 1) // 2], batch, *others)

    return mutant


def fails_the_company_of_a_culprit(retry: Original) -> Original:
    def mutant(self: SchedulerState, parts: list[Part], batch: Batch, *others: Any) -> None:
        for part in parts[1:]:
            self._fail(part, batch)
        retry(self, parts[:1], batch, *others)

    return mutant


def blames_a_device_for_bad_values(batch_failed: Original) -> Original:
    def mutant(self: SchedulerState, batch: Batch, fault: Fault) -> None:
        device_id = batch.activation.device_id
        batch_failed(self, batch, fault)
        if fault is Fault.INPUT and self.health.failed(device_id, Fault.INFERENCE, self.now):
            self.ledger.park(device_id)

    return mutant


def blames_a_device_for_each_retry(batch_failed: Original) -> Original:
    def mutant(self: SchedulerState, batch: Batch, fault: Fault) -> None:
        group = batch.parts[0].group
        if group is not None:
            group.is_suspect = False
        batch_failed(self, batch, fault)

    return mutant


def retries_bad_values(retry: Original) -> Original:
    def mutant(
        self: SchedulerState, parts: list[Part], batch: Batch, fault: Fault, *others: Any
    ) -> None:
        retry(self, parts, batch, Fault.INFERENCE, *others)

    return mutant


def mixes_an_isolated_tenant(_queue_beside: Original) -> Original:
    def mutant(_self: RequestQueue, _part: Part, queue: TenantQueue) -> TenantQueue:
        return queue

    return mutant


def uses_a_quarantined_device(park: Original) -> Original:
    def mutant(self: SlotLedger, device_id: int) -> None:
        if not device_id % 2:
            park(self, device_id)

    return mutant


def forgets_a_deadline(add: Original) -> Original:
    def mutant(self: Deadlines, request: Request) -> None:
        if request.id % 8 != 3:
            add(self, request)

    return mutant


def counts_in_flight_wrong(resolve: Original) -> Original:
    def mutant(self: SchedulerState, request: Request, state: RequestState) -> None:
        was_in_flight = request.state is RequestState.IN_FLIGHT
        resolve(self, request, state)
        self.num_in_flight += was_in_flight and state is RequestState.CANCELLED

    return mutant


def uses_a_late_answer(give_up_on: Original) -> Original:
    def mutant(self: SchedulerState, activation: Activation) -> None:
        parts = {batch: batch.parts for batch in activation.held}
        give_up_on(self, activation)
        for batch in activation.held:
            batch.parts = parts[batch]

    return mutant


def forgets_a_partial_batch(next_wakeup: Original) -> Original:
    def mutant(self: SchedulerState) -> float | None:
        closes_at, self.batch_closes_at = self.batch_closes_at, _NEVER
        at: float | None = next_wakeup(self)
        self.batch_closes_at = closes_at
        return at

    return mutant


def never_probes(_next_probe_at: Original) -> Original:
    def mutant(_self: Health) -> float:
        return _NEVER

    return mutant


def never_looks_for_stuck_batches(_add: Original) -> Original:
    def mutant(_self: TimeoutWatch, _activation: Activation) -> None:
        pass

    return mutant


def forgets_waiting_requests(admit_waiting: Original) -> Original:
    def mutant(self: Admission) -> None:
        if self.queued.num_requests:
            admit_waiting(self)

    return mutant


def counts_a_hedge_twice(completed: Original) -> Original:
    def mutant(self: SchedulerState, event: Completed) -> None:
        batch = self.batches.get(event.batch_id)
        if batch is not None:
            for part in batch.parts:
                part.is_settled = part.is_settled and part.copies == 0
        completed(self, event)

    return mutant


def uses_retiring_activations(_retire: Original) -> Original:
    def mutant(_self: SlotLedger) -> None:
        pass

    return mutant


def forgets_the_retry_budget(_spend: Original) -> Original:
    def mutant(_self: RetryBudget, _inferences: int) -> bool:
        return True

    return mutant


def reloads_an_outlier_at_work(_probe_devices: Original) -> Original:
    def mutant(self: SchedulerState) -> None:
        self._commands.reload += self.health.due_probes(self.now)

    return mutant


def takes_one_slow_answer_for_many(_is_outlier: Original) -> Original:
    def mutant(_self: Outliers, _device_id: int, **_: bool) -> bool:
        return True

    return mutant


def lets_requests_share(send: Original) -> Original:
    def mutant(self: SchedulerState, parts: list[Part], activation: Activation) -> Batch:
        queued = self.admission.queued
        room = self.policy.max_batch_size - sum(part.samples for part in parts)
        if not self.policy.shares_rows and room > 0 and queued.samples:
            parts = parts + queued.take(room)
        batch: Batch = send(self, parts, activation)
        return batch

    return mutant


def counts_a_stall_against_devices(_excuse_devices: Original) -> Original:
    def mutant(_self: SchedulerState, _stalled_s: float) -> None:
        pass

    return mutant


def splits_whole_requests(take: Original) -> Original:
    def mutant(self: RequestQueue, room: int) -> list[Part]:
        parts: list[Part] = take(self, max(room // 2, 1))
        return parts

    return mutant


def hedges_after_a_stall(loop_stalled: Original) -> Original:
    def mutant(self: SchedulerState, event: LoopStalled) -> None:
        stalled_until = self.hedging.stalled_until
        loop_stalled(self, event)
        self.hedging.stalled_until = stalled_until

    return mutant


def learns_from_a_stall(_correct: Original) -> Original:
    def mutant(_self: Stalls, _batch: Batch) -> bool:
        return True

    return mutant


def ignores_a_reported_loss(take_news: Original) -> Original:
    def mutant(self: SchedulerState, device_id: int, news: DeviceNews) -> None:
        if news is not DeviceNews.LOST:
            take_news(self, device_id, news)

    return mutant


def keeps_a_loss_to_itself(_report: Original) -> Original:
    def mutant(_self: SchedulerState, _device_id: int, _news: DeviceNews) -> None:
        pass

    return mutant


def waits_past_a_deadline(_earliest_deadline: Original) -> Original:
    def mutant(_self: RequestQueue) -> float:
        return _NEVER

    return mutant


def miscounts_the_samples_above(rotate_up: Original) -> Original:
    def mutant(self: PriorityLevels, node: PriorityLevel) -> PriorityLevel | None:
        total = node.total
        above: PriorityLevel | None = rotate_up(self, node)
        node.total = total
        return above

    return mutant


def keeps_queues_that_ran_empty(_compact: Original) -> Original:
    def mutant(self: RequestQueue) -> None:
        if self.num_stale > self.num_requests:
            _compact(self)

    return mutant
