"""Replaying event logs: all kinds of runs repeat their decisions, and differences are found."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from qaic_sched.core.state import SchedulerState
from qaic_sched.errors import ConfigError, InternalError, SchedulerError
from qaic_sched.scheduler.event_log import Dispatch, Resolve
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.scheduler.replay import replay
from qaic_sched.testing import run_virtual
from tests.hosts import answer_twice, host, rows

LOGS = Path(__file__).parent / "event_logs"
"""Logs of the simulation in the format of version 3."""


def random_host(folder: Path, random: Random, *, service_time_s: float = 0.01) -> str:
    """Write a host of a few unequal devices with random faults of every kind."""
    devices = random.randint(1, 4)
    any_device = random.randrange(devices)
    faults = [
        {"kind": "error", "probability": random.choice([0.02, 0.2])},
        {"kind": "stall", "probability": 0.05, "for_s": 10 * service_time_s},
        {"kind": "lost", "device": any_device, "at_s": 0.1, "for_s": 0.3},
        {"kind": "hang", "device": any_device, "at_s": random.random(), "for_s": 1.5},
    ]
    return host(
        folder,
        batch=4,
        batch_sizes=random.choice([[4], [1, 2, 4]]),
        devices=devices,
        service_time_s=service_time_s,
        service_time_cv=random.choice([0.0, 0.3, 1.0]),
        host_turnaround_s=0.0003,
        load_time_s=0.05,
        overrides={0: {"speed": random.choice([0.3, 1.0])}},
        faults=random.sample(faults, random.randint(0, len(faults))),
        seed=random.randrange(1000),
    )


async def random_run(model: str, log: Path, random: Random, count: int) -> None:
    """Run requests of random sizes, priorities and deadlines, and cancel some of them.

    At the end the scheduler drains or is closed.
    """
    options: dict[str, Any] = {
        "num_activations": random.randint(1, 2),
        "queue": {"max_samples": 40, "when_full": random.choice(["wait", "reject"])},
        "batching": {"max_queue_delay_s": random.choice([0.0, 0.004])},
        "retry": {"max_attempts": random.randint(1, 3)},
    }
    async with Scheduler(model, event_log=str(log), **options) as scheduler:
        requests = []
        for _ in range(count):
            await asyncio.sleep(random.choice([0.0, random.expovariate(400.0)]))
            timeout_s = random.choice([None, 0.02, 0.2, float("inf")])
            request = scheduler.submit(
                rows(random.choice([1, 1, 2, 4, 9])),
                priority=random.randint(0, 2),
                timeout_s=timeout_s,
                tenant=random.choice([None, "a"]),
            )
            requests.append(request)
            if random.random() < 0.1:
                random.choice(requests).cancel()
            if random.random() < 0.1:
                scheduler.statistics()
        if random.random() < 0.5:
            await scheduler.aclose()
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, dict | SchedulerError | asyncio.CancelledError)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Log one random run and return the path."""
    random = Random(3)
    path = tmp_path / "log.jsonl"
    run_virtual(random_run, random_host(tmp_path, random), path, random, 40)
    return path


def change(log: Path, number: int, **values: Any) -> None:
    """Change values in one line of a log."""
    lines = log.read_text().splitlines()
    lines[number - 1] = json.dumps(json.loads(lines[number - 1]) | values)
    log.write_text("".join(f"{line}\n" for line in lines))


def line_of(log: Path, event: str) -> int:
    """Return the number of a line with this event, beyond the first 30 lines."""
    names = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    return names.index(event, 30) + 1


@pytest.mark.parametrize("seed", range(20))
def test_random_runs_repeat_their_decisions(tmp_path: Path, seed: int) -> None:
    """Whatever devices and callers do, the log replays without a difference, to its last line."""
    random, log = Random(seed), tmp_path / "log.jsonl"
    run_virtual(random_run, random_host(tmp_path, random), log, random, 80)

    result = replay(log)

    assert result.difference is None
    assert not result.is_cut_off
    assert result.requests == 80
    assert result.logged == result.replayed
    lines = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert result.logged.batches == lines.count("dispatch") > 0
    tally = result.logged
    ended = tally.done + tally.failed + tally.cancelled + tally.expired + tally.rejected
    assert ended == lines.count("resolve") == 80


@pytest.mark.slow
def test_a_run_in_real_time_repeats_its_decisions(tmp_path: Path) -> None:
    """The log has the time of every event, so the replay does not depend on real time."""
    random, log = Random(1), tmp_path / "log.jsonl"
    model = random_host(tmp_path, random, service_time_s=0.001)
    asyncio.run(random_run(model, log, random, 300))

    result = replay(log)

    assert result.difference is None
    assert result.logged == result.replayed
    assert result.requests == 300
    assert result.duration_s > 0.1


def test_a_changed_decision_is_found_on_its_line(log: Path) -> None:
    """The difference has both decisions, the logged one and the replayed one."""
    number = line_of(log, "dispatch")
    change(log, number, device_id=77)

    result = replay(log)

    difference = result.difference
    assert difference is not None
    assert difference.line == number
    assert isinstance(difference.logged, Dispatch)
    assert isinstance(difference.replayed, Dispatch)
    assert difference.logged.device_id == 77 != difference.replayed.device_id
    assert difference.logged.batch_id == difference.replayed.batch_id


def test_a_missing_decision_is_found_where_it_should_stand(log: Path) -> None:
    """The line of the difference is the one that the missing decision would have."""
    number = line_of(log, "resolve")
    lines = log.read_text().splitlines(keepends=True)
    while json.loads(lines[number])["event"] == "resolve":
        number += 1
    removed = json.loads(lines.pop(number - 1))
    log.write_text("".join(lines))

    difference = replay(log).difference

    assert difference is not None
    assert (difference.line, difference.logged) == (number, None)
    assert isinstance(difference.replayed, Resolve)
    assert difference.replayed.id == removed["id"]


def test_a_log_that_was_cut_off_replays_as_far_as_it_goes(log: Path) -> None:
    """A crash leaves half a line at the end: it is reported, and does not count as a difference."""
    whole = replay(log)
    text = log.read_bytes()
    log.write_bytes(text[: len(text) // 2])

    result = replay(str(log))

    assert result.is_cut_off
    assert result.difference is None
    assert 0 < result.calls < whole.calls


def test_an_impossible_event_is_named(log: Path) -> None:
    """An event that breaks the core is an `InternalError` with the line of its call."""
    number = line_of(log, "answered")
    change(log, number, batch_id=10_000)

    with pytest.raises(InternalError, match=r"log\.jsonl:\d+: .*batch 10000 is not in flight"):
        replay(log)


def test_an_event_that_broke_the_core_breaks_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events are logged before they are handled, so that a bug can be replayed."""
    answer_twice(monkeypatch)
    log = tmp_path / "log"

    async def main() -> None:
        async with Scheduler(host(tmp_path), event_log=str(log)) as scheduler:
            with pytest.raises(InternalError):
                await scheduler.run(rows(1))

    run_virtual(main)
    with pytest.raises(InternalError, match="batch 0 is not in flight"):
        replay(log)


@pytest.mark.interpreted
def test_another_policy_of_the_core_makes_a_difference(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay uses the current rules of the core: a changed rule shows as a difference."""
    monkeypatch.setattr(SchedulerState, "_expire", lambda self: None)
    difference = replay(log).difference
    assert difference is not None


def test_a_log_of_another_version_is_refused(log: Path) -> None:
    """The error names both versions."""
    change(log, 1, version=1)
    with pytest.raises(ConfigError, match="version 1; this qaic-sched reads 3"):
        replay(log)


@pytest.mark.parametrize("log", sorted(LOGS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_log_of_an_earlier_release_replays(log: Path) -> None:
    """Names in a log belong to its format: renaming a class or an attribute breaks no log."""
    result = replay(log)

    assert result.difference is None
    assert result.requests > 0
    assert not result.is_cut_off


def test_the_logs_of_an_earlier_release_have_every_kind_of_line() -> None:
    """The test above covers the whole format."""
    lines = [line for log in LOGS.glob("*.jsonl") for line in log.read_text().splitlines()]
    decisions = {"dispatch", "reload", "unload", "close", "resolve"}

    assert {json.loads(line)["event"] for line in lines} == {
        *("log", "end", "wakeup", "request", "answered", "cancelled", "closed", "drain_started"),
        *("device_opened", "device_retired", "reload_failed", "activations_added"),
        *("activations_retired", "set_size_changed", "policy_changed"),
        *decisions,
    }
