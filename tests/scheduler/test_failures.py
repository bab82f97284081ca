"""Errors of backends, inputs and memory fail the requests that they concern, and no others."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qaic_sched.backends.sim.backend import SimBackend, SimExecutable
from qaic_sched.errors import DeviceError
from qaic_sched.scheduler import pool as pool_module
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import check_log, expected, host, rows
from tests.scheduler.faulty_devices import check_serves, raise_in_submit, raising

# Backends that raise

ERRORS = [RuntimeError("no"), MemoryError(), OSError(errno.EIO, "gone"), asyncio.CancelledError()]


@pytest.mark.parametrize("takes_it", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_a_backend_that_raises_in_submit_has_failed_that_inference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, takes_it: bool
) -> None:
    """It is tried again as after any failure, and what the device may answer later is dropped."""
    log = tmp_path / "log.jsonl"

    async def main() -> None:
        async with Scheduler(host(tmp_path), event_log=str(log)) as scheduler:
            raise_in_submit(monkeypatch, error, takes_it=takes_it)
            requests = [scheduler.submit(rows(3, seed)) for seed in range(2)]
            for seed, request in enumerate(requests):
                outputs = await request
                np.testing.assert_array_equal(outputs["mean"], expected(rows(3, seed)))
                assert request.explain().retries == 1
            await check_serves(scheduler)
            assert scheduler.get_metrics()["devices"][0]["errors"] == 1

    run_virtual(main)
    check_log(log)


def test_without_another_attempt_the_error_names_device_and_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `DeviceError` for the requests of that batch, in the words of the backend."""
    cause = RuntimeError("the queue of the driver is full")

    async def main() -> None:
        async with Scheduler(host(tmp_path), retry={"max_attempts": 1}) as scheduler:
            raise_in_submit(monkeypatch, cause)
            with pytest.raises(DeviceError) as caught:
                await scheduler.run(rows(3))
            assert str(caught.value) == (
                "device 0, activation 0: the backend did not accept an inference: "
                "RuntimeError: the queue of the driver is full"
            )
            assert (caught.value.device_id, caught.value.kind) == (0, "inference")
            await check_serves(scheduler)

    run_virtual(main)


def test_a_device_whose_submit_always_raises_goes_into_quarantine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others serve its requests; it is not reloaded while its probes raise, and then comes back."""
    submit = SimExecutable.submit
    is_broken = True

    def raising(self: SimExecutable, *arguments: Any) -> None:
        if self.device_id == 0 and is_broken:
            raise RuntimeError("no")
        submit(self, *arguments)

    monkeypatch.setattr(SimExecutable, "submit", raising)

    async def main() -> None:
        nonlocal is_broken
        async with Scheduler(host(tmp_path, devices=2)) as scheduler:
            for _ in range(4):
                await check_serves(scheduler)
            await asyncio.sleep(1)
            assert scheduler.statistics().devices[0].state == "quarantined"
            is_broken = False
            await asyncio.sleep(60)
            for _ in range(9):
                await check_serves(scheduler)
            assert scheduler.statistics().devices[0].state == "ready"

    run_virtual(main)


def test_a_device_that_cannot_be_loaded_for_any_reason_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend may raise anything in `load`: the next probe brings the device back."""
    load = SimBackend.load
    errors = [OSError("no such device"), ValueError("odd")]

    async def main() -> None:
        faults = [{"kind": "lost", "device": 0, "at_s": 0.5, "for_s": 0.1}]
        async with Scheduler(host(tmp_path, devices=2, faults=faults)) as scheduler:

            async def failing(self: SimBackend, *arguments: int) -> SimExecutable:
                if errors:
                    raise errors.pop()
                return await load(self, *arguments)

            monkeypatch.setattr(SimBackend, "load", failing)
            await asyncio.sleep(0.6)
            for _ in range(20):
                await check_serves(scheduler)
            await asyncio.sleep(60)
            assert not errors
            assert scheduler.statistics().devices[0].state != "quarantined"

    run_virtual(main)


# Inputs that cannot be gathered


def test_an_array_that_its_caller_shrinks_fails_only_its_request(tmp_path: Path) -> None:
    """Inputs must not change before the answer; who shares the batch is served all the same."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            shrunk, beside = rows(3), rows(2, 1)
            requests = [scheduler.submit(shrunk), scheduler.submit(beside)]
            shrunk["data"].resize((1, 4), refcheck=False)
            failed, outputs = await asyncio.gather(*requests, return_exceptions=True)
            assert isinstance(failed, DeviceError)
            assert "its inputs cannot be gathered: ValueError" in str(failed)
            assert isinstance(outputs, dict)
            np.testing.assert_array_equal(outputs["mean"], expected(beside))
            await check_serves(scheduler)

    run_virtual(main)


@pytest.mark.parametrize("count", [8, 16])
def test_full_batches_of_an_array_that_shrinks_fail_only_their_request(
    tmp_path: Path, count: int
) -> None:
    """Such batches are passed on as they are: the device gets something that it cannot run."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=2)) as scheduler:
            shrunk, beside = rows(count), rows(8, 1)
            requests = [scheduler.submit(shrunk), scheduler.submit(beside)]
            shrunk["data"].resize((count - 3, 4), refcheck=False)
            failed, outputs = await asyncio.gather(*requests, return_exceptions=True)
            assert isinstance(failed, DeviceError)
            assert isinstance(outputs, dict)
            np.testing.assert_array_equal(outputs["mean"], expected(beside))

    run_virtual(main)


@pytest.mark.interpreted
def test_memory_that_is_missing_for_a_batch_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch has failed and is tried again; nobody else notices."""
    gather = pool_module.gather
    errors = [MemoryError("no buffer")]

    def failing(*arguments: Any) -> None:
        if errors:
            raise errors.pop()
        gather(*arguments)

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            monkeypatch.setattr(pool_module, "gather", failing)
            await check_serves(scheduler)
            assert not errors

    run_virtual(main)


# Outputs that are too large

WIDE = {"mean": {"shape": [8, 1 << 20], "dtype": "float32"}}


@pytest.mark.parametrize("others_before", [0, 3])
def test_a_request_whose_outputs_no_memory_holds_fails_alone(
    tmp_path: Path, others_before: int
) -> None:
    """A million rows of four megabytes each; whoever shares a batch with it is served."""
    log = tmp_path / "log.jsonl"

    async def main() -> None:
        model = host(tmp_path, outputs=WIDE)
        async with Scheduler(model, event_log=str(log)) as scheduler:
            before = [scheduler.submit(rows(1, seed)) for seed in range(others_before)]
            large = scheduler.submit(rows(1 << 20))
            after = [scheduler.submit(rows(1, seed)) for seed in range(3)]
            with pytest.raises(DeviceError, match="the outputs of 1048576 samples") as caught:
                await large
            assert isinstance(caught.value.__cause__, MemoryError)
            assert (large.outcome, large.explain().outcome) == ("failed", "failed")
            for outputs in await asyncio.gather(*before, *after):
                assert outputs["mean"].shape == (1, 1 << 20)
            statistics = scheduler.statistics()
            done = others_before + 3
            assert (statistics.done, statistics.failed, statistics.cancelled) == (done, 1, 0)
            counts = scheduler.get_metrics()["requests"]
            assert (counts["done"], counts["failed"], counts["cancelled"]) == (done, 1, 0)
            assert statistics.devices[0].state == "ready"

    run_virtual(main)
    check_log(log)


@pytest.mark.interpreted
def test_a_request_that_fails_with_its_last_part_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device has done all of it, but its caller has no outputs: it failed."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, outputs=WIDE)) as scheduler:
            request = scheduler.submit(rows(3))
            await asyncio.sleep(0.001)
            monkeypatch.setattr(
                "qaic_sched.scheduler.request.allocate_outputs", raising(MemoryError())
            )
            with pytest.raises(DeviceError, match="MemoryError"):
                await request
            statistics = scheduler.statistics()
            assert (statistics.done, statistics.failed, statistics.in_flight) == (0, 1, 0)

    run_virtual(main)
