"""The times at which a simulated device is lost or hangs: its faults of kind `lost` and `hang`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qaic_sched.backends.sim.spec import HangFault, LostFault

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qaic_sched.backends.sim.spec import FaultSpec

__all__ = ["Outages"]


class Outages:
    """The outages of one device; `opened_at` is the instant that the faults' `at_s` count from."""

    __slots__ = ("_hangs", "_losses")

    def __init__(self, faults: Iterable[FaultSpec], opened_at: float) -> None:
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
        """Whether the device is lost at `now`, so that nothing can be loaded on it."""
        return any(start <= now < end for start, end in self._losses)

    def are_ahead(self, now: float) -> bool:
        """Whether any outage has not ended yet."""
        return any(end > now for _, end in (*self._losses, *self._hangs))

    def next_loss_at(self, now: float) -> float:
        """When a program loaded now will be lost; infinite if never."""
        return min((start for start, _ in self._losses if start > now), default=math.inf)

    def end_of(self, start: float, execute_s: float) -> float:
        """When an inference that starts at `start` and needs `execute_s` ends.

        A hang stops it for as long as the hang lasts; infinite if that is for ever.
        """
        end = start + execute_s
        for hang_start, hang_end in self._hangs:
            if start < hang_end and end > hang_start:
                end += hang_end - max(start, hang_start)
        return end
