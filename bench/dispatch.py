"""Cost of a call: `scheduler.run` compared with `run_in_executor` and `anyio.to_thread`.

64 callers on uvloop share a simulated card with an execution time of 0, so that only dispatching
is measured. The baselines call a function on a thread that does nothing.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import anyio

from bench.cards import Cost, call_repeatedly, card_file, rows_of
from bench.result import Result, at_least, at_most, compare
from bench.rounds import ROUNDS, alternate, run_on_uvloop
from qaic_sched.scheduler.front import Scheduler

if TYPE_CHECKING:
    from bench.rounds import Contender

__all__ = ["measure"]

CALLERS = 64
ACTIVATIONS = 16
"""One per core of a card, with two slots each, so that half of the callers are in flight."""
OURS = "scheduler.run"
EXECUTOR = "run_in_executor"
ANYIO = "anyio.to_thread"


def measure(is_short: bool) -> list[Result]:
    """Measure calls per second against both baselines, and CPU time per call."""
    with card_file() as path:
        costs = run_on_uvloop(_run(path, *((ROUNDS, 40) if is_short else (9, 400))))
    rates = {name: [each.rate for each in rounds] for name, rounds in costs.items()}
    cpu = {name: [each.cpu_us for each in rounds] for name, rounds in costs.items()}
    return [
        compare(
            "dispatch",
            "calls",
            "1/s",
            rates[OURS],
            EXECUTOR,
            rates[EXECUTOR],
            targets=[at_least(100_000, "value"), at_least(2.5)],
        ),
        compare(
            "dispatch", "calls", "1/s", rates[OURS], ANYIO, rates[ANYIO], targets=[at_least(9.0)]
        ),
        compare(
            "dispatch",
            "CPU per call",
            "us",
            cpu[OURS],
            EXECUTOR,
            cpu[EXECUTOR],
            better="lower",
            targets=[at_most(10.0, "value")],
        ),
    ]


async def _run(path: str, rounds: int, calls: int) -> dict[str, list[Cost]]:
    row = rows_of(1)
    loop = asyncio.get_running_loop()
    async with Scheduler(path, num_activations=ACTIVATIONS) as scheduler:
        ways = {
            OURS: lambda: scheduler.run(row),
            EXECUTOR: lambda: loop.run_in_executor(None, len, row),
            ANYIO: lambda: anyio.to_thread.run_sync(len, row),
        }
        contenders: dict[str, Contender[Cost]] = {
            name: partial(call_repeatedly, call, CALLERS, calls) for name, call in ways.items()
        }
        return await alternate(contenders, rounds)
