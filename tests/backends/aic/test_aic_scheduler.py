"""The scheduler on the stand-in's cards, while some of them fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qaic_sched.backends.threads import in_thread
from qaic_sched.errors import DeviceError
from qaic_sched.scheduler import Scheduler
from tests.backends.aic.aic_cards import expected, rows, until
from tests.standin import control
from tests.standin.qpc import write_qpc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qaic_sched.core.commands import Commands
    from qaic_sched.core.events import Event

NUM_REQUESTS = 10_000


class Backlog:
    """When an open scheduler had queued work, by watching its core."""

    def __init__(self, scheduler: Scheduler) -> None:
        assert scheduler._shell is not None
        core = scheduler._shell.core
        handle = core.handle
        self.spans: list[tuple[float, float]] = []
        self._since: float | None = None

        def watched(now: float, events: Sequence[Event] = ()) -> Commands:
            commands = handle(now, events)
            is_queued = bool(core.admission.queued.samples)
            if is_queued and self._since is None:
                self._since = now
            elif not is_queued and self._since is not None:
                self.spans.append((self._since, now))
                self._since = None
            return commands

        core.handle = watched  # type: ignore[method-assign]

    def length_s(self) -> float:
        """Seconds with queued work."""
        return sum(end - start for start, end in self.spans)

    def overlap_s(self, gaps: Sequence[tuple[float, float]]) -> float:
        """Seconds of these gaps with queued work."""
        return sum(
            max(0.0, min(end, gap_end) - max(start, gap_start))
            for start, end in self.spans
            for gap_start, gap_end in gaps
        )


async def run_with(
    path: str, faults: Any, num_requests: int = NUM_REQUESTS
) -> tuple[list[Any], Backlog, dict[str, Any]]:
    """What each of so many one-row requests ended with, `faults()` happening during the run."""
    inputs = rows(num_requests)["x"]
    async with Scheduler(path, backend="aic", set_size=2) as scheduler:
        backlog = Backlog(scheduler)
        requests = [scheduler.submit({"x": inputs[i : i + 1]}) for i in range(num_requests)]
        breaking = asyncio.ensure_future(faults())
        answers = await asyncio.gather(*requests, return_exceptions=True)
        await breaking
    return answers, backlog, scheduler.get_metrics()


def check_results(answers: list[Any]) -> Counter[str]:
    """Every answer is right or a `DeviceError`; how many there are of each."""
    wanted = expected(rows(len(answers)))
    for row, answer in enumerate(answers):
        if isinstance(answer, DeviceError):
            continue
        np.testing.assert_array_equal(answer["mean"], wanted[row : row + 1])
    return Counter(type(answer).__name__ for answer in answers)


def fail_during_the_run(folder: Path, cards: Any) -> tuple[list[Any], Backlog, dict[str, Any]]:
    """Device 1 is lost, 2 restarted, 3 hangs for a while; 0 stays well."""
    control.reset(num_devices=4, service_s=0.003)

    async def faults() -> None:
        is_under_way = partial(until, lambda: cards[0].num_run >= 20)
        await in_thread(is_under_way, "faults")
        cards[1].lose()
        cards[2].restart()
        cards[3].hang(for_s=0.3)

    return asyncio.run(run_with(write_qpc(folder), faults))


@pytest.mark.slow
def test_no_device_idles_while_work_waits(tmp_path: Path, cards: Any) -> None:
    """Without faults all is done, and the next inference is always there before one ends."""
    control.reset(num_devices=4, service_s=0.008)

    async def nothing() -> None: ...

    answers, backlog, _ = asyncio.run(run_with(write_qpc(tmp_path), nothing))
    assert check_results(answers) == {"dict": NUM_REQUESTS}
    for device in cards.values():
        assert backlog.overlap_s(device.gaps) < 0.1 * backlog.length_s()


@pytest.mark.slow
def test_every_request_ends_once_whatever_devices_do(tmp_path: Path, cards: Any) -> None:
    """Each request is answered, none twice and none wrongly."""
    answers, _, metrics = fail_during_the_run(tmp_path, cards)
    counts = check_results(answers)
    assert counts.total() == NUM_REQUESTS
    assert (metrics["requests"]["done"], metrics["requests"]["failed"]) == (
        counts["dict"],
        counts["DeviceError"],
    )


@pytest.mark.slow
def test_no_request_fails_while_a_device_is_healthy(tmp_path: Path, cards: Any) -> None:
    """What a broken device held is done elsewhere, it gets nothing more, and the rest stay busy."""
    answers, backlog, _ = fail_during_the_run(tmp_path, cards)
    assert check_results(answers) == {"dict": NUM_REQUESTS}
    assert backlog.overlap_s(cards[0].gaps) < 0.1 * backlog.length_s()


@pytest.mark.parametrize(("devices", "num_activations"), [([0, 1], 2), ([0, 1], 1), ([0], 1)])
@pytest.mark.usefixtures("cards")
def test_a_larger_set_size_replaces_what_has_no_room_for_it(
    tmp_path: Path, devices: list[int], num_activations: int
) -> None:
    """One activation after the other, while requests go on; a smaller one changes nothing."""
    path = write_qpc(tmp_path / "qpc")

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

            load = [asyncio.ensure_future(work()) for _ in range(8)]
            await scheduler.update_backend_options(set_size=3)
            await asyncio.gather(*load)
            assert scheduler._shell is not None
            executables = scheduler._shell.pool.executables
            for _ in range(2):
                rooms = [sorted(each.room.values()) for each in executables.values()]
                assert rooms == [[3] * num_activations] * len(devices)
                await scheduler.update_backend_options(set_size=1)
            requests = scheduler.get_metrics()["requests"]
            assert requests["failed"] == requests["expired"] == 0
            assert requests["done"] > 0

    asyncio.run(main())
