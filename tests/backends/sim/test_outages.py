"""Simulated devices that are lost or hang, in exact virtual time."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qaic_sched.backends.sim import SimBackend
from qaic_sched.backends.sim.outages import Outages
from qaic_sched.backends.sim.spec import HangFault, LostFault
from qaic_sched.config.keys import ModelOptions
from qaic_sched.errors import DeviceError
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import check_log, expected, host, rows


def test_time_stands_still_while_a_device_hangs() -> None:
    """A hang delays running inferences by its length, and later ones start when it ends."""
    outages = Outages([HangFault(at_s=2.0, for_s=1.0), HangFault(at_s=6.0)], opened_at=10.0)

    assert outages.end_of(11.0, 0.5) == 11.5
    assert outages.end_of(11.5, 1.0) == 13.5
    assert outages.end_of(12.25, 1.0) == 14.0
    assert outages.end_of(13.0, 1.0) == 14.0
    assert outages.end_of(15.5, 1.0) == math.inf


def test_a_loss_is_a_span_of_time() -> None:
    """A device is lost from `at_s` on, until `for_s` later or for ever."""
    outages = Outages([LostFault(at_s=1.0, for_s=2.0), LostFault(at_s=9.0)], opened_at=0.0)

    assert [outages.is_lost(at) for at in (0.5, 1.0, 2.9, 3.0, 99.0)] == [0, 1, 1, 0, 1]
    assert [outages.next_loss_at(at) for at in (0.0, 1.0, 9.0)] == [1.0, 9.0, math.inf]


def test_everything_on_a_lost_device_fails_then_it_can_be_loaded_again(tmp_path: Path) -> None:
    """A loss fails inferences in flight and later ones at once; loading fails until it ends."""
    faults = [{"kind": "lost", "device": 0, "at_s": 0.015, "for_s": 1.0}]
    model = host(tmp_path, batch=1, faults=faults)
    completed: list[tuple[Any, float]] = []

    async def main() -> None:
        backend = SimBackend(model, ModelOptions())
        executable = await backend.load(0, 1, 3)
        for _ in range(3):
            executable.submit(0, rows(1), lambda result, at: completed.append((result, at)))
        await asyncio.sleep(0.5)
        executable.submit(0, rows(1), lambda result, at: completed.append((result, at)))
        await asyncio.sleep(0.1)
        with pytest.raises(DeviceError, match="lost") as lost:
            await backend.load(0, 1, 3)
        assert lost.value.kind == "lost"
        await asyncio.sleep(1.0)
        again = await backend.load(0, 1, 3)
        again.submit(0, rows(1), lambda result, at: completed.append((result, at)))
        await asyncio.sleep(0.1)

    run_virtual(main)
    kinds = [each.kind if isinstance(each, DeviceError) else "done" for each, _ in completed]
    assert kinds == ["done", "lost", "lost", "lost", "done"]
    assert [at for _, at in completed[:4]] == [0.010, 0.015, 0.015, 0.5]


def test_closing_fails_what_a_device_that_hangs_for_ever_holds(tmp_path: Path) -> None:
    """An inference on a device that hangs for ever fails when the device is closed, not before."""
    completed: list[Any] = []

    async def main() -> None:
        model = host(tmp_path, batch=1, faults=[{"kind": "hang", "at_s": 0.0}])
        executable = await SimBackend(model, ModelOptions()).load(0, 1, 1)
        executable.submit(0, rows(1), lambda result, at: completed.append(result))
        await asyncio.sleep(100.0)
        assert completed == []
        await executable.aclose()

    run_virtual(main)
    assert isinstance(completed[0], DeviceError)


def run_through(model: str, count: int, gap_s: float, **options: Any) -> dict[str, Any]:
    """Run `count` requests, all of which must succeed, and return the metrics."""

    log = Path(model).with_suffix(".jsonl")

    async def main() -> dict[str, Any]:
        async with Scheduler(model, event_log=str(log), **options) as scheduler:

            async def one(seed: int) -> None:
                inputs = rows(1, seed)
                outputs = await scheduler.run(inputs)
                np.testing.assert_array_equal(outputs["mean"], expected(inputs))

            tasks = []
            for seed in range(count):
                tasks.append(asyncio.ensure_future(one(seed)))
                await asyncio.sleep(gap_s)
            await asyncio.gather(*tasks)
            return scheduler.get_metrics()

    metrics = run_virtual(main)
    check_log(log)
    return metrics


def test_no_request_is_lost_with_the_devices_that_are(tmp_path: Path) -> None:
    """Three of eight devices are lost and come back: every request succeeds, all end ready."""
    faults = [{"kind": "lost", "device": d, "at_s": 1.0, "for_s": 1.0} for d in (1, 4, 6)]
    model = host(tmp_path, batch=1, devices=8, faults=faults)
    metrics = run_through(model, 2000, 0.0025)

    assert metrics["requests"]["done"] == 2000
    assert metrics["devices"][4]["errors"] > 0
    assert {each["state"] for each in metrics["devices"].values()} == {"ready"}


def test_requests_on_a_hanging_device_are_done_elsewhere(tmp_path: Path) -> None:
    """A timeout reveals the hang; only the requests that the device held are late."""
    faults = [{"kind": "hang", "device": 0, "at_s": 0.5, "for_s": 3.0}]
    model = host(tmp_path, batch=1, devices=2, faults=faults)
    metrics = run_through(model, 500, 0.012, health={"dispatch_timeout_s": 1.0})

    assert metrics["requests"]["done"] == 500
    assert metrics["requests"]["total"]["max_latency"] < 1.2
    assert metrics["devices"][0]["errors"] > 0


def test_a_device_that_is_far_slower_than_the_others_is_reloaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that takes 20 times as long is reloaded; the log says why, and no request fails."""
    model = host(tmp_path, batch=1, devices=3, overrides={1: {"speed": 0.05}})
    metrics = run_through(model, 600, 0.004)

    assert metrics["requests"]["done"] == 600
    assert "device 1 is far slower than the others: reloading it" in caplog.messages
    assert {each["errors"] for each in metrics["devices"].values()} == {0}


def test_no_request_tests_a_reloaded_device(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A device hangs through two reloads: their trials fail, and no further request is late."""
    faults = [{"kind": "hang", "device": 0, "at_s": 0.5, "for_s": 25.0}]
    model = host(tmp_path, batch=1, devices=2, faults=faults)
    metrics = run_through(model, 500, 0.06, health={"dispatch_timeout_s": 1.0})

    assert metrics["requests"]["done"] == 500
    assert metrics["devices"][0]["errors"] == 1
    assert metrics["devices"][0]["state"] == "ready"
    failed = "device 0 could not be reloaded: device 0 was loaded and did not answer within 10 s"
    assert caplog.messages.count(failed) == 2
