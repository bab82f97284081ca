"""The most that one process keeps busy: 64 devices of 4 activations, batches of 8, 2.2695 ms each.

That is what ResNet50 takes on such a host. Large requests go through `scheduler.map` for ten
seconds; the figure is batches per second beside what the devices can do at best, and beside tasks
written by hand that do no more than keep each slot busy.
"""

from __future__ import annotations

from itertools import repeat
from time import perf_counter
from typing import TYPE_CHECKING

from bench.by_hand import load_all, run_in_slots
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
SERVICE_S = 0.0022695
IDEAL = DEVICES * ACTIVATIONS / SERVICE_S
BATCHES_PER_REQUEST = 512
OURS = "scheduler.map"
BY_HAND = "a task per slot, by hand"


def measure(is_short: bool) -> list[Result]:
    """Batches per second beside the ideal and beside tasks by hand."""
    with card_file(devices=DEVICES, batch=BATCH, service_s=SERVICE_S) as path:
        rates = run_on_uvloop(_run(path, 0.2 if is_short else 10.0))
    ours = rates[OURS]
    return [
        compare("record", "batches", "1/s", ours, "the ideal", [IDEAL], asked=[at_least(0.97)]),
        compare("record", "batches", "1/s", ours, BY_HAND, rates[BY_HAND]),
    ]


async def _run(path: str, seconds: float) -> dict[str, list[float]]:
    requests = round(IDEAL * seconds / BATCHES_PER_REQUEST)
    rows = rows_of(BATCHES_PER_REQUEST * BATCH)

    async def ours() -> float:
        started = perf_counter()
        async for _ in scheduler.map(repeat(rows, requests)):
            pass
        return requests * BATCHES_PER_REQUEST / (perf_counter() - started)

    async def by_hand() -> float:
        started = perf_counter()
        await run_in_slots(executables, SET_SIZE, rows, requests)
        return requests * BATCHES_PER_REQUEST / (perf_counter() - started)

    async with (
        load_all(path, ACTIVATIONS, SET_SIZE) as executables,
        Scheduler(path, num_activations=ACTIVATIONS, set_size=SET_SIZE) as scheduler,
    ):
        contenders: dict[str, Contender[float]] = {OURS: ours, BY_HAND: by_hand}
        return await alternate(contenders, ROUNDS)
