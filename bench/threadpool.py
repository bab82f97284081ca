"""Short inferences: the scheduler compared with one thread per slot, as the vendor advises.

64 activations of 1 ms and a `set_size` of 4 allow 64,000 inferences per second. The baseline is a
ThreadPoolExecutor of num_activations × set_size = 256 threads around a blocking `run`. It runs
twice: with `qaic_sched.Session` on the same simulated card, and with a stand-in that only sleeps
until the inference ends, which is the least that a blocking call can cost.
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
EXECUTE_S = 0.001
IDEAL = ACTIVATIONS / EXECUTE_S
CALLERS = 2 * ACTIVATIONS * SET_SIZE
OURS = "scheduler.run"
SLEEP = "256 threads, run() that only sleeps"
SESSION = "256 threads, Session.run()"


def measure(is_short: bool) -> list[Result]:
    """Measure inferences per second against the ideal and against both thread pools."""
    with card_file(cores=ACTIVATIONS, execute_s=EXECUTE_S) as path:
        rates = run_on_uvloop(_run(path, 0.1 if is_short else 2.0))

    def compared(baseline: str, theirs: list[float], targets: list[Any]) -> Result:
        return compare(
            "threadpool", "inferences", "1/s", rates[OURS], baseline, theirs, targets=targets
        )

    return [
        compared("the ideal", [IDEAL], [at_least(0.95)]),
        compared(SLEEP, rates[SLEEP], []),
        compared(SESSION, rates[SESSION], []),
    ]


class BlockingCard:
    """A card with a blocking `run`: each inference runs on the activation that is free first."""

    def __init__(self, num_activations: int, execute_s: float) -> None:
        self._free_at = [0.0] * num_activations
        self._execute_s = execute_s
        self._lock = Lock()

    def run(self, inputs: Tensors) -> Tensors:
        """Sleep until the inference ends."""
        with self._lock:
            end = max(time.monotonic(), self._free_at[0]) + self._execute_s
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
        for _ in pool.map(run, repeat(row, count // 4)):  # fewer, because threads are slower
            pass
        return count // 4 / (time.perf_counter() - started)

    async with Scheduler(path, **options) as scheduler:
        with (
            ThreadPoolExecutor(ACTIVATIONS * SET_SIZE) as pool,
            Session(path, **options) as session,
        ):
            card = BlockingCard(ACTIVATIONS, EXECUTE_S)
            contenders: dict[str, Contender[float]] = {
                OURS: ours,
                SLEEP: partial(threads, card.run),
                SESSION: partial(threads, session.run),
            }
            return await alternate(contenders, ROUNDS)
