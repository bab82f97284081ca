"""The speed groups of the host: which device is how fast, and what that makes of all of them.

Rules of this file:
- Groups are ordered by their mean execution time, the fastest first.
- A device that no longer fits its group moves to another group of its speed, or to a new one.
- Two groups whose times have become alike are merged.
"""

from __future__ import annotations

from typing import Final

from qaic_sched.core.execute_times import ExecuteTimes
from qaic_sched.core.speed_group import DeviceSpeed, SpeedGroup

__all__ = ["Speeds"]

_JOIN_RATIO: Final = 1.15
"""A device joins a group whose times differ by no more than this factor from its own."""


class Speeds:
    """The speed group of every device, and estimates over all groups in use."""

    __slots__ = ("_takes_any_size", "by_device", "groups")

    def __init__(self, *, takes_any_size: bool = False) -> None:
        self._takes_any_size = takes_any_size
        """Whether batches may have any size, not only compiled ones."""
        self.groups: list[SpeedGroup] = []
        """Groups with activations that are not parked, the fastest first."""
        self.by_device: dict[int, DeviceSpeed] = {}
        """The speed of each device, parked ones included."""

    def add_device(self, device_id: int) -> DeviceSpeed:
        """Put a new device into the fastest group."""
        if not self.groups:
            # The times of devices that are parked now are the best guess, and groups stay
            # comparable.
            known = (each.group for each in self.by_device.values())
            self.groups.append(next(known, None) or self._new_group())
        speed = self.by_device[device_id] = DeviceSpeed(self.groups[0])
        return speed

    def _new_group(self) -> SpeedGroup:
        return SpeedGroup(ExecuteTimes(takes_any_size=self._takes_any_size))

    def use(self, group: SpeedGroup) -> None:
        """Make sure that a group is among the groups in use."""
        if group not in self.groups:
            self.groups.append(group)
            self.sort(1)

    def drop_empty(self) -> None:
        """Drop the groups whose activations are all parked."""
        self.groups = [each for each in self.groups if each.num_activations]

    def sort(self, size: int) -> None:
        """Order the groups by their times for a compiled size."""
        self.groups.sort(key=lambda each: each.times.mean_s(size))

    def learn(self, device_id: int, size: int, execute_s: float) -> float:
        """Record an execution time; return its ratio to the fastest group's mean, 1 if unknown."""
        speed = self.by_device[device_id]
        group = speed.group
        slowness = ratio = group.times.record(size, execute_s)
        if self.groups and group is not self.groups[0]:
            fastest_s = self.groups[0].times.measured_s(size)
            slowness = execute_s / fastest_s if fastest_s else 1.0
        speed.record(ratio)
        return slowness

    def find_move(self, device_id: int, size: int) -> tuple[list[int], SpeedGroup] | None:
        """Return the devices that should change groups after `learn`, and their new group."""
        speed = self.by_device[device_id]
        group = speed.group
        if speed.is_apart(group.times.cv2):
            mean_s = speed.ratio * group.times.mean_s(size)
            alike = self._alike(group, size, mean_s)
            return [device_id], alike or SpeedGroup(group.times.scaled(speed.ratio))
        if len(self.groups) > 1:
            alike = self._alike(group, size, group.times.mean_s(size))
            if alike is not None:
                members = [each for each, its in self.by_device.items() if its.group is group]
                return members, alike
        return None

    def _alike(self, group: SpeedGroup, size: int, mean_s: float) -> SpeedGroup | None:
        """Return another group whose mean is close to `mean_s`."""
        for other in self.groups:
            other_s = other.times.mean_s(size)
            if other is group or not other_s:
                continue
            if 1 / _JOIN_RATIO <= mean_s / other_s <= _JOIN_RATIO:
                return other
        return None

    @property
    def num_live(self) -> int:
        """Activations that may be chosen, now or once they have room."""
        return sum(group.num_activations for group in self.groups)

    def has_live(self) -> bool:
        """Return whether any activation may be chosen, now or once it has room."""
        return bool(self.groups)

    def fastest_s(self, size: int) -> float:
        """Return the mean execution time of a size on the fastest devices; 0 if unknown."""
        return next((group.times.mean_s(size) for group in self.groups), 0.0)

    def rate(self, size: int) -> float:
        """Return the inferences of a size per second of all activations together; 0 if unknown."""
        times = ((each.num_activations, each.times.mean_s(size)) for each in self.groups)
        return sum((count / mean_s for count, mean_s in times if mean_s), 0.0)
