"""What requests leave behind: bytes of each that is queued, and growth over millions.

Sizes are those of the whole process, as the operating system has them. A queued request is counted
beyond its tensor, which all of them share here; beside it is the least that a queue by hand keeps,
a dict of inputs and a future. What is left behind may differ on a host that always has an idle
activation, so growth is taken there as well. Each figure is taken in a process of its own, where no
freed memory is used again.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cards import Refill, card_file, rows_of
from bench.result import Result, at_most, compare
from bench.rounds import ROUNDS, alternate, run_apart, run_on_uvloop
from qaic_sched.scheduler.front import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["measure"]

QUEUED = 100_000
FIRST = 100_000
MOST = 10_000_000
MOST_IN_SHORT = 300_000
BOUND = 4096
SATURATED = 2 * BOUND
"""Requests at a time: as many wait for room as are queued."""
IDLE_HOST = 2
"""Requests at a time for four devices."""
OURS = "scheduler.submit"
BY_HAND = "a deque of (inputs, future)"


def measure(is_short: bool) -> list[Result]:
    """Bytes per queued request, and the size after many requests beside that after the first."""
    rounds = asyncio.run(
        alternate(
            {
                OURS: partial(_apart, _ours_per_request),
                BY_HAND: partial(_apart, _by_hand_per_request),
            },
            ROUNDS,
            warm_up=0,
        )
    )
    most = MOST_IN_SHORT if is_short else MOST
    return [
        compare(
            "memory",
            "bytes of a queued request",
            "B",
            rounds[OURS],
            BY_HAND,
            rounds[BY_HAND],
            better="lower",
            asked=[at_most(1000, "value")],
        ),
        _growth("requests", SATURATED, most),
        _growth("on an idle host", IDLE_HOST, max(most // 5, 2 * FIRST)),
    ]


def _growth(what: str, outstanding: int, most: int) -> Result:
    first, last = run_apart(_sizes, outstanding, most)
    return compare(
        "memory",
        f"size after {most:,} {what}",
        "MB",
        [last / 1e6],
        f"after the first {FIRST:,}",
        [first / 1e6],
        better="lower",
        asked=[at_most(1.05)],
    )


async def _apart(function: Callable[[], float]) -> float:
    return run_apart(function)


def _resident_bytes() -> int:
    """The size of this process in memory; Linux tells it at any time, others only its peak."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _ours_per_request() -> float:
    with card_file() as path:
        return run_on_uvloop(_fill_ours(path))


async def _fill_ours(path: str) -> float:
    row = rows_of(1)["data"]
    async with Scheduler(path, queue={"max_samples": 2 * QUEUED}) as scheduler:
        requests = [await scheduler.run({"data": row}) for _ in range(100)]  # all code is in memory
        before = _resident_bytes()
        kept = deque(scheduler.submit({"data": row}) for _ in range(QUEUED))
        assert scheduler.statistics().queued_samples >= QUEUED - 2
        size = _resident_bytes() - before
        del requests, kept
        await scheduler.aclose()
    return size / QUEUED


def _by_hand_per_request() -> float:
    return run_on_uvloop(_fill_by_hand())


async def _fill_by_hand() -> float:
    row = rows_of(1)["data"]
    loop = asyncio.get_running_loop()
    before = _resident_bytes()
    kept: deque[Any] = deque(({"data": row}, loop.create_future()) for _ in range(QUEUED))
    size = _resident_bytes() - before
    del kept
    return size / QUEUED


def _sizes(outstanding: int, most: int) -> tuple[int, int]:
    """After the first requests, and after all of them."""
    with card_file(devices=4) as path:
        return run_on_uvloop(_push_through(path, outstanding, most))


async def _push_through(path: str, outstanding: int, most: int) -> tuple[int, int]:
    async with Scheduler(path, queue={"max_samples": BOUND}) as scheduler:
        refill = Refill(scheduler, outstanding)
        await refill.run(FIRST)
        first = _resident_bytes()
        await refill.run(most - FIRST)
        last = _resident_bytes()
        refill.stop()
        await scheduler.aclose()
    return first, last
