"""Largest host: 64 devices of 4 activations, batches of 8, kept busy by one process.

An execution time of 2.2695 ms is that of ResNet50 on such a host. Large requests run through
`scheduler.map` for ten seconds. The baselines are the most that the devices can do, and one task
per slot that only keeps the slot busy.
"""

from __future__ import annotations

from itertools import repeat
from time import perf_counter
from typing import TYPE_CHECKING

from bench.baselines import load_all, run_in_slots
from bench.cards import card_file, rows_of
from bench.result import Result, at_least, compare
from bench.rounds import ROUNDS, alternate, run_on_uvloop
from qaic_sched.scheduler.front import Scheduler

if TYPE_CHECKING:
    from bench.rounds import Contender

__all__ = ["measure"]

DEVICES = 64
ACTIVATIONS = 4
SET_SIZE = 2
BATCH = 8
EXECUTE_S = 0.0022695
IDEAL = DEVICES * ACTIVATIONS / EXECUTE_S
BATCHES_PER_REQUEST = 512
OURS = "scheduler.map"
TASKS = "a task per slot"


def measure(is_short: bool) -> list[Result]:
    """Measure batches per second against the ideal and against one task per slot."""
    with card_file(devices=DEVICES, batch=BATCH, execute_s=EXECUTE_S) as path:
        rates = run_on_uvloop(_run(path, 0.2 if is_short else 10.0))
    ours = rates[OURS]
    return [
        compare("record", "batches", "1/s", ours, "the ideal", [IDEAL], targets=[at_least(0.97)]),
        compare("record", "batches", "1/s", ours, TASKS, rates[TASKS]),
    ]


async def _run(path: str, seconds: float) -> dict[str, list[float]]:
    requests = round(IDEAL * seconds / BATCHES_PER_REQUEST)
    rows = rows_of(BATCHES_PER_REQUEST * BATCH)

    async def ours() -> float:
        started = perf_counter()
        async for _ in scheduler.map(repeat(rows, requests)):
            pass
        return requests * BATCHES_PER_REQUEST / (perf_counter() - started)

    async def tasks() -> float:
        started = perf_counter()
        await run_in_slots(executables, SET_SIZE, rows, requests)
        return requests * BATCHES_PER_REQUEST / (perf_counter() - started)

    async with (
        load_all(path, ACTIVATIONS, SET_SIZE) as executables,
        Scheduler(path, num_activations=ACTIVATIONS, set_size=SET_SIZE) as scheduler,
    ):
        contenders: dict[str, Contender[float]] = {OURS: ours, TASKS: tasks}
        return await alternate(contenders, ROUNDS)
