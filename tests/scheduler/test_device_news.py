"""Models that share devices tell each other what they have learned about them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from qaic_sched.core.model import DeviceNews
from qaic_sched.scheduler.event_log import EventLogReader
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.scheduler.replay import replay
from qaic_sched.testing import run_virtual
from tests.hosts import host, now, rows

if TYPE_CHECKING:
    from pathlib import Path

LOST = {"kind": "lost", "device": 0, "at_s": 1.0, "for_s": 1.0}
HUNG = {"kind": "hang", "device": 0, "at_s": 1.0}


def _models(folder: Path, **faults: dict[str, Any] | None) -> dict[str, str]:
    """Write models on the same two simulated cards, each with a fault of its own or none."""
    paths = {}
    for name, fault in faults.items():
        (folder / name).mkdir()
        changes = {"faults": [fault]} if fault else {}
        paths[name] = host(folder / name, devices=2, **changes)
    return paths


def _states(scheduler: Scheduler, device_id: int = 0) -> dict[str, str]:
    return {
        name: scheduler.statistics(model=name).devices[device_id].state
        for name in scheduler.configs
    }


async def _serve(scheduler: Scheduler, model: str, count: int = 4) -> None:
    await asyncio.gather(*(scheduler.run(rows(8), model=model) for _ in range(count)))


def test_a_device_that_one_model_has_lost_is_lost_for_all(tmp_path: Path) -> None:
    """What another model holds there, and would wait for, is served elsewhere at once."""
    models = _models(tmp_path, one=LOST, hung=HUNG, idle=None)

    async def main() -> None:
        async with Scheduler(models) as scheduler:
            for name in models:
                await _serve(scheduler, name)
            await asyncio.sleep(1.001 - now())
            held = [scheduler.submit(rows(8), model="hung") for _ in range(4)]
            await asyncio.sleep(0.001)
            await _serve(scheduler, "one")
            assert _states(scheduler) == dict.fromkeys(models, "quarantined")
            assert _states(scheduler, 1) == dict.fromkeys(models, "ready")
            await asyncio.gather(*held)

            assert now() < 1.1
            assert scheduler.get_metrics()["requests"]["failed"] == 0
            await scheduler.aclose()

    run_virtual(main)


def test_a_device_that_is_back_for_one_model_is_back_for_all(tmp_path: Path) -> None:
    """A model without requests follows the one that has some."""
    models = _models(tmp_path, busy=LOST, idle=LOST)

    async def main() -> None:
        async with Scheduler(models) as scheduler:
            await asyncio.sleep(1.01)
            await _serve(scheduler, "busy")
            while now() < 2.0:
                await _serve(scheduler, "busy")
                assert set(_states(scheduler).values()) <= {"quarantined", "ready"}
            while _states(scheduler) != {"busy": "ready", "idle": "ready"}:
                await _serve(scheduler, "busy")
                assert now() < 3.0

    run_virtual(main)


def test_a_device_that_hangs_for_one_model_is_no_news(tmp_path: Path) -> None:
    """The model itself may be the reason; the others find out for themselves."""
    models = _models(tmp_path, hung=HUNG, fine=None)

    async def main() -> None:
        async with Scheduler(models, health={"dispatch_timeout_s": 0.5}) as scheduler:
            await asyncio.sleep(1.0)
            await _serve(scheduler, "hung")
            assert _states(scheduler) == {"hung": "quarantined", "fine": "ready"}
            await scheduler.aclose()

    run_virtual(main)


def test_a_device_that_is_slow_for_one_model_gets_no_work_from_the_others(tmp_path: Path) -> None:
    """They let it finish what it holds, have it reloaded as well, and use it again."""
    models = _models(tmp_path, slow=None, told=None, idle=None)

    async def main() -> None:
        async with Scheduler(models) as scheduler:
            tell = scheduler._shells["slow"].tell
            assert tell is not None
            held = [scheduler.submit(rows(8), model="told") for _ in range(2)]
            await asyncio.sleep(0.005)
            tell(0, DeviceNews.SLOW)
            out = {"slow": "ready", "told": "quarantined", "idle": "quarantined"}
            assert _states(scheduler) == out
            await asyncio.gather(*held)
            assert now() == pytest.approx(0.010)
            await asyncio.sleep(0.2)
            await _serve(scheduler, "told", 12)

            assert _states(scheduler) == dict.fromkeys(models, "ready")

    run_virtual(main)


def test_news_stand_in_the_event_log_and_replay(tmp_path: Path) -> None:
    """The log of the model that was told has the event, and its decisions repeat."""
    models = _models(tmp_path, busy=LOST, idle=LOST)

    async def main() -> None:
        async with Scheduler(models, event_log=str(tmp_path / "run.jsonl")) as scheduler:
            await asyncio.sleep(1.01)
            for _ in range(60):
                await _serve(scheduler, "busy")

    run_virtual(main)
    with EventLogReader(str(tmp_path / "run.idle.jsonl")) as log:
        kinds = [type(event).__name__ for call in log for event in call.events]
    assert "DeviceReported" in kinds
    assert [replay(tmp_path / f"run.{name}.jsonl").difference for name in models] == [None, None]


@pytest.mark.parametrize("name", ["busy", "idle"])
def test_a_closed_scheduler_takes_no_news(tmp_path: Path, name: str) -> None:
    """A device that is lost while models close disturbs none of them."""
    models = _models(tmp_path, busy=LOST, idle=None)

    async def main() -> None:
        async with Scheduler(models, event_log=str(tmp_path / "run.jsonl")) as scheduler:
            await asyncio.sleep(0.995)
            requests = [scheduler.submit(rows(8), model="busy") for _ in range(4)]
            await asyncio.sleep(0.004)
            shell = scheduler._shells[name]
            await shell.aclose()
            await asyncio.sleep(1.0)
            await asyncio.gather(*requests, return_exceptions=True)
            assert shell.error is None

    run_virtual(main)
