"""Simulated cards for the benchmarks, and closed loads for a scheduler that runs on them."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from numpy.typing import NDArray

    from qaic_sched.scheduler.front import Scheduler
    from qaic_sched.scheduler.request import ScheduledRequest

__all__ = ["Cost", "Refill", "call_repeatedly", "card_file", "rows_of"]

WIDTH = 16

CARD = """
inputs:  {{data: {{shape: [{batch}, 16], dtype: float32}}}}
outputs: {{prob: {{shape: [{batch}, 4], dtype: float32}}}}
service_time_s: {execute_s!r}
devices: {devices}
cores: {cores}
"""


@contextmanager
def card_file(
    *, devices: int = 1, cores: int = 16, batch: int = 1, execute_s: float = 0.0
) -> Iterator[str]:
    """Write a model file for simulated cards; yields its path and removes it at the end."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "card.sim.yaml")
        text = CARD.format(devices=devices, cores=cores, batch=batch, execute_s=execute_s)
        path.write_text(text, encoding="utf-8")
        yield str(path)


def rows_of(samples: int) -> dict[str, NDArray[np.float32]]:
    """Make inputs of a number of samples for these cards."""
    return {"data": np.ones((samples, WIDTH), np.float32)}


class Cost(NamedTuple):
    """The cost of a series of requests."""

    rate: float
    """Requests per second."""
    cpu_us: float
    """CPU time of this process per request, in microseconds."""

    @classmethod
    def since(cls, wall: float, cpu: float, count: int) -> Cost:
        """Cost of `count` requests since readings of `perf_counter` and `process_time`."""
        cpu_us = 1e6 * (process_time() - cpu) / count
        return cls(count / (perf_counter() - wall), cpu_us)


class Refill:
    """Keeps a number of single-sample requests in a scheduler: each one resolved submits the next.

    Uses callbacks instead of one task per caller, because there may be a million callers.
    """

    def __init__(self, scheduler: Scheduler, outstanding: int) -> None:
        self._scheduler = scheduler
        self._row = rows_of(1)
        self._left = 0
        self._is_stopped = False
        self._reached = asyncio.Event()
        for _ in range(outstanding):
            self._submit()

    async def run(self, count: int) -> Cost:
        """Wait until `count` more requests are resolved and return their cost."""
        self._left = count
        self._reached.clear()
        wall, cpu = perf_counter(), process_time()
        await self._reached.wait()
        return Cost.since(wall, cpu, count)

    def stop(self) -> None:
        """Submit no more requests. Call it before the scheduler is closed with requests in it."""
        self._is_stopped = True

    def _submit(self) -> None:
        self._scheduler.submit(self._row).add_done_callback(self._resolved)

    def _resolved(self, request: ScheduledRequest) -> None:
        if self._is_stopped:
            return
        request.result()
        self._left -= 1
        if self._left == 0:
            self._reached.set()
        self._submit()


async def call_repeatedly(call: Callable[[], Awaitable[Any]], callers: int, calls: int) -> Cost:
    """Cost of a call when each of `callers` tasks makes `calls` calls in sequence."""

    async def caller() -> None:
        for _ in range(calls):
            await call()

    wall, cpu = perf_counter(), process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return Cost.since(wall, cpu, callers * calls)
