"""Recovery when devices fail, are lost, get stuck or are late: retries, quarantine, hedges.

Rules of this file:
- A part whose batch failed is retried, on another device if possible, until it has used up its
  attempts; then its request fails. The loss of a device is no attempt, up to a limit.
- Retries of failed inferences have a budget for the whole host. Beyond it, a request fails with its
  first failure. Parts of lost devices are retried without a budget.
- Batches on a stuck device are retried elsewhere at once, but keep their slots until it answers.
- An outlier goes into quarantine unless no other device is left. It finishes what it holds.
- A late part is sent a second time. The first answer settles it, the other one is ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qaic_sched.core.dispatching import Dispatching
from qaic_sched.core.health import DeviceState
from qaic_sched.core.model import Fault, RequestState
from qaic_sched.core.placement import least_loaded

if TYPE_CHECKING:
    from qaic_sched.core.model import Activation, Batch, Part

__all__ = ["Recovery"]

_MAX_LOSSES: Final = 8
"""Losses of a device under a part before further ones count as attempts."""


class Recovery(Dispatching):
    """The layer that handles faults, stuck and late batches, and slow devices."""

    def _batch_failed(self, batch: Batch, fault: Fault) -> None:
        device_id = batch.activation.device_id
        for part in batch.parts:
            self._part_failed(part, batch, fault)
        # The requests may be the cause of failed inferences: those alone never exclude the last
        # device.
        is_ready = self.health.state_of(device_id) is DeviceState.READY
        forgives = fault is Fault.INFERENCE and is_ready and self.ledger.is_last_live(device_id)
        if not forgives and self.health.failed(device_id, fault, self.now):
            self.ledger.park(device_id)

    def _part_failed(self, part: Part, batch: Batch, fault: Fault) -> None:
        part.copies -= 1
        if part.is_settled or part.copies:
            return
        request = part.request
        request.in_flight -= part.samples
        if request.is_resolved:
            return
        # A lost device proves nothing against the request, unless that happens to many devices.
        went_away = fault in (Fault.LOST, Fault.RESTARTED)
        part.losses += went_away
        if not went_away or part.losses > _MAX_LOSSES or self.policy.max_attempts == 1:
            part.attempts += 1
        is_over = part.attempts >= self.policy.max_attempts
        if is_over or (fault is Fault.INFERENCE and not self._may_retry()):
            request.last_batch = batch
            self._resolve(request, RequestState.FAILED)
            return
        part.failed_on = batch.activation.device_id
        self.retries.add(part)
        if request.state is RequestState.IN_FLIGHT:
            request.state = RequestState.QUEUED
            self.num_in_flight -= 1

    def _may_retry(self) -> bool:
        return self.retry_budget.spend(self.num_first_inferences)

    def _check_devices(self) -> None:
        """Act on timeouts and probes that are due."""
        if self.is_closed:
            return
        if self.stuck_watch.next_at() <= self.now:
            for activation in self.stuck_watch.overdue(self.now):
                self._give_up_on(activation)
        if self.hedge_watch.next_at() <= self.now:
            self.hedging.unhedged += self.hedge_watch.overdue(self.now)
        if self.health.next_probe_at() <= self.now:
            self._probe_devices()

    def _probe_devices(self) -> None:
        for device_id in self.health.due_probes(self.now):
            held = (batch for each in self.ledger.devices[device_id] for batch in each.held)
            if self.health.is_slow(device_id) and not all(each.is_abandoned for each in held):
                self.health.postpone_probe(device_id, self.now)
            elif device_id in self.ledger.leaving:
                self._close_device(device_id)
            else:
                self._commands.reload.append(device_id)

    def _close_device(self, device_id: int) -> None:
        self.ledger.leaving[device_id] = True
        self._commands.close += (device_id,)

    def _record_slowness(self, batch: Batch, slowness: float) -> bool:
        """Return whether an answer was slow; an outlier goes into quarantine."""
        device_id = batch.activation.device_id
        if not self.outliers.record(device_id, slowness, batch.execute_s):
            return False
        state = self.health.state_of(device_id)
        if state is DeviceState.QUARANTINED or self.ledger.is_last_live(device_id):
            self.outliers.forget(device_id)
            return False
        is_on_probation = state is DeviceState.PROBATION
        if self.outliers.is_outlier(device_id, is_on_probation=is_on_probation):
            self.outliers.forget(device_id)
            self.health.quarantine_outlier(device_id, self.now)
            self.ledger.park(device_id)
        return True

    def _give_up_on(self, activation: Activation) -> None:
        """Abandon the batches of a device on which an activation is stuck."""
        batch = next((each for each in activation.held if not each.is_abandoned), None)
        if batch is not None:
            batch.is_abandoned = True
            self._batch_failed(batch, Fault.STUCK)
            batch.unload()
            self._abandon_others(activation.device_id)

    def _abandon_others(self, device_id: int) -> None:
        """Retry the other batches of a stuck device; they keep their slots until it answers."""
        for batch in self.batches.values():
            if batch.activation.device_id == device_id and not batch.is_abandoned:
                batch.is_abandoned = True
                for part in batch.parts:
                    self._part_failed(part, batch, Fault.LOST)
                batch.unload()

    def _hedge_late(self) -> None:
        """Hedge the late activations, as far as budget, queue and free slots allow."""
        hedging = self.hedging
        if not hedging.unhedged:
            return
        # Free slots are collected once for all: after the host stood still, many are late.
        may_hedge = hedging.may_hedge(self.batches_queued, self.speeds.num_live, self.num_batches)
        able = self.ledger.with_room() if may_hedge else []
        hedging.unhedged = [each for each in hedging.unhedged if not self._hedge(each, able)]

    def _hedge(self, activation: Activation, able: list[Activation]) -> bool:
        """Repeat the batches of a late activation on the `able` ones.

        Returns False if some of them must wait for a free slot or for the budget.
        """
        hedging = self.hedging
        if not hedging.is_late(activation, self.now):
            return True
        for batch in activation.held:
            parts = hedging.parts_to_hedge(batch)
            if not parts:
                continue
            has_budget = hedging.has_budget(self.num_batches)
            other = least_loaded(able, activation.device_id) if has_budget else None
            if other is None:
                return False
            hedging.num_hedges += 1
            self._send(parts, other).is_hedge = True
            if other.in_flight == self.ledger.set_size:
                able.remove(other)
        return True
