"""Which clock, and how coarse timers, go with which event loop."""

from __future__ import annotations

import asyncio
import time

import pytest
import uvloop

from qaic_sched.clock import clock_of, tick_of
from qaic_sched.testing import run_virtual


def test_uvloop_counts_finer_than_its_timers() -> None:
    """Its own time moves in milliseconds, from the same origin as the clock that goes with it."""
    loop = uvloop.new_event_loop()
    try:
        assert clock_of(loop) is time.monotonic
        assert tick_of(loop) == 0.001
        assert loop.time() == pytest.approx(time.monotonic(), abs=60.0)
    finally:
        loop.close()


def test_other_loops_are_asked_themselves() -> None:
    """Real or virtual: timers fire by the clock that they are set by."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert clock_of(loop) == loop.time
        assert tick_of(loop) == 0.0

    asyncio.run(main())
    run_virtual(main)
