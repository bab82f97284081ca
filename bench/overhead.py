"""Added latency: the time that the scheduler adds to a single request on an idle device.

Values are median times of requests in sequence. On a simulated card with an execution time of 0,
the added time is that beyond one `submit` to the backend and its future; the baseline is
`loop.run_in_executor` with a function that does nothing. On the CPU, with a model of a few
microseconds, both sides are measured beyond the blocking call of ONNX Runtime, so that our value
includes the hop to the device's thread and back.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.baselines import infer, infer_on_thread, load_all
from bench.cards import card_file, rows_of
from bench.models import linear
from bench.result import Result, at_most, compare
from bench.rounds import ROUNDS, alternate, run_on_uvloop
from qaic_sched.backends.cpu.onnx_model import open_model
from qaic_sched.scheduler.front import Scheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.rounds import Contender

__all__ = ["measure"]

WIDTH = 64
OURS = "scheduler.run"
SUBMIT = "a bare submit"
EXECUTOR = "run_in_executor"
DIRECT = "onnxruntime itself"


def measure(is_short: bool) -> list[Result]:
    """Measure the microseconds added on a simulated card and on the CPU."""
    rounds, calls = (ROUNDS, 300) if is_short else (3 * ROUNDS, 2000)
    with card_file() as path:
        card = run_on_uvloop(_on_card(path, rounds, calls))
    with TemporaryDirectory() as folder:
        cpu = run_on_uvloop(_on_cpu(Path(folder), rounds, calls))
    return [
        compare(
            "overhead",
            "added on a card of execution time 0",
            "us",
            _added(card, OURS, SUBMIT),
            EXECUTOR,
            card[EXECUTOR],
            better="lower",
            targets=[at_most(20.0, "value")],
            note=f"{OURS} {median(card[OURS]):.1f} us, {SUBMIT} {median(card[SUBMIT]):.1f} us",
        ),
        compare(
            "overhead",
            "added to a model on the CPU",
            "us",
            _added(cpu, OURS, DIRECT),
            EXECUTOR,
            _added(cpu, EXECUTOR, DIRECT),
            better="lower",
            targets=[at_most(1.0)],
            note=f"{DIRECT} {median(cpu[DIRECT]):.1f} us, {SUBMIT} {median(cpu[SUBMIT]):.1f} us",
        ),
    ]


def _added(rounds: dict[str, list[float]], name: str, base: str) -> list[float]:
    return [each - bare for each, bare in zip(rounds[name], rounds[base], strict=True)]


async def _on_card(path: str, rounds: int, calls: int) -> dict[str, list[float]]:
    row = rows_of(1)
    loop = asyncio.get_running_loop()
    async with load_all(path) as [executable], Scheduler(path) as scheduler:
        ways: dict[str, Callable[[], Awaitable[Any]]] = {
            OURS: lambda: scheduler.run(row),
            SUBMIT: lambda: infer(executable, 0, row),
            EXECUTOR: lambda: loop.run_in_executor(None, len, row),
        }
        return await _alternate(ways, rounds, calls)


async def _on_cpu(folder: Path, rounds: int, calls: int) -> dict[str, list[float]]:
    path = linear(folder / "linear.onnx", WIDTH)
    row = {"data": np.ones((1, WIDTH), np.float32)}
    options: dict[str, Any] = {
        "backend": "cpu",
        "devices": [0],
        "onnx_define_symbol": {"N": 1},
        "output_dir": str(folder / "compiled"),
    }
    session = open_model(path, 1, {"N": 1})
    loop = asyncio.get_running_loop()

    async def direct() -> None:
        session.run(None, row)

    async with load_all(path, **options) as [executable], Scheduler(path, **options) as scheduler:
        ways: dict[str, Callable[[], Awaitable[Any]]] = {
            OURS: lambda: scheduler.run(row),
            SUBMIT: lambda: infer_on_thread(executable, 0, row),
            EXECUTOR: lambda: loop.run_in_executor(None, session.run, None, row),
            DIRECT: direct,
        }
        return await _alternate(ways, rounds, calls)


async def _alternate(
    ways: dict[str, Callable[[], Awaitable[Any]]], rounds: int, calls: int
) -> dict[str, list[float]]:
    contenders: dict[str, Contender[float]] = {
        name: partial(_median_us, call, calls) for name, call in ways.items()
    }
    return await alternate(contenders, rounds)


async def _median_us(call: Callable[[], Awaitable[Any]], calls: int) -> float:
    times = []
    for _ in range(calls):
        started = perf_counter()
        await call()
        times.append(perf_counter() - started)
    return 1e6 * median(times)
