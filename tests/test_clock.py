"""The clock of an event loop, and the resolution of its timers."""

from __future__ import annotations

import asyncio
import time

import pytest
import uvloop

from qaic_sched.clock import clock_of, runs_by_itself, tick_of
from qaic_sched.testing import run_virtual


def test_uvloop_has_a_finer_clock_than_its_timers() -> None:
    """uvloop's own time moves in milliseconds, and has the origin of `time.monotonic`."""
    loop = uvloop.new_event_loop()
    try:
        assert clock_of(loop) is time.monotonic
        assert tick_of(loop) == 0.001
        assert loop.time() == pytest.approx(time.monotonic(), abs=60.0)
    finally:
        loop.close()


def test_other_loops_have_their_own_clock() -> None:
    """The clock of any other loop, real or virtual, is its own `time`."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert clock_of(loop) == loop.time
        assert tick_of(loop) == 0.0

    asyncio.run(main())
    run_virtual(main)


def test_only_a_virtual_clock_stands_still_with_its_loop() -> None:
    """Real clocks run on while a loop is blocked or its process is stopped."""

    async def is_real() -> bool:
        return runs_by_itself(asyncio.get_running_loop())

    assert asyncio.run(is_real())
    assert not run_virtual(is_real)
