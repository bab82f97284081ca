"""Memory: bytes per queued request, and growth over millions of requests.

Sizes are those of the whole process, as the operating system reports them. The size of a queued
request excludes its tensor, which all requests share here. Its baseline is the least that any
queue keeps: a dict of inputs and a future. Growth is measured on a saturated and on an idle host,
because they leave different objects behind. Each measurement runs in a new process, where no freed
memory is reused.
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
"""Outstanding requests: equally many are queued and waiting for room."""
IDLE_HOST = 2
"""Outstanding requests for four devices."""
OURS = "scheduler.submit"
DEQUE = "a deque of (inputs, future)"


def measure(is_short: bool) -> list[Result]:
    """Measure bytes per queued request, and the size after many requests against an early one."""
    rounds = asyncio.run(
        alternate(
            {
                OURS: partial(_apart, _ours_per_request),
                DEQUE: partial(_apart, _deque_per_request),
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
            DEQUE,
            rounds[DEQUE],
            better="lower",
            targets=[at_most(1000, "value")],
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
        targets=[at_most(1.05)],
    )


async def _apart(function: Callable[[], float]) -> float:
    return run_apart(function)


def _resident_bytes() -> int:
    """Return the resident size of this process. Linux only: other systems report the peak."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _ours_per_request() -> float:
    with card_file() as path:
        return run_on_uvloop(_fill_ours(path))


async def _fill_ours(path: str) -> float:
    row = rows_of(1)["data"]
    async with Scheduler(path, queue={"max_samples": 2 * QUEUED}) as scheduler:
        requests = [await scheduler.run({"data": row}) for _ in range(100)]  # loads all code
        before = _resident_bytes()
        kept = deque(scheduler.submit({"data": row}) for _ in range(QUEUED))
        assert scheduler.statistics().queued_samples >= QUEUED - 2
        size = _resident_bytes() - before
        del requests, kept
        await scheduler.aclose()
    return size / QUEUED


def _deque_per_request() -> float:
    return run_on_uvloop(_fill_deque())


async def _fill_deque() -> float:
    row = rows_of(1)["data"]
    loop = asyncio.get_running_loop()
    before = _resident_bytes()
    kept: deque[Any] = deque(({"data": row}, loop.create_future()) for _ in range(QUEUED))
    size = _resident_bytes() - before
    del kept
    return size / QUEUED


def _sizes(outstanding: int, most: int) -> tuple[int, int]:
    """Return the sizes after the first requests and after all requests."""
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
