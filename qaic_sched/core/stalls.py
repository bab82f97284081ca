"""Stalls: times in which the event loop stood still, and what they take from measured times.

Rules of this file:
- Whether an inference ran on during a stall depends on what stood still: a stopped process, a
  suspended machine, or the loop alone, blocked by a caller's own code. An answer from within a
  stall shows that devices and their threads ran on, so its time is right.
- From any other time the stall is taken off, but no more than leaves the expected time: a card may
  have worked on. What is mostly stall tells nothing about the device, and is not learned from.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from qaic_sched.core.model import Batch

__all__ = ["Stalls"]

_MAX_STALLS: Final = 16
"""Stalls that are remembered for inferences that span more than one."""
_AWAKE_S: Final = 0.05
"""An answer within this time of a stall's end may have come after the process ran again."""


class Stalls:
    """The stalls that batches in flight may have seen."""

    __slots__ = ("recent",)

    def __init__(self) -> None:
        self.recent: deque[tuple[float, float]] = deque(maxlen=_MAX_STALLS)
        """(begin, end) of each, the oldest first; empty soon after the last one."""

    def add(self, began_at: float, ended_at: float) -> None:
        """Add a stall."""
        self.recent.append((began_at, ended_at))

    def forget(self, oldest_sent_at: float) -> None:
        """Forget the stalls that ended before the oldest batch in flight was sent."""
        while self.recent and self.recent[0][1] <= oldest_sent_at:
            self.recent.popleft()

    def correct(self, batch: Batch) -> bool:
        """Take stalls off the execute time of an answered batch; return if it tells something."""
        start, end = batch.started_at, batch.completed_at
        stalled_s = 0.0
        for began_at, ended_at in self.recent:
            if began_at < end and start < ended_at:
                awake_s = min(_AWAKE_S, (ended_at - began_at) / 2)
                if end >= ended_at - awake_s:
                    stalled_s += min(end, ended_at) - max(start, began_at)
        if not stalled_s:
            return True
        execute_s = end - start
        least_s = min(batch.expected_s, execute_s)
        batch.started_at = end - max(execute_s - stalled_s, least_s)
        return stalled_s <= execute_s / 2
