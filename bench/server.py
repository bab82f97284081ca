"""Single-sample requests: the highest rate with a p99 of at most 15 ms.

8 devices of 4 activations run batches of 8 in 2.2695 ms. Arrivals are Poisson, and latencies count
from the planned instant of a request, so that a late sender hides nothing. Sender and scheduler
share one process. The sender reads its clock every millisecond, the resolution of uvloop's timers,
which is part of the latencies of both sides. The baseline is a micro-batcher with the same delay.
"""

from __future__ import annotations

import asyncio
from functools import partial
from math import ceil
from statistics import median
from time import monotonic, perf_counter, process_time
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from bench.baselines import MicroBatcher, load_all
from bench.cards import card_file, rows_of
from bench.result import Result, compare
from bench.rounds import ROUNDS, alternate, run_on_uvloop
from qaic_sched.scheduler.front import Scheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.rounds import Contender
    from qaic_sched.program import Tensors
    from qaic_sched.scheduler.request import ScheduledRequest

    Submit: TypeAlias = Callable[[Tensors], "ScheduledRequest | asyncio.Future[Tensors]"]

__all__ = ["highest_rate", "measure"]

DEVICES = 8
ACTIVATIONS = 4
SET_SIZE = 2
BATCH = 8
EXECUTE_S = 0.0022695
DELAY_S = 0.001
CAPACITY = DEVICES * ACTIVATIONS * BATCH / EXECUTE_S
LIMIT_S = 0.015
RECORD = 625_167
"""Samples per second of a whole host of such devices, to be shared by several front ends."""
PROBES = 7
TICK_S = 0.001
WARM_UP = 0.2
SHORT_RATE = 10_000
OURS = "scheduler.submit"
BATCHER = "micro-batcher"


class Offered(NamedTuple):
    """The result of requests sent at a rate."""

    rate: float
    p99_s: float
    cpu_us: float
    cpu_share: float
    """CPU seconds per second; near 1, the one core of a process limits the rate."""


def measure(is_short: bool) -> list[Result]:
    """Measure the highest rate and the CPU time per request; the short form only the latter."""
    with card_file(devices=DEVICES, batch=BATCH, execute_s=EXECUTE_S) as path:
        found = run_on_uvloop(_run(path, is_short))
    ours, theirs = found[OURS], found[BATCHER]
    cpu = compare(
        "server",
        f"CPU per request at {SHORT_RATE:,}/s" if is_short else "CPU per request at that rate",
        "us",
        [each.cpu_us for each in ours],
        BATCHER,
        [each.cpu_us for each in theirs],
        better="lower",
    )
    return [cpu] if is_short else [*_of_rates(ours, theirs), cpu]


def _of_rates(ours: list[Offered], theirs: list[Offered]) -> list[Result]:
    rates, others = [each.rate for each in ours], [each.rate for each in theirs]
    share = median(each.cpu_share for each in ours)
    p99_ms = 1e3 * median(each.p99_s for each in ours)
    limit = "the CPU of one process" if share > 0.8 else "the devices, or p99 itself"
    note = f"p99 {p99_ms:.1f} ms, {100 * share:.0f} % of a core: {limit} limits it"
    metric = "samples with p99 <= 15 ms"
    return [
        compare("server", metric, "1/s", rates, BATCHER, others, note=note),
        compare("server", metric, "1/s", rates, "the ideal", [CAPACITY]),
        compare(
            "server",
            f"front ends for {RECORD:,} samples/s",
            "",
            [ceil(RECORD / each) for each in rates],
            BATCHER,
            [ceil(RECORD / each) for each in others],
            better="lower",
        ),
    ]


async def _run(path: str, is_short: bool) -> dict[str, list[Offered]]:
    async with (
        load_all(path, ACTIVATIONS, SET_SIZE) as executables,
        Scheduler(
            path,
            num_activations=ACTIVATIONS,
            set_size=SET_SIZE,
            batching={"max_queue_delay_s": DELAY_S},
        ) as scheduler,
    ):
        submits: dict[str, Submit] = {
            OURS: scheduler.submit,
            BATCHER: MicroBatcher(executables, SET_SIZE, DELAY_S).submit,
        }
        contenders: dict[str, Contender[Offered]] = {
            name: partial(_offer, submit, SHORT_RATE, 0.3)
            if is_short
            else partial(highest_rate, partial(_offer, submit, seconds=1.0), CAPACITY)
            for name, submit in submits.items()
        }
        return await alternate(contenders, ROUNDS, warm_up=1 if is_short else 0)


async def highest_rate(offer: Callable[[float], Awaitable[Offered]], most: float) -> Offered:
    """Find the highest rate up to `most` whose p99 keeps the limit, by bisection.

    Returns the result at that rate, or at the lowest rate tried if no rate keeps the limit.
    """
    low, high = most / 2**PROBES, most
    best = await offer(low)
    for _ in range(PROBES):
        offered = await offer((low + high) / 2)
        if offered.p99_s <= LIMIT_S:
            best, low = offered, offered.rate
        else:
            high = (low + high) / 2
    return best


async def _offer(submit: Submit, rate: float, seconds: float) -> Offered:
    """Send Poisson arrivals for `seconds` and wait until all requests are resolved."""
    count = int(rate * seconds)
    due = np.cumsum(np.random.default_rng(1).exponential(1 / rate, count)).tolist()
    row = rows_of(1)
    latencies: list[float] = []
    all_resolved = asyncio.Event()

    def resolved(due_at: float, request: ScheduledRequest | asyncio.Future[Tensors]) -> None:
        request.result()
        latencies.append(monotonic() - started_at - due_at)
        if len(latencies) == count:
            all_resolved.set()

    wall, cpu = perf_counter(), process_time()
    started_at = monotonic()
    sent = 0
    while sent < count:
        now = monotonic() - started_at
        while sent < count and due[sent] <= now:
            submit(row).add_done_callback(partial(resolved, due[sent]))
            sent += 1
        await asyncio.sleep(TICK_S)
    await all_resolved.wait()
    cpu_s, wall_s = process_time() - cpu, perf_counter() - wall
    # Requests resolve nearly in order of arrival, so the first latencies are those of the warm-up.
    steady = latencies[int(WARM_UP * count) :]
    return Offered(rate, float(np.percentile(steady, 99)), 1e6 * cpu_s / count, cpu_s / wall_s)
