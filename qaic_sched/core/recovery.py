"""What happens when devices fail, are lost, fall silent or are late: retry, quarantine, hedge.

Rules of this file:
- Each part that a device failed is tried again, elsewhere if it can be, until it has used up its
  attempts; then its request fails. That a device went away is not held against the part.
- Inferences that failed are tried again within a budget for the whole host; beyond it a request
  fails with its first failure. What a device took away with it is tried again at any rate.
- What a stuck device holds is tried elsewhere at once, yet keeps its slots until it answers.
- A device that lags far behind the others is shut, unless no other is left; what it holds it may
  finish.
- A part that is late is sent a second time; the first answer settles it, the other reaches nobody.
  Not while the queue is crowded: there the time that it takes is missing to more than it helps.
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
"""Devices that may go away with a part before that counts as an attempt."""
_CROWD: Final = 2.0
"""With more full batches queued per activation, nobody is hedged: an inference more costs each of
those in the queue its part, together more than such mean service times."""


class Recovery(Dispatching):
    """The layer that deals with what devices do wrong."""

    def _batch_failed(self, batch: Batch, fault: Fault) -> None:
        device_id = batch.activation.device_id
        for part in batch.parts:
            self._part_failed(part, batch, fault)
        # Failed inferences may be the requests' fault: not for them alone is the last device shut.
        is_ready = self.health.state_of(device_id) is DeviceState.READY
        forgives = fault is Fault.INFERENCE and is_ready and self.ledger.is_last_live(device_id)
        if not forgives and self.health.failed(device_id, fault, self.now):
            self.ledger.park(device_id)

    def _abandon_others(self, device_id: int) -> None:
        """Try elsewhere what a stuck device holds; it keeps the slots until it answers."""
        for batch in self.batches.values():
            if batch.activation.device_id == device_id and not batch.is_abandoned:
                batch.is_abandoned = True
                for part in batch.parts:
                    self._part_failed(part, batch, Fault.LOST)
                batch.unload()

    def _part_failed(self, part: Part, batch: Batch, fault: Fault) -> None:
        part.copies -= 1
        if part.is_settled or part.copies:
            return
        request = part.request
        request.in_flight -= part.samples
        if request.is_resolved:
            return
        # That a device went away proves nothing against the request, unless it happens to many.
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

    def _look_after_devices(self) -> None:
        if self.is_closed:
            return
        if self.stuck.next_at() <= self.now:
            for activation in self.stuck.late(self.now):
                self._give_up_on(activation)
        if self.late.next_at() <= self.now:
            self.unhedged += self.late.late(self.now)
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

    def _note_speed(self, batch: Batch, lag: float) -> bool:
        """Whether an answer was slow; its device is shut if that was one too many."""
        device_id = batch.activation.device_id
        if not self.laggards.note(device_id, lag, batch.execute_s):
            return False
        state = self.health.state_of(device_id)
        if state is DeviceState.QUARANTINED or self.ledger.is_last_live(device_id):
            self.laggards.forget(device_id)
            return False
        if self.laggards.lags(device_id, is_on_probation=state is DeviceState.PROBATION):
            self.laggards.forget(device_id)
            self.health.lagged(device_id, self.now)
            self.ledger.park(device_id)
        return True

    def _close_device(self, device_id: int) -> None:
        self.ledger.leaving[device_id] = True
        self._commands.close += (device_id,)

    def _give_up_on(self, activation: Activation) -> None:
        batch = next((each for each in activation.held if not each.is_abandoned), None)
        if batch is not None:
            batch.is_abandoned = True
            self._batch_failed(batch, Fault.STUCK)
            batch.unload()
            self._abandon_others(activation.device_id)

    def _hedge_late(self) -> None:
        if not self.unhedged:
            return
        batches = self.admission.queued.samples / self.policy.max_batch_size
        self.is_crowded = batches > _CROWD * self.ledger.num_live
        # Looked for once for all that are late: on a host that stood still, those are many.
        may_hedge = not self.is_crowded and self._has_hedges_left()
        able = self.ledger.with_room() if may_hedge else []
        self.unhedged = [each for each in self.unhedged if not self._hedge(each, able)]

    def _hedge(self, activation: Activation, able: list[Activation]) -> bool:
        """Repeat elsewhere what a late activation holds; False if some of it has to wait for that.

        For a free slot among the `able`, before anybody else gets one, or for the budget.
        """
        if not self._is_late(activation):
            return True
        for batch in activation.held:
            parts = [each for each in batch.parts if each.copies == 1 and not each.is_settled]
            parts = [each for each in parts if not each.request.is_resolved]
            if not parts:
                continue
            other = least_loaded(able, activation.device_id) if self._has_hedges_left() else None
            if other is None:
                return False
            self.num_hedges += 1
            self._send(parts, other).is_hedge = True
            if other.in_flight == self.ledger.set_size:
                able.remove(other)
        return True

    def _has_hedges_left(self) -> bool:
        return self.num_hedges < self.policy.hedge_max_extra * self.num_batches

    def _is_late(self, activation: Activation) -> bool:
        started_at = activation.busy_since
        return bool(activation.held) and started_at + self._late_s(activation) <= self.now
