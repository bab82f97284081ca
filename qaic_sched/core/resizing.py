"""What changes while work goes on: activations, devices, `set_size`, the policy.

Rules of this file:
- What is added takes part at once, as far as its device's health allows.
- What is to be given back gets nothing more and finishes what it holds; then a command says so,
  once. While nothing else could work it goes on working: no request fails for such a change.
- A device in quarantine is not waited for. It is reloaded, by then with the activations that are
  wanted; or closed, at the time of its probe, if it is to be given back and still holds something.
- What was let in under one policy stays in under the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qaic_sched.core.health import DeviceState
from qaic_sched.core.recovery import Recovery
from qaic_sched.core.watch import Watch
from qaic_sched.errors import InternalError

if TYPE_CHECKING:
    from qaic_sched.core.events import (
        ActivationsAdded,
        ActivationsRetired,
        DeviceRetired,
        PolicyChanged,
        SetSizeChanged,
    )

__all__ = ["Resizing"]


class Resizing(Recovery):
    """The layer that follows live changes."""

    def _activations_added(self, event: ActivationsAdded) -> None:
        new, ledger = event.indexes, self.ledger
        known = {each.index for each in ledger.devices.get(event.device_id, ())}
        if self.is_closed or not (known and new) or len({*known, *new}) < len(known) + len(new):
            raise InternalError(f"{event} does not fit")
        ledger.add_activations(event.device_id, new)
        self._use(event.device_id)

    def _activations_retired(self, event: ActivationsRetired) -> None:
        devices, retiring = self.ledger.devices, self.ledger.retiring
        known = {each.index for each in devices.get(event.device_id, ())}
        known -= {each.index for each in retiring.get(event.device_id, ())}
        # All of them would be the device itself.
        if self.is_closed or not event.indexes or not known > {*event.indexes}:
            raise InternalError(f"{event} does not fit")
        stay = known - {*event.indexes}
        activations = devices[event.device_id]
        retiring[event.device_id] = [each for each in activations if each.index not in stay]
        self._retire()

    def _device_retired(self, event: DeviceRetired) -> None:
        ledger, device_id = self.ledger, event.device_id
        if self.is_closed or device_id not in ledger.devices:
            raise InternalError(f"{event} does not fit")
        ledger.leaving.setdefault(device_id, False)
        ledger.retiring[device_id] = ledger.devices[device_id]
        self._retire()

    def _set_size_changed(self, event: SetSizeChanged) -> None:
        if event.set_size < 1:
            raise InternalError(f"{event} does not fit")
        self.ledger.change_set_size(event.set_size, self.now)

    def _policy_changed(self, event: PolicyChanged) -> None:
        policy = event.policy
        if self.is_closed or policy.batch_sizes != self.policy.batch_sizes:
            raise InternalError(f"{event} does not fit")
        self.retry_budget.change(policy, self.num_first_inferences)
        self.policy = policy
        self.admission.change(policy)
        self.last_of_old_policy = self._last_request_id
        # What was hedged beyond the budget of now is not held against those to come.
        self.num_hedges = min(self.num_hedges, int(policy.hedge_max_extra * self.num_batches))
        self.stuck.restart()
        self.late = Watch(self._late_s)
        for activation in self.ledger:
            if activation.held:
                self._look_after(activation)

    def _use(self, device_id: int) -> None:
        """Choose those activations of a device that its health allows."""
        state = self.health.state_of(device_id)
        if state is not DeviceState.QUARANTINED:
            self.ledger.admit(device_id, 1 if state is DeviceState.PROBATION else None)

    def _retire(self) -> None:
        """Let go of what is wanted no more, as far as something else is there to work."""
        ledger = self.ledger
        may_go = ledger.may_retire()
        if may_go:
            ledger.retire()
        else:
            self._recall()
        for device_id, activations in tuple(ledger.retiring.items()):
            if device_id not in ledger.leaving or not may_go:
                self._use(device_id)
            if not any(each.held for each in activations):
                self._give_back(device_id, may_go=may_go)

    def _recall(self) -> None:
        """Let what was to be given back be used again: nothing else works any more."""
        for activations in self.ledger.retiring.values():
            for each in activations:
                each.is_retiring = False
                if each.is_parked:
                    each.backlog_s = sum((batch.expected_s for batch in each.held), 0.0)
                    each.free_at = each.busy_since + each.backlog_s

    def _give_back(self, device_id: int, *, may_go: bool) -> None:
        """Say that a device, or some of its activations, may go: they hold nothing."""
        ledger, health = self.ledger, self.health
        is_out = health.is_out(device_id)
        if device_id not in ledger.leaving:
            if may_go and not is_out:
                self._commands.unload += ((device_id, ledger.forget_retired(device_id)),)
            return
        is_closing = ledger.leaving[device_id]
        if not is_closing:
            if health.is_reloading(device_id) or not (may_go or is_out):
                return
            self._close_device(device_id)
        ledger.forget_device(device_id)
        health.forget(device_id)
        self.laggards.forget(device_id)
