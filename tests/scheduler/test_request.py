"""The handle of a request, in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from qaic_sched.scheduler.front import Scheduler
from qaic_sched.scheduler.request import ScheduledRequest
from qaic_sched.testing import run_virtual
from tests.hosts import expected, host, rows


def test_can_be_awaited_by_several_tasks_and_again(tmp_path: Path) -> None:
    """Every await returns the same outputs, also long after the request is done."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            inputs = rows(2)
            request = scheduler.submit(inputs)
            first, second = await asyncio.gather(request, request)
            assert first is second
            assert await request is first
            np.testing.assert_array_equal(first["mean"], expected(inputs))

    run_virtual(main)


def test_reports_its_state(tmp_path: Path) -> None:
    """`done`, `cancelled`, `result` and the repr follow the request's life."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            request = scheduler.submit(rows(1))
            assert not request.done()
            with pytest.raises(asyncio.InvalidStateError, match="not done"):
                request.result()
            await request
            assert request.done()
            assert not request.cancelled()
            assert not request.cancel()
            assert repr(request) == "<ScheduledRequest 0 done>"

            other = scheduler.submit(rows(1))
            assert other.cancel()
            with pytest.raises(asyncio.CancelledError):
                await other
            assert other.cancelled()

    run_virtual(main)


def test_cancelling_one_of_several_waiting_tasks_cancels_it(tmp_path: Path) -> None:
    """As with an awaited task, cancelling any task that awaits the request cancels it."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            request = scheduler.submit(rows(1))

            async def wait() -> object:
                return await request

            tasks = [asyncio.ensure_future(wait()) for _ in range(2)]
            await asyncio.sleep(0.001)
            tasks[0].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(each, asyncio.CancelledError) for each in results)
            assert request.cancelled()

    run_virtual(main)


def test_shield_keeps_it_alive(tmp_path: Path) -> None:
    """A shielded request continues when its caller is cancelled."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            request = asyncio.ensure_future(scheduler.run(rows(1)))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(request), 0.005)
            assert (await request)["mean"].shape == (1, 2)

    run_virtual(main)


def test_callbacks_come_once_whenever_they_were_added(tmp_path: Path) -> None:
    """Before or after the request is done, each callback is called once, from the loop."""

    async def main() -> None:
        called: list[ScheduledRequest] = []
        async with Scheduler(host(tmp_path)) as scheduler:
            request = scheduler.submit(rows(1))
            request.add_done_callback(called.append)
            request.add_done_callback(called.append)
            await request
            request.add_done_callback(called.append)
            assert called == []
            await asyncio.sleep(0)
            assert called == [request, request, request]

    run_virtual(main)


def test_a_whole_batch_is_passed_on_without_a_copy(tmp_path: Path) -> None:
    """A request of a full batch gets the device's own arrays; no request gets rows of another."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            whole, large = await asyncio.gather(scheduler.run(rows(8)), scheduler.run(rows(11)))
            assert whole["mean"].shape == (8, 2)
            np.testing.assert_array_equal(large["mean"], expected(rows(11)))

    run_virtual(main)
