"""The clock of an event loop; the only module that chooses a clock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["clock_of", "runs_by_itself", "tick_of"]


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock of the loop's timers, in seconds, at the best resolution available.

    uvloop's `time()` moves in steps of a millisecond, but has the origin of `time.monotonic`. For
    any other loop, virtual ones included, it is the loop's own `time`.
    """
    return time.monotonic if _is_uvloop(loop) else loop.time


def tick_of(loop: asyncio.AbstractEventLoop) -> float:
    """Return the number of seconds by which a timer may fire before or after its time."""
    return 0.001 if _is_uvloop(loop) else 0.0


def runs_by_itself(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether the clock runs on while the loop stands still, as a virtual one does not."""
    return not getattr(loop, "is_virtual", False)


def _is_uvloop(loop: asyncio.AbstractEventLoop) -> bool:
    return type(loop).__module__.partition(".")[0] == "uvloop"
