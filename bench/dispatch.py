"""What a call costs: `await scheduler.run(x)` beside `loop.run_in_executor` and `anyio.to_thread`.

`python -m bench.dispatch`: 64 callers on uvloop, a simulated card of service time 0, so that only
the way there and back is measured. The three take turns; the medians are printed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import anyio
import numpy as np
import uvloop

from qaic_sched.scheduler import Scheduler

CALLERS = 64
CALLS = 200
ROUNDS = 7
CARD = """
inputs:  {data: {shape: [1, 16], dtype: float32}}
outputs: {prob: {shape: [1, 4], dtype: float32}}
service_time_s: 0
devices: 4
"""

Call = Callable[[], Awaitable[Any]]


async def _measure(call: Call) -> tuple[float, float]:
    """Calls per second, and microseconds of CPU per call."""

    async def caller() -> None:
        for _ in range(CALLS):
            await call()

    started, cpu = perf_counter(), process_time()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    count = CALLERS * CALLS
    return count / (perf_counter() - started), 1e6 * (process_time() - cpu) / count


async def _run(model: str) -> None:
    row = {"data": np.ones((1, 16), np.float32)}
    loop = asyncio.get_running_loop()
    async with Scheduler(model) as scheduler:
        calls: dict[str, Call] = {
            "scheduler.run": lambda: scheduler.run(row),
            "run_in_executor": lambda: loop.run_in_executor(None, len, row),
            "anyio.to_thread": lambda: anyio.to_thread.run_sync(len, row),
        }
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                results[name].append(await _measure(call))
    ours = median(rate for rate, _ in results["scheduler.run"])
    for name, rounds in results.items():
        rate = median(rate for rate, _ in rounds)
        cpu_us = median(cpu_us for _, cpu_us in rounds)
        print(f"{name:16}{rate:10,.0f} calls/s{cpu_us:8.1f} us CPU{ours / rate:8.2f} x ours/it")


def main() -> None:
    """Measure and print."""
    with TemporaryDirectory() as folder:
        model = Path(folder, "card.sim.yaml")
        model.write_text(CARD)
        loop = uvloop.new_event_loop()
        try:
            loop.run_until_complete(_run(str(model)))
        finally:
            loop.close()


if __name__ == "__main__":
    main()
