"""Devices of like speed, and which of their activations may have the next batch, and when."""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush
from math import sqrt
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from qaic_sched.core.model import Activation
    from qaic_sched.core.service_times import ServiceTimes

__all__ = ["SpeedGroup"]

_NEVER: Final = float("inf")
_FEW: Final = 16
"""So many entries of busy activations are never too many."""
_LEAD: Final = 0.25
"""How early the next batch is committed behind a running one, in mean service times ..."""
_LEAD_S: Final = 0.001
"""... and at least so many seconds: the finest that an event loop's timer can be."""
_SIGMAS: Final = 3.0
"""Standard deviations beyond the mean from which on an inference is overdue."""

_Entry: TypeAlias = "tuple[float, int, Activation]"
"""When an activation was expected to be free, the number of the entry, and the activation."""


class SpeedGroup:
    """Devices of like speed, and their activations with room: idle ones, and busy ones."""

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

    def __init__(self, times: ServiceTimes) -> None:
        self.times = times
        self.num_activations = 0
        self.used_at = -_NEVER
        """When a batch was last sent to one of them."""
        self.idle: OrderedDict[Activation, None] = OrderedDict()
        #: Busy ones whose `free_at` has changed since `soonest` was asked: where one is always
        #: idle nobody asks, and there is nothing to sort.
        self._unsorted: dict[Activation, None] = {}
        #: A heap that forgets lazily: stale entries are skipped, or compacted when over half.
        self._busy: list[_Entry] = []
        self._compact_at = _FEW
        self._sequence = 0

    def add_busy(self, activation: Activation) -> None:
        """Let `soonest` find a busy activation with room; again whenever `free_at` changes."""
        self._unsorted[activation] = None

    def forget(self, activation: Activation) -> None:
        """Let nobody find an activation any more."""
        self.idle.pop(activation, None)
        self._unsorted.pop(activation, None)

    def soonest(self, set_size: int, overdue_at: float) -> Activation | None:
        """The busy activation with room that is expected to be free first.

        One that should have been free before `overdue_at` is none of them until it answers.
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
            self._compact_at = max(2 * len(self._busy), _FEW)

    def _is_current(self, entry: _Entry) -> bool:
        free_at, _, activation = entry
        is_here = activation.speed.group is self and not activation.is_parked
        return is_here and bool(activation.held) and activation.free_at == free_at

    def ready_at(self, activation: Activation, mean_s: float) -> float:
        """When a batch may be committed behind what the activation holds."""
        lead = _lead_s(mean_s)
        # An inference that is overdue looks as if it were about to end. How long it still takes
        # follows from how much times vary: too long to commit anything behind it, perhaps.
        return activation.free_at - lead if self.times.cv2 * mean_s <= lead else _NEVER

    def grace_s(self, mean_s: float) -> float:
        """How much longer than expected an inference may take without anything being wrong."""
        return max(_lead_s(mean_s), _SIGMAS * sqrt(self.times.cv2) * mean_s)


def _lead_s(mean_s: float) -> float:
    return max(_LEAD * mean_s, _LEAD_S)
