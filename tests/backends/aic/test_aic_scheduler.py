"""The scheduler on the stand-in's devices, while some of them fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qaic_sched.backends.aic.backend import AicBackend
from qaic_sched.backends.threads import in_thread
from qaic_sched.errors import DeviceError
from qaic_sched.scheduler.front import Scheduler
from tests.backends.aic.aic_cards import expected, rows, until
from tests.backlog import Backlog
from tests.standin import control
from tests.standin.qpc import write_qpc

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from qaic_sched.backends.aic.executable import AicExecutable

NUM_REQUESTS = 10_000
HEALTHY = (0, 3)
"""Devices that no test here breaks."""
EXECUTE_S = 0.008
"""Execution time: the inference behind a running one covers this much lateness of the host."""
IDLE_SHARE = 0.02
"""The share of the backlogged time that a device may idle, when host threads are later still."""
TRIES = 3
"""The best of a few runs counts, because other load on this host slows some of them."""


async def run_with(
    folder: Path, faults: Any, healthy: Collection[int]
) -> tuple[list[Any], Backlog, dict[str, Any]]:
    """Results of NUM_REQUESTS requests of one row, while `faults()` breaks unhealthy devices."""
    inputs = rows(NUM_REQUESTS)["x"]
    path, log = write_qpc(folder), folder / "run.jsonl"
    async with Scheduler(path, backend="aic", set_size=2, event_log=str(log)) as scheduler:
        requests = [scheduler.submit({"x": inputs[i : i + 1]}) for i in range(NUM_REQUESTS)]
        breaking = asyncio.ensure_future(faults())
        # One after the other: starting thousands of tasks would keep the loop from the devices.
        results = [await ended(request) for request in requests]
        await breaking
    return results, Backlog(log, healthy), scheduler.get_metrics()


async def ended(request: Any) -> Any:
    """The result of a request: outputs or an error."""
    try:
        return await request
    except DeviceError as error:
        return error


def check_results(results: list[Any]) -> Counter[str]:
    """Check that every result is right or a `DeviceError`; count each kind."""
    wanted = expected(rows(len(results)))
    for row, result in enumerate(results):
        if isinstance(result, DeviceError):
            continue
        np.testing.assert_array_equal(result["mean"], wanted[row : row + 1])
    return Counter(type(result).__name__ for result in results)


def idle_share(cards: Any, backlog: Backlog, healthy: Collection[int]) -> float:
    """The longest idle time of a healthy device, as a share of the time in which work waited."""
    return max(backlog.overlap_s(cards[each].gaps) for each in healthy) / backlog.length_s()


def check_decisions(backlog: Backlog) -> None:
    """Check that the core always kept a running and a next inference on healthy devices."""
    assert backlog.left_idle == []
    assert backlog.without_next == []


def check_idle_share(one_run: Callable[[], float]) -> None:
    """Check that the best of `TRIES` runs idles for no more than `IDLE_SHARE`."""
    shares = [one_run()]
    while shares[-1] > IDLE_SHARE:
        assert len(shares) < TRIES, shares
        shares.append(one_run())


def fail_during_the_run(folder: Path, cards: Any) -> tuple[list[Any], Backlog, dict[str, Any]]:
    """Run while device 1 restarts, recovers and is lost, and device 2 hangs for a while."""
    control.reset(num_devices=4, execute_s=EXECUTE_S)

    async def faults() -> None:
        await in_thread(partial(until, lambda: cards[0].num_run >= 20), "faults")
        cards[1].restart()
        cards[2].hang(for_s=0.3)
        before = cards[1].num_run
        await in_thread(partial(until, lambda: cards[1].num_run >= before + 20), "faults")
        cards[1].lose()

    return asyncio.run(run_with(folder, faults, HEALTHY))


@pytest.mark.slow
def test_no_device_idles_while_work_waits(tmp_path: Path, cards: Any) -> None:
    """Without faults, every request succeeds and the next inference is always there in time."""

    async def nothing() -> None: ...

    def one_run() -> float:
        control.reset(num_devices=4, execute_s=EXECUTE_S)
        results, backlog, _ = asyncio.run(run_with(tmp_path, nothing, range(4)))
        assert check_results(results) == {"dict": NUM_REQUESTS}
        check_decisions(backlog)
        return idle_share(cards, backlog, range(4))

    check_idle_share(one_run)


@pytest.mark.slow
def test_every_request_ends_once_and_healthy_devices_stay_busy(tmp_path: Path, cards: Any) -> None:
    """Requests on broken devices succeed elsewhere, once each, and healthy devices never idle."""

    def one_run() -> float:
        results, backlog, metrics = fail_during_the_run(tmp_path, cards)
        assert check_results(results) == {"dict": NUM_REQUESTS}
        counts = metrics["requests"]
        assert (counts["done"], counts["failed"]) == (NUM_REQUESTS, 0)
        check_decisions(backlog)
        errors = {each: device["errors"] for each, device in metrics["devices"].items()}
        assert errors[0] == errors[2] == errors[3] == 0 < errors[1]
        return idle_share(cards, backlog, HEALTHY)

    check_idle_share(one_run)


@pytest.mark.parametrize(("devices", "num_activations"), [([0, 1], 2), ([0, 1], 1), ([0], 1)])
@pytest.mark.usefixtures("cards")
def test_a_larger_set_size_replaces_what_has_no_room_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: list[int], num_activations: int
) -> None:
    """One activation after the other, while requests go on; a smaller one changes nothing."""
    path = write_qpc(tmp_path / "qpc")
    executables: dict[int, AicExecutable] = {}
    load = AicBackend.load

    async def load_watched(self: AicBackend, device_id: int, *what: int) -> AicExecutable:
        executables[device_id] = await load(self, device_id, *what)
        return executables[device_id]

    monkeypatch.setattr(AicBackend, "load", load_watched)

    async def main() -> None:
        options: dict[str, Any] = {
            "num_activations": num_activations,
            "set_size": 1,
            "backend": "aic",
        }
        async with Scheduler(path, devices=devices, **options) as scheduler:

            async def work() -> None:
                while scheduler.config.set_size < 3:
                    inputs = rows()
                    outputs = await scheduler.run(inputs, timeout_s=10)
                    np.testing.assert_array_equal(outputs["mean"], expected(inputs))

            tasks = [asyncio.ensure_future(work()) for _ in range(8)]
            await scheduler.update_backend_options(set_size=3)
            await asyncio.gather(*tasks)
            for _ in range(2):
                rooms = [sorted(each.room.values()) for each in executables.values()]
                assert rooms == [[3] * num_activations] * len(devices)
                await scheduler.update_backend_options(set_size=1)
            requests = scheduler.get_metrics()["requests"]
            assert requests["failed"] == requests["expired"] == 0
            assert requests["done"] > 0

    asyncio.run(main())
