"""Known bugs, put into the core one at a time: the simulation must catch each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

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
from tests.simulation.driver import find_violation

__all__ = ["MUTANTS", "mutated", "seeds_until_caught"]

Original = Callable[..., Any]
Mutant = tuple[type, str, Callable[[Original], Original]]

_NEVER = float("inf")


def _drops_a_completion(part_done: Original) -> Original:
    def mutant(self: SchedulerState, part: Part, batch: Batch) -> None:
        if batch.id % 16 != 5:
            part_done(self, part, batch)

    return mutant


def _frees_a_slot_at_the_timeout(give_up_on: Original) -> Original:
    def mutant(self: SchedulerState, activation: Activation) -> None:
        give_up_on(self, activation)
        for batch in [each for each in activation.held if each.is_abandoned]:
            self.ledger.release(batch, self.now)

    return mutant


def _resolves_twice(cancelled: Original) -> Original:
    def mutant(self: SchedulerState, event: Cancelled) -> None:
        request = self.requests.get(event.request_id)
        cancelled(self, event)
        if request is not None and request.in_flight:
            self._commands.resolve.append(request)

    return mutant


def _loses_a_retried_part(add: Original) -> Original:
    def mutant(self: Retries, group: RetryGroup) -> None:
        if not group.parts[0].offset:
            add(self, group)

    return mutant


def _loses_half_of_a_split(retry: Original) -> Original:
    def mutant(self: SchedulerState, parts: list[Part], batch: Batch, *others: Any) -> None:
        retry(self, parts[: (len(parts) + 1) // 2], batch, *others)

    return mutant


def _fails_the_company_of_a_culprit(retry: Original) -> Original:
    def mutant(self: SchedulerState, parts: list[Part], batch: Batch, *others: Any) -> None:
        for part in parts[1:]:
            self._fail(part, batch)
        retry(self, parts[:1], batch, *others)

    return mutant


def _blames_a_device_for_bad_values(batch_failed: Original) -> Original:
    def mutant(self: SchedulerState, batch: Batch, fault: Fault) -> None:
        device_id = batch.activation.device_id
        batch_failed(self, batch, fault)
        if fault is Fault.INPUT and self.health.failed(device_id, Fault.INFERENCE, self.now):
            self.ledger.park(device_id)

    return mutant


def _blames_a_device_for_each_retry(batch_failed: Original) -> Original:
    def mutant(self: SchedulerState, batch: Batch, fault: Fault) -> None:
        group = batch.parts[0].group
        if group is not None:
            group.is_suspect = False
        batch_failed(self, batch, fault)

    return mutant


def _retries_bad_values(retry: Original) -> Original:
    def mutant(
        self: SchedulerState, parts: list[Part], batch: Batch, fault: Fault, *others: Any
    ) -> None:
        retry(self, parts, batch, Fault.INFERENCE, *others)

    return mutant


def _mixes_an_isolated_tenant(_queue_beside: Original) -> Original:
    def mutant(_self: RequestQueue, _part: Part, queue: TenantQueue) -> TenantQueue:
        return queue

    return mutant


def _uses_a_quarantined_device(park: Original) -> Original:
    def mutant(self: SlotLedger, device_id: int) -> None:
        if not device_id % 2:
            park(self, device_id)

    return mutant


def _forgets_a_deadline(add: Original) -> Original:
    def mutant(self: Deadlines, request: Request) -> None:
        if request.id % 8 != 3:
            add(self, request)

    return mutant


def _counts_in_flight_wrong(resolve: Original) -> Original:
    def mutant(self: SchedulerState, request: Request, state: RequestState) -> None:
        was_in_flight = request.state is RequestState.IN_FLIGHT
        resolve(self, request, state)
        self.num_in_flight += was_in_flight and state is RequestState.CANCELLED

    return mutant


def _uses_a_late_answer(give_up_on: Original) -> Original:
    def mutant(self: SchedulerState, activation: Activation) -> None:
        parts = {batch: batch.parts for batch in activation.held}
        give_up_on(self, activation)
        for batch in activation.held:
            batch.parts = parts[batch]

    return mutant


def _forgets_a_partial_batch(next_wakeup: Original) -> Original:
    def mutant(self: SchedulerState) -> float | None:
        closes_at, self.batch_closes_at = self.batch_closes_at, _NEVER
        at: float | None = next_wakeup(self)
        self.batch_closes_at = closes_at
        return at

    return mutant


def _never_probes(_next_probe_at: Original) -> Original:
    def mutant(_self: Health) -> float:
        return _NEVER

    return mutant


def _never_looks_for_stuck_batches(_add: Original) -> Original:
    def mutant(_self: TimeoutWatch, _activation: Activation) -> None:
        pass

    return mutant


def _forgets_waiting_requests(admit_waiting: Original) -> Original:
    def mutant(self: Admission) -> None:
        if self.queued.num_requests:
            admit_waiting(self)

    return mutant


def _counts_a_hedge_twice(completed: Original) -> Original:
    def mutant(self: SchedulerState, event: Completed) -> None:
        batch = self.batches.get(event.batch_id)
        if batch is not None:
            for part in batch.parts:
                part.is_settled = part.is_settled and part.copies == 0
        completed(self, event)

    return mutant


def _uses_retiring_activations(_retire: Original) -> Original:
    def mutant(_self: SlotLedger) -> None:
        pass

    return mutant


def _forgets_the_retry_budget(_spend: Original) -> Original:
    def mutant(_self: RetryBudget, _inferences: int) -> bool:
        return True

    return mutant


def _reloads_an_outlier_at_work(_probe_devices: Original) -> Original:
    def mutant(self: SchedulerState) -> None:
        self._commands.reload += self.health.due_probes(self.now)

    return mutant


def _takes_one_slow_answer_for_many(_is_outlier: Original) -> Original:
    def mutant(_self: Outliers, _device_id: int, **_: bool) -> bool:
        return True

    return mutant


def _counts_a_stall_against_devices(_excuse_devices: Original) -> Original:
    def mutant(_self: SchedulerState, _stalled_s: float) -> None:
        pass

    return mutant


def _hedges_after_a_stall(loop_stalled: Original) -> Original:
    def mutant(self: SchedulerState, event: LoopStalled) -> None:
        stalled_until = self.hedging.stalled_until
        loop_stalled(self, event)
        self.hedging.stalled_until = stalled_until

    return mutant


def _learns_from_a_stall(_correct: Original) -> Original:
    def mutant(_self: Stalls, _batch: Batch) -> bool:
        return True

    return mutant


def _ignores_a_reported_loss(take_news: Original) -> Original:
    def mutant(self: SchedulerState, device_id: int, news: DeviceNews) -> None:
        if news is not DeviceNews.LOST:
            take_news(self, device_id, news)

    return mutant


def _keeps_a_loss_to_itself(_report: Original) -> Original:
    def mutant(_self: SchedulerState, _device_id: int, _news: DeviceNews) -> None:
        pass

    return mutant


def _waits_past_a_deadline(_earliest_deadline: Original) -> Original:
    def mutant(_self: RequestQueue) -> float:
        return _NEVER

    return mutant


def _miscounts_the_samples_above(rotate_up: Original) -> Original:
    def mutant(self: PriorityLevels, node: PriorityLevel) -> PriorityLevel | None:
        total = node.total
        above: PriorityLevel | None = rotate_up(self, node)
        node.total = total
        return above

    return mutant


def _keeps_queues_that_ran_empty(_compact: Original) -> Original:
    def mutant(self: RequestQueue) -> None:
        if self.num_stale > self.num_requests:
            _compact(self)

    return mutant


MUTANTS: dict[str, Mutant] = {
    "drop one completion": (SchedulerState, "_part_done", _drops_a_completion),
    "free a timed-out slot": (SchedulerState, "_give_up_on", _frees_a_slot_at_the_timeout),
    "resolve twice": (SchedulerState, "_cancelled", _resolves_twice),
    "lose a retried part": (Retries, "add", _loses_a_retried_part),
    "lose half of a split": (SchedulerState, "_retry_inference", _loses_half_of_a_split),
    "fail a culprit's company": (
        SchedulerState,
        "_retry_inference",
        _fails_the_company_of_a_culprit,
    ),
    "blame a device for bad values": (
        SchedulerState,
        "_batch_failed",
        _blames_a_device_for_bad_values,
    ),
    "blame a device for each retry": (
        SchedulerState,
        "_batch_failed",
        _blames_a_device_for_each_retry,
    ),
    "retry bad values": (SchedulerState, "_retry_inference", _retries_bad_values),
    "mix an isolated tenant": (RequestQueue, "_queue_beside", _mixes_an_isolated_tenant),
    "dispatch to a quarantined device": (SlotLedger, "park", _uses_a_quarantined_device),
    "forget a deadline": (Deadlines, "add", _forgets_a_deadline),
    "count in flight wrong": (SchedulerState, "_resolve", _counts_in_flight_wrong),
    "count a hedge twice": (SchedulerState, "_completed", _counts_a_hedge_twice),
    "use a late answer": (SchedulerState, "_give_up_on", _uses_a_late_answer),
    "forget a partial batch": (SchedulerState, "next_wakeup", _forgets_a_partial_batch),
    "never probe a device": (Health, "next_probe_at", _never_probes),
    "never look for stuck batches": (TimeoutWatch, "add", _never_looks_for_stuck_batches),
    "use retiring activations": (SlotLedger, "retire", _uses_retiring_activations),
    "reload an outlier at work": (
        SchedulerState,
        "_probe_devices",
        _reloads_an_outlier_at_work,
    ),
    "quarantine a device after one slow answer": (
        Outliers,
        "is_outlier",
        _takes_one_slow_answer_for_many,
    ),
    "retry without end": (RetryBudget, "spend", _forgets_the_retry_budget),
    "forget waiting requests": (Admission, "admit_waiting", _forgets_waiting_requests),
    "count a stall against devices": (
        SchedulerState,
        "_excuse_devices",
        _counts_a_stall_against_devices,
    ),
    "hedge what only stood still": (SchedulerState, "_loop_stalled", _hedges_after_a_stall),
    "learn from a stall": (Stalls, "correct", _learns_from_a_stall),
    "ignore a reported loss": (SchedulerState, "_take_news", _ignores_a_reported_loss),
    "keep a loss to itself": (SchedulerState, "_report", _keeps_a_loss_to_itself),
    "wait for company past a deadline": (
        RequestQueue,
        "earliest_deadline",
        _waits_past_a_deadline,
    ),
    "miscount what is above": (PriorityLevels, "_rotate_up", _miscounts_the_samples_above),
    "keep queues that ran empty": (
        RequestQueue,
        "_compact_if_stale",
        _keeps_queues_that_ran_empty,
    ),
}
"""Name of the bug -> the class, the method, and a function that makes the method buggy."""


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Put a known bug into the core inside the context."""
    owner, method, mutate = MUTANTS[name]
    with patch.object(owner, method, mutate(getattr(owner, method))):
        yield


def seeds_until_caught(
    name: str, most: int, *, checks_invariants: bool = True
) -> tuple[int, str] | None:
    """Return how many seeds it takes to catch a known bug, and the violation; None if over `most`.

    A seed that has a violation without the bug as well does not count.
    """
    for seed in range(most):
        with mutated(name):
            violation = find_violation(seed, checks_invariants=checks_invariants)
        if violation is not None and find_violation(seed) is None:
            return seed + 1, violation
    return None
