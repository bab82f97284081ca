"""Devices of similar speed, and which of their activations are idle, or busy with room.

A speed group learns its means from all its devices: they settle fast, and noise on one device moves
little. Each device keeps only its ratio to the group, and leaves the group when that ratio shows
that it does not belong there.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush
from math import ceil, sqrt
from typing import TYPE_CHECKING, Final, TypeAlias

from qaic_sched.core.execute_times import (
    LEAST_COUNT,
    MAX_COUNTED_RATIO,
    STEADY_COUNT,
    ewma_weight,
)

if TYPE_CHECKING:
    from qaic_sched.core.execute_times import ExecuteTimes
    from qaic_sched.core.model import Activation

__all__ = ["DeviceSpeed", "SpeedGroup"]

_NEVER: Final = float("inf")
_SAME_GROUP_RATIO: Final = 1.35
"""A device stays in its group while its times differ by no more than this factor."""
_LEAVING_SIGMAS: Final = 3.5
"""Standard deviations by which a device's ratio must differ from 1 before it leaves its group."""
_LEAST_COMPACT_SIZE: Final = 16
"""A heap of busy activations is not compacted below this number of entries."""
_LEAD_FRACTION: Final = 0.25
"""How early the next batch is committed behind a running one, in mean execution times ..."""
_LEAST_LEAD_S: Final = 0.001
"""... and at least this long, the finest resolution of an event loop's timers."""
_REGULAR_FRACTION: Final = 0.5
"""Times are regular while an overdue inference takes at most this fraction of the lead longer than
one that is not overdue: about their squared coefficient of variation, in mean execution times."""
_UNBOUNDED: Final = 1_000_000
"""A depth that bounds nothing."""
_OVERDUE_SIGMAS: Final = 3.0
"""An inference is overdue this many standard deviations beyond the mean."""

_Entry: TypeAlias = "tuple[float, int, Activation]"
"""(`free_at` when the entry was made, sequence number, activation)."""


class DeviceSpeed:
    """The speed group of a device, and how the device's own times compare with the group's."""

    __slots__ = ("_count", "group", "ratio")

    def __init__(self, group: SpeedGroup) -> None:
        self.join(group)

    def join(self, group: SpeedGroup) -> None:
        """Move to a group and restart the comparison with it."""
        self.group = group
        """The group that the device is in, parked or not."""
        self.ratio = 1.0
        """Running mean of its times over the group's means, since it joined."""
        self._count = 0
        """Times in `ratio`."""

    def record(self, ratio: float) -> None:
        """Record the ratio of one execution time to the group's mean."""
        self._count += 1
        self.ratio += ewma_weight(self._count) * (min(ratio, MAX_COUNTED_RATIO) - self.ratio)

    def is_apart(self, cv2: float) -> bool:
        """Return whether the device differs from its group by more than chance, given `cv2`."""
        if 1 / _SAME_GROUP_RATIO <= self.ratio <= _SAME_GROUP_RATIO or self._count < LEAST_COUNT:
            return False
        sigma = sqrt(cv2 / min(self._count, 2 * STEADY_COUNT))
        return abs(self.ratio - 1) > _LEAVING_SIGMAS * sigma


class SpeedGroup:
    """Devices of similar speed, and their activations that may get a batch."""

    __slots__ = (
        "_busy",
        "_compact_at",
        "_sequence",
        "_unsorted",
        "idle",
        "num_activations",
        "times",
        "used_at",
    )

    def __init__(self, times: ExecuteTimes) -> None:
        self.times = times
        """Execution times of all devices that are, or were, in the group."""
        self.num_activations = 0
        """Activations of its devices, parked ones excluded."""
        self.used_at = -_NEVER
        """When a batch was last sent to one of its activations."""
        self.idle: OrderedDict[Activation, None] = OrderedDict()
        """Its activations that hold nothing, the longest idle first; parked ones excluded."""
        self._unsorted: dict[Activation, None] = {}
        """Busy activations whose `free_at` changed since the last call of `soonest`. Where one
        activation is always idle nothing calls that, so nothing is sorted."""
        self._busy: list[_Entry] = []
        """A heap with lazy removal: stale entries are skipped, and dropped when over half."""
        self._compact_at = _LEAST_COMPACT_SIZE
        """Entries of `_busy` beyond which stale ones are dropped."""
        self._sequence = 0
        """Number of the newest entry of `_busy`: equal times keep their order."""

    def add_busy(self, activation: Activation) -> None:
        """Let `soonest` find a busy activation; call it again whenever `free_at` changes."""
        self._unsorted[activation] = None

    def park(self, activation: Activation) -> None:
        """Exclude one of the group's activations from the choice."""
        self.idle.pop(activation, None)
        self._unsorted.pop(activation, None)
        self.num_activations -= not activation.is_parked
        activation.is_parked = True

    def soonest(self, set_size: int, overdue_at: float) -> Activation | None:
        """Return the busy activation with room that is expected to be free first.

        An activation that should have been free before `overdue_at` is excluded until it answers.
        Entries are dropped only if they are stale, full or overdue, so a second call with equal
        arguments returns the first one's result.
        """
        if self._unsorted:
            self._sort_in()
        busy = self._busy
        while busy:
            free_at, _, activation = busy[0]
            has_room = activation.in_flight < set_size and self._is_current(busy[0])
            if has_room and free_at >= overdue_at:
                return activation
            heappop(busy)
        return None

    def _sort_in(self) -> None:
        for activation in self._unsorted:
            self._sequence += 1
            heappush(self._busy, (activation.free_at, self._sequence, activation))
        self._unsorted.clear()
        if len(self._busy) > self._compact_at:
            self._busy = sorted(filter(self._is_current, self._busy))
            self._compact_at = max(2 * len(self._busy), _LEAST_COMPACT_SIZE)

    def _is_current(self, entry: _Entry) -> bool:
        free_at, _, activation = entry
        is_here = activation.speed.group is self and not activation.is_parked
        return is_here and bool(activation.held) and activation.free_at == free_at

    def ready_at(self, activation: Activation, mean_s: float) -> float:
        """Return when a batch may be committed behind those that the activation holds."""
        return activation.free_at - _lead_s(mean_s) if self.is_regular(mean_s) else _NEVER

    def is_regular(self, mean_s: float) -> bool:
        """Return whether times vary so little that the end of an inference can be predicted.

        An overdue inference looks as if it were about to end. How much longer it takes depends on
        how much times vary: if that is a lot, nothing should be committed behind it.
        """
        return self.times.cv2 * mean_s <= _REGULAR_FRACTION * _lead_s(mean_s)

    def depth(self, mean_s: float) -> int:
        """Return how many batches keep an activation at work during the host's turnaround.

        Unbounded before anything was measured, or where an inference takes no time.
        """
        lead_s = _lead_s(mean_s)
        if lead_s >= _UNBOUNDED * mean_s:
            return _UNBOUNDED
        return 1 + ceil(lead_s / mean_s) if self.is_regular(mean_s) else 2

    def grace_s(self, mean_s: float) -> float:
        """Return how far an inference may exceed its expected time and still be about to end."""
        if not self.is_regular(mean_s):
            return 0.0
        return max(_lead_s(mean_s), _OVERDUE_SIGMAS * sqrt(self.times.cv2) * mean_s)


def _lead_s(mean_s: float) -> float:
    return max(_LEAD_FRACTION * mean_s, _LEAST_LEAD_S)
