"""Many short inferences: the scheduler beside the vendor's advice, a thread for each slot.

64 activations of 1 ms, `set_size` 4, so 64,000 inferences per second at best. The advice is a
ThreadPoolExecutor of num_activations × set_size = 256 threads around a blocking `run`. It is run
twice: over `qaic_sched.Session` on the same simulated card, and over a stand-in that only sleeps
until its exact end, which is the least that a blocking call can cost.
"""

from __future__ import annotations

import heapq
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.cards import call_repeatedly, card_file, rows_of
from bench.result import Result, at_least, compare
from bench.rounds import ROUNDS, alternate, run_on_uvloop
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.session.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.rounds import Contender
    from qaic_sched.program import Tensors

__all__ = ["BlockingCard", "measure"]

ACTIVATIONS = 64
SET_SIZE = 4
SERVICE_S = 0.001
IDEAL = ACTIVATIONS / SERVICE_S
CALLERS = 2 * ACTIVATIONS * SET_SIZE
OURS = "scheduler.run"
SLEEP = "256 threads, run() that only sleeps"
SESSION = "256 threads, Session.run()"


def measure(is_short: bool) -> list[Result]:
    """Inferences per second, beside the ideal and beside both pools of threads."""
    with card_file(cores=ACTIVATIONS, service_s=SERVICE_S) as path:
        rates = run_on_uvloop(_run(path, 0.1 if is_short else 2.0))

    def beside(baseline: str, theirs: list[float], asked: list[Any]) -> Result:
        return compare(
            "threadpool", "inferences", "1/s", rates[OURS], baseline, theirs, asked=asked
        )

    return [
        beside("the ideal", [IDEAL], [at_least(0.95)]),
        beside(SLEEP, rates[SLEEP], []),
        beside(SESSION, rates[SESSION], []),
    ]


class BlockingCard:
    """A card whose `run` blocks: each inference goes to the activation that is free first."""

    def __init__(self, num_activations: int, service_s: float) -> None:
        self._free_at = [0.0] * num_activations
        self._service_s = service_s
        self._lock = Lock()

    def run(self, inputs: Tensors) -> Tensors:
        """Sleep until the inference ends."""
        with self._lock:
            end = max(time.monotonic(), self._free_at[0]) + self._service_s
            heapq.heapreplace(self._free_at, end)
        time.sleep(max(0.0, end - time.monotonic()))
        return {"prob": np.zeros((1, 4), np.float32)}


async def _run(path: str, seconds: float) -> dict[str, list[float]]:
    count = int(IDEAL * seconds)
    row = rows_of(1)
    options: dict[str, Any] = {"num_activations": ACTIVATIONS, "set_size": SET_SIZE}

    async def ours() -> float:
        return (await call_repeatedly(lambda: scheduler.run(row), CALLERS, count // CALLERS)).rate

    async def threads(run: Callable[[Tensors], Tensors]) -> float:
        started = time.perf_counter()
        for _ in pool.map(run, repeat(row, count // 4)):  # it is slower: as long, not as many
            pass
        return count // 4 / (time.perf_counter() - started)

    async with Scheduler(path, **options) as scheduler:
        with (
            ThreadPoolExecutor(ACTIVATIONS * SET_SIZE) as pool,
            Session(path, **options) as session,
        ):
            card = BlockingCard(ACTIVATIONS, SERVICE_S)
            contenders: dict[str, Contender[float]] = {
                OURS: ours,
                SLEEP: partial(threads, card.run),
                SESSION: partial(threads, session.run),
            }
            return await alternate(contenders, ROUNDS)
