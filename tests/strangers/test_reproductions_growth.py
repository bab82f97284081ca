"""Issue 13, line 8: a call costs what is queued, and never what ever came."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qaic_sched import Scheduler
from qaic_sched.core.commands import Commands
from qaic_sched.core.events import Completed, DeviceOpened
from qaic_sched.core.model import Policy, Request
from qaic_sched.core.state import SchedulerState
from qaic_sched.testing import run_virtual
from tests.hosts import host, rows

pytestmark = pytest.mark.slow


class Core:
    """A core with one device, which answers each batch when told to."""

    def __init__(self, *, batch: int = 8) -> None:
        self.core = SchedulerState(Policy(batch_sizes=(batch,), max_samples=10**9))
        self.core.handle(0.0, [DeviceOpened(0, 1, 1)])
        self.now = 0.0
        self.count = 0
        self.batches: list[int] = []

    def handle(self, *events: Any) -> None:
        """Handle events a millisecond later."""
        self.now += 0.001
        commands: Commands = self.core.handle(self.now, events)
        self.batches += [batch.id for batch in commands.dispatch]

    def submit(self, tenant: str | None = None, priority: int = 0) -> None:
        """Bring in one sample."""
        self.count += 1
        self.handle(Request(self.count, 1, self.now, None, priority, tenant=tenant))

    def answer_all(self) -> None:
        """Let the device answer until it has nothing left."""
        while self.batches:
            self.handle(Completed(self.batches.pop(0), self.now))


def cpu_s(work: Callable[[], None]) -> float:
    """The CPU time of this thread, without collections of garbage."""
    gc.collect()
    gc.disable()
    try:
        start = time.thread_time()
        work()
        return time.thread_time() - start
    finally:
        gc.enable()


def test_a_call_of_many_tenants_in_turn_costs_the_same_after_many_calls() -> None:
    """Two hundred tenants take turns: a thousand calls later they cost no more than at first."""
    core = Core()

    def calls() -> None:
        for number in range(200):
            core.submit(f"tenant-{number % 200}")
            if number % 8 == 7:
                core.answer_all()

    times = [cpu_s(calls) for _ in range(6)]
    assert min(times[-2:]) < 2 * times[0]


def test_a_tenant_who_has_nothing_queued_leaves_no_memory() -> None:
    """Three hundred tenants more, each of whom came once, leave less than 30 bytes each."""
    core = Core()

    def come(first: int, count: int) -> int:
        for number in range(first, first + count):
            core.submit(f"tenant-{number}")
            core.answer_all()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    come(0, 400)
    tracemalloc.start()
    try:
        before = come(400, 10)
        after = come(410, 300)
    finally:
        tracemalloc.stop()

    assert (after - before) / 300 < 30


def queued_cost(core: Core, count: int, submit: Callable[[int], None]) -> float:
    """CPU seconds per request to queue so many, and to serve them all."""

    def work() -> None:
        for number in range(count):
            submit(number)
        core.answer_all()

    return cpu_s(work) / count


def test_priorities_cost_a_logarithm_at_most() -> None:
    """Two thousand queued requests of as many priorities cost thrice those of one, at most."""
    alike, unlike = Core(), Core()
    one = queued_cost(alike, 2000, lambda number: alike.submit())
    many = queued_cost(unlike, 2000, lambda number: unlike.submit(priority=number))

    assert many < 3 * one


def test_priorities_that_are_gone_cost_nothing() -> None:
    """After two thousand priorities, each of which came once, a call costs what it did before."""
    core = Core()

    def calls() -> None:
        for _ in range(200):
            core.submit()
            core.answer_all()

    before = min(cpu_s(calls) for _ in range(3))
    for number in range(2000):
        core.submit(priority=number)
        core.answer_all()

    assert min(cpu_s(calls) for _ in range(3)) < 2 * before


def test_queued_tenants_cost_a_logarithm_at_most() -> None:
    """Two thousand queued requests of as many tenants cost six times those of one, at most."""
    alike, unlike = Core(), Core()
    one = queued_cost(alike, 2000, lambda number: alike.submit("a"))
    many = queued_cost(unlike, 2000, lambda number: unlike.submit(f"tenant-{number}"))

    assert many < 6 * one


def test_devices_that_come_and_go_leave_no_memory(tmp_path: Path) -> None:
    """A device removed and added a hundred times more leaves less than a kilobyte each time."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=2), devices=2) as scheduler:

            async def change(times: int) -> int:
                for _ in range(times):
                    await scheduler.update_backend_options(devices=[0])
                    await scheduler.run(rows(1))
                    await scheduler.update_backend_options(devices=[0, 1])
                    await asyncio.gather(*(scheduler.run(rows(8)) for _ in range(3)))
                gc.collect()
                return tracemalloc.get_traced_memory()[0]

            tracemalloc.start()
            try:
                before = await change(50)
                after = await change(100)
            finally:
                tracemalloc.stop()
            assert (after - before) / 100 < 1024
            assert set(scheduler.get_metrics()["devices"]) == {0, 1}

    run_virtual(main)


def test_refused_and_cancelled_requests_leave_no_memory(tmp_path: Path) -> None:
    """Thousands that time out, are cancelled or refused leave nothing behind in the scheduler."""

    async def main() -> None:
        model = host(tmp_path, service_time_s=0.001)
        async with Scheduler(model, queue={"max_samples": 64, "when_full": "reject"}) as scheduler:

            async def bother(times: int) -> int:
                for number in range(times):
                    requests = [scheduler.submit(rows(8), tenant=f"t{number}") for _ in range(12)]
                    requests[0].cancel()
                    late = scheduler.submit(rows(1), timeout_s=0.0005, tenant=f"late{number}")
                    await asyncio.gather(*requests, late, return_exceptions=True)
                gc.collect()
                return tracemalloc.get_traced_memory()[0]

            tracemalloc.start()
            try:
                before = await bother(100)
                after = await bother(200)
            finally:
                tracemalloc.stop()
            assert (after - before) / 200 < 600

    run_virtual(main)
