"""Live changes: activations, devices, `set_size` and the policy.

Rules of this file:
- Added capacity is used at once, as far as its device's health allows.
- Capacity being removed gets no new work, drains and is released by a command, once. While no other
  capacity works, it continues to work: no request fails because of a live change.
- A change does not wait for a device in quarantine. Its next reload loads the wanted
  number of activations. If it is to be removed and still holds batches, it is closed at the
  time of its probe.
- Requests that were admitted under one policy stay under the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qaic_sched.core.health import DeviceState
from qaic_sched.core.recovery import Recovery
from qaic_sched.core.timeout_watch import TimeoutWatch
from qaic_sched.errors import InternalError

if TYPE_CHECKING:
    from qaic_sched.core.events import (
        ActivationsAdded,
        ActivationsRetired,
        DeviceRetired,
        PolicyChanged,
        SetSizeChanged,
    )
    from qaic_sched.core.model import Policy

__all__ = ["Resizing"]


def _program_of(policy: Policy) -> tuple[object, ...]:
    """Return what the program decides about a policy, which no live change can change."""
    return policy.batch_sizes, policy.shares_rows, policy.takes_any_size


class Resizing(Recovery):
    """The layer that handles live changes."""

    def _activations_added(self, event: ActivationsAdded) -> None:
        new, ledger = event.indexes, self.ledger
        known = {each.index for each in ledger.devices.get(event.device_id, ())}
        if self.is_closed or not (known and new) or len({*known, *new}) < len(known) + len(new):
            raise InternalError(f"{event} does not fit")
        ledger.add_activations(event.device_id, new)
        self._readmit(event.device_id)

    def _activations_retired(self, event: ActivationsRetired) -> None:
        devices, retiring = self.ledger.devices, self.ledger.retiring
        known = {each.index for each in devices.get(event.device_id, ())}
        known -= {each.index for each in retiring.get(event.device_id, ())}
        # Removing all of them removes the device.
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
        if self.is_closed or _program_of(policy) != _program_of(self.policy):
            raise InternalError(f"{event} does not fit")
        self.retry_budget.change(policy, self.num_first_inferences)
        self.policy = policy
        self.admission.change(policy, self._last_request_id)
        self.hedging.change(policy, self.num_batches)
        self.stuck_watch.restart()
        self.hedge_watch = TimeoutWatch(self.hedging.limit_s)
        for activation in self.ledger:
            if activation.held:
                self._watch(activation)

    def _readmit(self, device_id: int) -> None:
        """Allow the choice of a device's activations, as far as its health allows."""
        state = self.health.state_of(device_id)
        if state is not DeviceState.QUARANTINED:
            self.ledger.readmit(device_id, 1 if state is DeviceState.PROBATION else None)

    def _retire(self) -> None:
        """Take retiring capacity out of use while other capacity works, and release the idle."""
        ledger = self.ledger
        may_go = ledger.may_retire()
        if may_go:
            ledger.retire()
        else:
            self._recall()
        for device_id, activations in tuple(ledger.retiring.items()):
            if device_id not in ledger.leaving or not may_go:
                self._readmit(device_id)
            if not any(each.held for each in activations):
                self._release(device_id, may_go=may_go)

    def _recall(self) -> None:
        """Let retiring activations be used again, as no other capacity works any more."""
        for activations in self.ledger.retiring.values():
            for each in activations:
                each.is_retiring = False
                if each.is_parked:
                    each.backlog_s = sum((batch.expected_s for batch in each.held), 0.0)
                    each.free_at = each.busy_since + each.backlog_s

    def _release(self, device_id: int, *, may_go: bool) -> None:
        """Order the release of a device, or of some of its activations, that hold nothing."""
        ledger, health = self.ledger, self.health
        is_quarantined = health.is_quarantined(device_id)
        if device_id not in ledger.leaving:
            if may_go and not is_quarantined:
                self._commands.unload += ((device_id, ledger.forget_retired(device_id)),)
            return
        is_closing = ledger.leaving[device_id]
        if not is_closing:
            if health.is_reloading(device_id) or not (may_go or is_quarantined):
                return
            self._close_device(device_id)
        ledger.forget_device(device_id)
        health.forget(device_id)
        self.outliers.forget(device_id)
