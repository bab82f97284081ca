"""Simulated cards for the benchmarks, and the closed load that is put on a scheduler of them."""

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
service_time_s: {service_s!r}
devices: {devices}
cores: {cores}
"""


@contextmanager
def card_file(
    *, devices: int = 1, cores: int = 16, batch: int = 1, service_s: float = 0.0
) -> Iterator[str]:
    """The path of a model file for such cards, for as long as the context lasts."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "card.sim.yaml")
        text = CARD.format(devices=devices, cores=cores, batch=batch, service_s=service_s)
        path.write_text(text, encoding="utf-8")
        yield str(path)


def rows_of(samples: int) -> dict[str, NDArray[np.float32]]:
    """Inputs of so many samples for these cards."""
    return {"data": np.ones((samples, WIDTH), np.float32)}


class Cost(NamedTuple):
    """What some requests took."""

    rate: float
    """Requests per second."""
    cpu_us: float
    """CPU time of this process per request, in microseconds."""

    @classmethod
    def since(cls, wall: float, cpu: float, count: int) -> Cost:
        """Of `count` requests since those readings of `perf_counter` and `process_time`."""
        cpu_us = 1e6 * (process_time() - cpu) / count
        return cls(count / (perf_counter() - wall), cpu_us)


class Refill:
    """Keeps so many single-sample requests at a scheduler: each that is answered brings the next.

    By callbacks, without a task for each caller, of which there may be a million.
    """

    def __init__(self, scheduler: Scheduler, outstanding: int) -> None:
        self._scheduler = scheduler
        self._row = rows_of(1)
        self._left = 0
        self._is_over = False
        self._reached = asyncio.Event()
        for _ in range(outstanding):
            self._submit()

    async def run(self, count: int) -> Cost:
        """Wait until so many more were answered; what each cost."""
        self._left = count
        self._reached.clear()
        wall, cpu = perf_counter(), process_time()
        await self._reached.wait()
        return Cost.since(wall, cpu, count)

    def stop(self) -> None:
        """Bring no more; to be called before the scheduler is closed with the rest in it."""
        self._is_over = True

    def _submit(self) -> None:
        self._scheduler.submit(self._row).add_done_callback(self._answered)

    def _answered(self, request: ScheduledRequest) -> None:
        if self._is_over:
            return
        request.result()
        self._left -= 1
        if self._left == 0:
            self._reached.set()
        self._submit()


async def call_repeatedly(call: Callable[[], Awaitable[Any]], callers: int, calls: int) -> Cost:
    """What a call costs where so many callers make so many each, one after the other."""

    async def caller() -> None:
        for _ in range(calls):
            await call()

    wall, cpu = perf_counter(), process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return Cost.since(wall, cpu, callers * calls)
