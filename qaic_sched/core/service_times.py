"""How long inferences take: running estimates, of devices of like speed together.

A speed group is a set of devices that take about the same time. Its means are learned from all of
them, so they settle fast and noise in one device's times moves nobody; each device keeps only its
ratio to the group, and leaves the group when that ratio says that it does not belong there.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from qaic_sched.core.speed_group import SpeedGroup

__all__ = ["DeviceSpeed", "ServiceTimes"]

_MEMORY: Final = 0.02
"""Weight of the newest time in a running mean, once there are enough."""
_MANY: Final = 50
"""... which is so many: 1 / `_MEMORY`."""
_ALIKE: Final = 1.35
"""Devices whose times differ by no more than this factor are of like speed."""
_OUTLIER: Final = 10.0
"""No answer counts for more than so many times the mean. One that hung says nothing of the next;
where all take so long from now on, the mean is there after a few dozen of them."""
_SIGMAS: Final = 3.5
_ENOUGH: Final = 4
"""Times of a device before its ratio counts, and of a size before its cost does."""


class _Mean:
    """The running mean of the times of one compiled batch size."""

    __slots__ = ("count", "seconds")

    def __init__(self, count: int, seconds: float) -> None:
        self.count = count
        self.seconds = seconds


class ServiceTimes:
    """Mean execute time by compiled batch size, and how much times vary."""

    __slots__ = ("_means", "cv2")

    def __init__(self) -> None:
        self.cv2 = 0.0
        """Squared coefficient of variation."""
        self._means: dict[int, _Mean] = {}

    def record(self, size: int, execute_s: float) -> float:
        """Learn from one answer; its ratio to what was expected."""
        mean = self._means.get(size)
        if mean is None:
            mean = self._means[size] = _Mean(0, execute_s)
        mean.count += 1
        weight = 1 / mean.count if mean.count < _MANY else _MEMORY
        ratio = counted = execute_s / mean.seconds if mean.seconds > 0 else 1.0
        if ratio > _OUTLIER and mean.count > _ENOUGH:
            counted, execute_s = _OUTLIER, _OUTLIER * mean.seconds
        mean.seconds += weight * (execute_s - mean.seconds)
        self.cv2 += weight * ((counted - 1) * (counted - 1) - self.cv2)
        return ratio

    def mean_s(self, size: int) -> float:
        """Expected seconds of one inference; of the nearest size known, 0 while none is."""
        mean = self._means.get(size)
        if mean is not None:
            return mean.seconds
        if not self._means:
            return 0.0
        return self._means[min(self._means, key=lambda known: (abs(known - size), known))].seconds

    def measured_s(self, size: int) -> float | None:
        """Expected seconds of one inference of just this size; None before it ran a few times."""
        mean = self._means.get(size)
        return mean.seconds if mean is not None and mean.count >= _ENOUGH else None

    def scaled(self, ratio: float) -> ServiceTimes:
        """What to expect of devices that take `ratio` times as long."""
        other = ServiceTimes()
        other.cv2 = self.cv2
        other._means = {
            size: _Mean(_ENOUGH, ratio * mean.seconds) for size, mean in self._means.items()
        }
        return other


class DeviceSpeed:
    """The group that a device belongs to, and how its own times compare with those of the group."""

    __slots__ = ("_count", "group", "ratio")

    def __init__(self, group: SpeedGroup) -> None:
        self.join(group)

    def join(self, group: SpeedGroup) -> None:
        """Belong to this group from now on, and compare anew."""
        self.group = group
        self.ratio = 1.0
        self._count = 0

    def record(self, ratio: float) -> None:
        """Learn from one answer."""
        self._count += 1
        weight = 1 / self._count if self._count < _MANY else _MEMORY
        self.ratio += weight * (min(ratio, _OUTLIER) - self.ratio)

    def is_apart(self, cv2: float) -> bool:
        """Whether the device does not belong to its group: by more than chance, given `cv2`."""
        if 1 / _ALIKE <= self.ratio <= _ALIKE or self._count < _ENOUGH:
            return False
        return abs(self.ratio - 1) > _SIGMAS * sqrt(cv2 / min(self._count, 2 / _MEMORY))
