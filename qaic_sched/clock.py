"""Which clock goes with an event loop. The only place in the package that chooses one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["clock_of", "tick_of"]


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The clock, in seconds, that the loop's timers follow, at the best resolution there is.

    uvloop's own `time()` moves in steps of a millisecond, but counts from the same origin as
    `time.monotonic`; every other loop, a virtual one included, is asked itself.
    """
    return time.monotonic if _is_uvloop(loop) else loop.time


def tick_of(loop: asyncio.AbstractEventLoop) -> float:
    """By how many seconds the loop's timers may miss the clock, to either side, by themselves."""
    return 0.001 if _is_uvloop(loop) else 0.0


def _is_uvloop(loop: asyncio.AbstractEventLoop) -> bool:
    return type(loop).__module__.partition(".")[0] == "uvloop"
