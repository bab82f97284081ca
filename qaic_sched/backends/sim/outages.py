"""When a simulated device is gone or frozen: its faults of kind `lost` and `hang`, in time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qaic_sched.backends.sim.spec import HangFault, LostFault

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qaic_sched.backends.sim.spec import Fault

__all__ = ["Outages"]


class Outages:
    """The outages of one device, in seconds of the clock that showed `opened_at` at opening."""

    __slots__ = ("_hangs", "_losses")

    def __init__(self, faults: Iterable[Fault], opened_at: float) -> None:
        self._losses: list[tuple[float, float]] = []
        self._hangs: list[tuple[float, float]] = []
        for fault in faults:
            if isinstance(fault, LostFault | HangFault):
                start = opened_at + fault.at_s
                end = math.inf if fault.for_s is None else start + fault.for_s
                spans = self._losses if isinstance(fault, LostFault) else self._hangs
                spans.append((start, end))
        self._hangs.sort()

    def is_lost(self, now: float) -> bool:
        """Whether the device is gone, and cannot be loaded."""
        return any(start <= now < end for start, end in self._losses)

    def are_ahead(self, now: float) -> bool:
        """Whether there is any outage that is not over."""
        return any(end > now for _, end in (*self._losses, *self._hangs))

    def next_loss_at(self, now: float) -> float:
        """When what is loaded now will be lost; infinite is never."""
        return min((start for start, _ in self._losses if start > now), default=math.inf)

    def end_of(self, start: float, service_s: float) -> float:
        """When an inference ends that starts then and needs so long, while time stands still.

        Infinite where it hangs for ever.
        """
        end = start + service_s
        for hang_start, hang_end in self._hangs:
            if start < hang_end and end > hang_start:
                end += hang_end - max(start, hang_start)
        return end
