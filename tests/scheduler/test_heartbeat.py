"""A loop that stood still is noticed, and neither devices nor callers pay for it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from qaic_sched.core.events import LoopStalled
from qaic_sched.scheduler.event_log import EventLogReader
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.scheduler.heartbeat import Heartbeat
from qaic_sched.scheduler.replay import replay
from qaic_sched.testing import run_virtual
from qaic_sched.virtual_time import VirtualLoop
from tests.hosts import host, now, rows
from tests.models import linear_model

ROOT = Path(__file__).parents[2]


def _stand_still(seconds: float) -> None:
    """Let the clock of the running virtual loop go on while its code does not."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop._set_time(loop.time() + seconds)


class _Heart:
    """A heartbeat in virtual time that has work until told otherwise."""

    def __init__(self, limit_s: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.stalls: list[float] = []
        self.is_needed = True
        self.limit_s = limit_s
        self.beat = Heartbeat(
            loop, loop.time, self._late, lambda: self.is_needed, lambda: self.limit_s
        )
        self.beat.start()

    def _late(self) -> None:
        self.stalls.append(self.beat.take_stall(now()))


def test_a_late_beat_shows_how_long_the_loop_stood_still() -> None:
    """From the time that the beat was due, which is at most a period after the stall began."""

    async def main() -> None:
        heart = _Heart()
        await asyncio.sleep(0.99)
        _stand_still(2.0)
        await asyncio.sleep(1.0)

        assert heart.stalls == [pytest.approx(1.99)]
        heart.beat.stop()

    run_virtual(main)


@pytest.mark.parametrize(("limit_s", "lag_s", "stalls"), [(None, 0.015, 0), (0.04, 0.015, 1)])
def test_the_usual_lag_of_a_loop_is_no_stall(
    limit_s: float | None, lag_s: float, stalls: int
) -> None:
    """What is usual depends on the limit of an inference, which a lag must not use up."""

    async def main() -> None:
        heart = _Heart(limit_s)
        await asyncio.sleep(0.5)
        _stand_still(lag_s)
        await asyncio.sleep(0.5)

        assert len(heart.stalls) == stalls
        heart.beat.stop()

    run_virtual(main)


def test_a_new_limit_applies_from_the_next_beat_on() -> None:
    """The limit of an inference can change while the scheduler runs."""

    async def main() -> None:
        heart = _Heart()
        await asyncio.sleep(0.5)
        heart.limit_s = 0.04
        await asyncio.sleep(0.5)
        _stand_still(0.015)
        await asyncio.sleep(0.5)

        assert len(heart.stalls) == 1
        heart.beat.stop()

    run_virtual(main)


def test_the_heart_stops_when_nothing_is_at_work() -> None:
    """Then nothing is late either, until it is started again."""

    async def main() -> None:
        heart = _Heart()
        heart.is_needed = False
        await asyncio.sleep(0.06)
        _stand_still(9.0)
        assert not heart.beat.is_running
        assert now() < heart.beat.late_at
        heart.is_needed = True
        heart.beat.start()
        assert heart.beat.is_running
        heart.beat.stop()
        heart.beat.stop()

        assert heart.stalls == []

    run_virtual(main)


# In the scheduler


@pytest.fixture
def _stalling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock of virtual loops run by itself, so that their hearts beat."""
    monkeypatch.setattr(VirtualLoop, "is_virtual", False)


@pytest.mark.usefixtures("_stalling")
def test_a_blocked_loop_makes_no_device_stuck(tmp_path: Path) -> None:
    """What is in flight goes on; the event log has each stall, and replays."""
    log = tmp_path / "run.jsonl"
    model = host(tmp_path, devices=2, service_time_s=0.1)

    async def main() -> None:
        health = {"dispatch_timeout_s": 0.5}
        async with Scheduler(model, health=health, event_log=str(log)) as scheduler:
            for _ in range(5):
                requests = [scheduler.submit(rows(8)) for _ in range(4)]
                await asyncio.sleep(0.03)
                _stand_still(3.0)
                await asyncio.gather(*requests)
            metrics = scheduler.get_metrics()
            assert {each["state"] for each in metrics["devices"].values()} == {"ready"}
            assert sum(each["hedges"] for each in metrics["devices"].values()) == 0
            assert metrics["max_latency"] == pytest.approx(0.1)

    run_virtual(main)
    with EventLogReader(str(log)) as reader:
        events = [event for call in reader for event in call.events]
    assert sum(isinstance(each, LoopStalled) for each in events) == 5
    assert replay(log).difference is None


@pytest.mark.usefixtures("_stalling")
def test_a_device_that_is_stuck_is_found_in_spite_of_stalls(tmp_path: Path) -> None:
    """Only the time in which the loop ran counts, but that does."""
    model = host(tmp_path, devices=2, faults=[{"kind": "hang", "device": 0, "at_s": 0.05}])

    async def main() -> None:
        options: dict[str, Any] = {"hedging": {"enabled": False}}
        async with Scheduler(model, health={"dispatch_timeout_s": 0.5}, **options) as scheduler:
            await asyncio.sleep(0.06)
            requests = [scheduler.submit(rows(8)) for _ in range(2)]
            for _ in range(4):
                await asyncio.sleep(0.07)
                _stand_still(1.0)
            assert scheduler.statistics().devices[0].state == "ready"
            await asyncio.gather(*requests)
            assert scheduler.statistics().devices[0].state == "quarantined"
            await scheduler.aclose()

    run_virtual(main)


@pytest.mark.usefixtures("_stalling")
def test_an_idle_scheduler_has_no_timer(tmp_path: Path) -> None:
    """The heart stops with the last inference, and when the scheduler is closed at work."""
    model = host(tmp_path)

    async def main() -> None:
        async with Scheduler(model) as scheduler:
            await scheduler.run(rows(8))
            await asyncio.sleep(0.1)
            heartbeat = scheduler._shells[""]._heartbeat
            assert not heartbeat.is_running
            scheduler.submit(rows(8))
            await asyncio.sleep(0.005)
            assert heartbeat.is_running
            await scheduler.aclose()
            assert not heartbeat.is_running

    run_virtual(main)


@pytest.mark.slow
def test_a_caller_may_block_the_loop(tmp_path: Path) -> None:
    """Its code takes longer than an inference may take, again and again."""
    model = host(tmp_path, devices=2, service_time_s=0.05)

    async def main() -> dict[str, Any]:
        async with Scheduler(model, health={"dispatch_timeout_s": 0.3}) as scheduler:
            for _ in range(4):
                requests = [scheduler.submit(rows(8)) for _ in range(6)]
                await asyncio.sleep(0.02)
                time.sleep(0.5)  # noqa: ASYNC251 - what must not be done
                await asyncio.gather(*requests)
            return scheduler.get_metrics()

    metrics = asyncio.run(main())
    assert metrics["requests"]["done"] == 24
    assert {each["state"] for each in metrics["devices"].values()} == {"ready"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("kind", ["cpu", "sim"])
def test_a_stopped_process_goes_on_where_it_stopped(tmp_path: Path, kind: str, loop: str) -> None:
    """Pauses of three times the limit fail no request and quarantine no device."""
    model = str(tmp_path / "host.sim.yaml")
    if kind == "cpu":
        model = linear_model(tmp_path / "linear.onnx")
    else:
        spec = {
            "inputs": {
                "a": {"shape": [4, 3], "dtype": "float32"},
                "b": {"shape": [4, 2], "dtype": "float32"},
            },
            "outputs": {"y": {"shape": [4, 4], "dtype": "float32"}},
            "service_time_s": 0.05,
            "devices": 2,
        }
        Path(model).write_text(yaml.safe_dump(spec))
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.scheduler.served_child", model, loop],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "running\n"
        for pause_s in (1.2, 1.2, 0.6):
            child.send_signal(signal.SIGSTOP)
            time.sleep(pause_s)
            child.send_signal(signal.SIGCONT)
            time.sleep(0.3)
        child.stdin.close()
        found = json.loads(child.stdout.readline())
    finally:
        child.kill()
        child.stdout.close()
        child.stdin.close()
        child.wait()

    assert found.pop("served") > 20
    assert found.pop("max_latency") < 0.4
    assert found == {"problems": [], "errors": 0, "states": ["ready", "ready"]}
