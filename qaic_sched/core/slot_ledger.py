"""The slot ledger: which devices and activations there are, and which batches each holds.

Rules of this file:
- Every activation has `set_size` slots, on every device.
- A parked activation gets no batches; those that it holds are still released.
- An activation that is not parked is in its speed group: idle, busy with room, or full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qaic_sched.core.model import Activation
from qaic_sched.core.speeds import Speeds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qaic_sched.core.model import Batch
    from qaic_sched.core.speed_group import SpeedGroup

__all__ = ["SlotLedger"]

_NEVER: Final = float("inf")


class SlotLedger:
    """The activations of all devices, and the slots that their batches take."""

    __slots__ = ("devices", "leaving", "retiring", "set_size", "shrunk_at", "speeds")

    def __init__(self, *, takes_any_size: bool = False) -> None:
        self.set_size = 0
        """Batches that an activation may hold, the running one included; 0 before any device."""
        self.devices: dict[int, list[Activation]] = {}
        """Activations by device, parked and retiring ones included."""
        self.retiring: dict[int, list[Activation]] = {}
        """By device, the activations that are to be released once they hold nothing."""
        self.leaving: dict[int, bool] = {}
        """Devices that are to be closed with all their activations -> whether `close` was sent."""
        self.shrunk_at = -_NEVER
        """When `set_size` was last reduced: activations may hold more until they have answered."""
        self.speeds = Speeds(takes_any_size=takes_any_size)
        """The speed groups of the devices."""

    @property
    def num_activations(self) -> int:
        """Activations of all devices, parked ones included."""
        return sum(map(len, self.devices.values()))

    def add_device(self, device_id: int, num_activations: int, set_size: int) -> None:
        """Add a device, all its slots free."""
        speed = self.speeds.add_device(device_id)
        group = speed.group
        activations = [Activation(device_id, index, speed) for index in range(num_activations)]
        self.devices[device_id] = activations
        self.set_size = set_size
        group.num_activations += num_activations
        # First activations of all devices before second ones: work spreads over devices first.
        group.idle.update(dict.fromkeys(activations))
        for activation in sorted(group.idle, key=lambda each: each.index):
            group.idle.move_to_end(activation)

    def park(self, device_id: int) -> None:
        """Exclude a device from the choice; its batches may still be released."""
        group = self.speeds.by_device[device_id].group
        for activation in self.devices[device_id]:
            group.park(activation)
        self.speeds.drop_empty()

    def reopen(self, device_id: int, num_activations: int, *, as_fast: bool = False) -> None:
        """Bring back a parked device with new activations; only the first may be chosen.

        With `as_fast`, the device's old times are forgotten and it joins the fastest group.
        """
        speeds = self.speeds
        speed = speeds.by_device[device_id]
        speed.join(speeds.groups[0] if as_fast and speeds.groups else speed.group)
        first, *others = (Activation(device_id, index, speed) for index in range(num_activations))
        for activation in others:
            activation.is_parked = True
        self.devices[device_id] = [first, *others]
        self.retiring.pop(device_id, None)
        if device_id in self.leaving:
            self.retiring[device_id] = self.devices[device_id]
        self._readmit([first])

    def readmit(self, device_id: int, most: int | None = None) -> None:
        """Allow the choice of a device's activations, or of the first `most`; not retiring ones."""
        able = [each for each in self.devices[device_id] if not each.is_retiring]
        self._readmit([each for each in able[:most] if each.is_parked])

    def add_activations(self, device_id: int, indexes: Iterable[int]) -> None:
        """Add activations to a device; they are parked until `readmit`."""
        speed = self.speeds.by_device[device_id]
        new = [Activation(device_id, index, speed, is_parked=True) for index in indexes]
        self.devices[device_id] += new

    def may_retire(self) -> bool:
        """Return whether some activation that is not retiring may be chosen."""
        leave = [each for activations in self.retiring.values() for each in activations]
        return self.speeds.num_live > sum(not each.is_parked for each in leave)

    def retire(self) -> None:
        """Exclude all retiring activations from the choice."""
        for device_id, activations in self.retiring.items():
            group = self.speeds.by_device[device_id].group
            for activation in activations:
                group.park(activation)
                activation.is_retiring = True
        self.speeds.drop_empty()

    def forget_retired(self, device_id: int) -> tuple[int, ...]:
        """Remove a device's retiring activations, which hold nothing; return their indexes."""
        gone = self.retiring.pop(device_id)
        self.devices[device_id] = [each for each in self.devices[device_id] if each not in gone]
        return tuple(each.index for each in gone)

    def forget_device(self, device_id: int) -> None:
        """Remove a device that holds nothing."""
        del self.devices[device_id], self.retiring[device_id], self.leaving[device_id]
        del self.speeds.by_device[device_id]

    def change_set_size(self, set_size: int, now: float) -> None:
        """Change the slots of every activation; batches beyond them drain away."""
        if set_size < self.set_size:
            self.shrunk_at = now
        self.set_size = set_size
        for activation in self:
            if 0 < activation.in_flight < set_size and not activation.is_parked:
                activation.speed.group.add_busy(activation)

    def is_last_live(self, device_id: int) -> bool:
        """Return whether every activation that may be chosen is on this device."""
        own = sum(not each.is_parked for each in self.devices[device_id])
        return own == self.speeds.num_live

    def idle(self) -> list[Activation]:
        """Return the activations that hold nothing and may be chosen, by speed."""
        return [each for group in self.speeds.groups for each in group.idle]

    def with_room(self) -> list[Activation]:
        """Return the activations with a free slot that may be chosen, by device."""
        return [each for each in self if each.in_flight < self.set_size and not each.is_parked]

    def take(self, activation: Activation, now: float, batch: Batch) -> None:
        """Give a batch a free slot of an activation."""
        group = activation.speed.group
        batch.expected_s = expected_s = group.times.mean_s(batch.size)
        if not activation.held:
            del group.idle[activation]
            activation.free_at = activation.busy_since = now
        group.used_at = now
        activation.held.append(batch)
        activation.backlog_s += expected_s
        activation.free_at += expected_s
        if activation.in_flight < self.set_size:
            group.add_busy(activation)

    def release(self, batch: Batch, at: float) -> None:
        """Free the slot of a batch that was answered at `at`."""
        activation = batch.activation
        group = activation.speed.group
        activation.held.remove(batch)
        # The answer may be older than the next batch's submission.
        activation.busy_since = max(at, activation.held[0].submitted_at) if activation.held else at
        if activation.is_parked:
            return
        if activation.held:
            activation.backlog_s -= batch.expected_s
            activation.free_at = at + activation.backlog_s
            group.add_busy(activation)
        else:
            activation.backlog_s = 0.0
            activation.free_at = at
            group.idle[activation] = None

    def learn(self, device_id: int, size: int, execute_s: float) -> float:
        """Record an execution time, and move devices whose speed group no longer fits.

        Returns the ratio to the fastest group's mean, 1 if that is unknown.
        """
        slowness = self.speeds.learn(device_id, size, execute_s)
        move = self.speeds.find_move(device_id, size)
        if move is not None:
            device_ids, group = move
            self._move(device_ids, group, size)
        return slowness

    def _move(self, device_ids: list[int], group: SpeedGroup, size: int) -> None:
        speeds = self.speeds
        for device_id in device_ids:
            speed = speeds.by_device[device_id]
            old = speed.group
            speed.join(group)
            for activation in self.devices[device_id]:
                if activation.is_parked:
                    continue
                old.num_activations -= 1
                group.num_activations += 1
                if not activation.in_flight:
                    del old.idle[activation]
                    group.idle[activation] = None
                elif activation.in_flight < self.set_size:
                    group.add_busy(activation)
        speeds.groups = list(dict.fromkeys((*speeds.groups, group)))
        speeds.drop_empty()
        speeds.sort(size)

    def _readmit(self, activations: list[Activation]) -> None:
        for activation in activations:
            group = activation.speed.group
            self.speeds.use(group)
            activation.is_parked = False
            group.num_activations += 1
            if not activation.held:
                group.idle[activation] = None
            elif activation.in_flight < self.set_size:
                group.add_busy(activation)

    def __iter__(self) -> Iterator[Activation]:
        """Iterate over all activations, by device, in the order in which they were added."""
        for activations in self.devices.values():
            yield from activations

    def check(self) -> None:
        """Assert that every activation is in its place, once."""
        groups = self.speeds.groups
        for device_id, activations in self.devices.items():
            group = self.speeds.by_device[device_id].group
            for each in activations:
                assert each.is_parked or group in groups, "a device of no group"
                fits = len(each.held) <= self.set_size
                fits = fits or each.held[-1].submitted_at <= self.shrunk_at
                assert fits, "a slot taken twice"
                is_idle = not (each.held or each.is_parked)
                assert (each in group.idle) == is_idle, f"{each} is lost"
        live = [each for each in self if not each.is_parked]
        for group in groups:
            members = sum(each.speed.group is group for each in live)
            assert group.num_activations == members > 0, "a group miscounts its activations"
        idle = sum(len(group.idle) for group in groups)
        assert idle == sum(not each.held for each in live), "idle in two groups"
