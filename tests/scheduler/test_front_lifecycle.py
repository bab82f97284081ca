"""Opening, draining and closing the front end, on simulated devices in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from qaic_sched.errors import (
    ConfigError,
    SchedulerClosedError,
)
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import host, now, rows


def test_use_outside_of_async_with_is_refused(tmp_path: Path) -> None:
    """Use before opening or after closing, and opening twice, raise `SchedulerClosedError`."""

    async def main() -> None:
        scheduler = Scheduler(host(tmp_path))
        for use in (
            lambda: scheduler.submit(rows(1)),
            scheduler.get_metrics,
            scheduler.statistics,
            lambda: scheduler.map([]),
            lambda: scheduler.program,
        ):
            with pytest.raises(SchedulerClosedError, match="not open yet"):
                use()
        async with scheduler:
            await scheduler.run(rows(1))
        with pytest.raises(SchedulerClosedError, match="closed"):
            await scheduler.run(rows(1))
        with pytest.raises(SchedulerClosedError, match="opens once"):
            async with scheduler:
                pass
        assert scheduler.get_metrics()["devices"][0]["state"] == "closed"

    run_virtual(main)


def test_closing_before_opening_is_allowed(tmp_path: Path) -> None:
    """`aclose` before opening closes the scheduler for good."""

    async def main() -> None:
        scheduler = Scheduler(host(tmp_path))
        await scheduler.aclose()
        with pytest.raises(SchedulerClosedError):
            async with scheduler:
                pass

    run_virtual(main)


def test_leaving_drains(tmp_path: Path) -> None:
    """The end of `async with` finishes accepted requests and sends partial batches at once."""

    async def main() -> None:
        async with Scheduler(host(tmp_path), batching={"max_queue_delay_s": 5.0}) as scheduler:
            request = scheduler.submit(rows(3))
        assert (await request)["mean"].shape == (3, 2)
        assert now() == 0.010

    run_virtual(main)


def test_a_draining_scheduler_takes_nothing_new(tmp_path: Path) -> None:
    """While it drains, new requests are refused and accepted ones are finished."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            request = scheduler.submit(rows(20))
            draining = asyncio.ensure_future(scheduler.drain())
            await asyncio.sleep(0)
            with pytest.raises(SchedulerClosedError, match="draining"):
                scheduler.submit(rows(1))
            await draining
            assert request.done()
            await scheduler.drain()

    run_virtual(main)


def test_leaving_with_an_exception_cancels(tmp_path: Path) -> None:
    """An exception in the `async with` block cancels the outstanding requests."""

    async def main() -> None:
        requests = []

        async def break_off() -> None:
            async with Scheduler(host(tmp_path)) as scheduler:
                requests.append(scheduler.submit(rows(1)))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await break_off()
        with pytest.raises(SchedulerClosedError):
            await requests[0]
        assert now() == 0.0

    run_virtual(main)


def test_closing_ends_10_000_waiting_callers_at_once(tmp_path: Path) -> None:
    """Every caller gets `SchedulerClosedError` at the same instant."""

    async def main() -> None:
        async with Scheduler(host(tmp_path), queue={"max_samples": 100}) as scheduler:
            callers = [asyncio.ensure_future(scheduler.run(rows(1))) for _ in range(10_000)]
            await asyncio.sleep(0.001)
            await asyncio.gather(scheduler.aclose(), scheduler.aclose())
            answers = await asyncio.gather(*callers, return_exceptions=True)

            assert all(isinstance(answer, SchedulerClosedError) for answer in answers)
            assert now() == 0.001

    run_virtual(main)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 3}, "3"),
        ({"devices": [0, 7]}, "7"),
        ({"dev_id": 9}, "9"),
        ({"num_activations": 17}, "16"),
        ({"num_activations": 5, "aic_num_cores": 4}, "4"),
        ({"queue": {"max_sample": 3}}, "max_samples"),
        ({"queues": {"max_samples": 3}}, "queue"),
        ({"num_activations": "two"}, "num_activations"),
    ],
)
def test_impossible_options_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """Missing devices, missing cores, misspelt keys and wrong types raise `ConfigError`."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=2, cores=16), **options):
            raise AssertionError("it opened")

    with pytest.raises(ConfigError, match=message):
        run_virtual(main)


def test_a_list_of_devices_uses_those(tmp_path: Path) -> None:
    """`devices=[2, 0]` runs on these two devices only, and metrics are by their ids."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=4), devices=[2, 0]) as scheduler:
            await scheduler.run(rows(64))
            assert sorted(scheduler.get_metrics()["devices"]) == [0, 2]

    run_virtual(main)


def test_from_config_reads_a_file_whose_values_keywords_replace(tmp_path: Path) -> None:
    """A relative path of a model is relative to the file."""
    host(tmp_path, devices=4)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"model": "host.sim.yaml", "devices": 2, "set-size": 3}))

    async def main() -> None:
        async with Scheduler.from_config(config, devices=3) as scheduler:
            await scheduler.run(rows(1))
            assert len(scheduler.statistics().devices) == 3
            assert scheduler.config.set_size == 3
            assert repr(scheduler).endswith("host.sim.yaml: open>")

    run_virtual(main)
