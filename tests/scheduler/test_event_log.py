"""The event log: its lines, its reader, and that runs of one seed have the same log."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest

from qaic_sched.core.commands import Commands
from qaic_sched.core.events import (
    ActivationsAdded,
    ActivationsRetired,
    Cancelled,
    Closed,
    Completed,
    DeviceOpened,
    DeviceReported,
    DeviceRetired,
    DrainStarted,
    Event,
    LoopStalled,
    PolicyChanged,
    ReloadFailed,
    SetSizeChanged,
)
from qaic_sched.core.model import DeviceNews, Fault, Policy, Request, RequestState
from qaic_sched.errors import ConfigError, DeadlineExceededError
from qaic_sched.scheduler.event_log import Close, EventLog, EventLogReader, Reload, Resolve, Unload
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import host, rows


def log_of(model: str, path: Path) -> list[dict[str, Any]]:
    """Run a few requests with every outcome and return the lines of their log."""

    async def main() -> None:
        options: dict[str, Any] = {"retry": {"max_attempts": 1}, "event_log": str(path)}
        async with Scheduler(model, **options) as scheduler:
            requests = [scheduler.submit(rows(5), priority=2, tenant="a") for _ in range(4)]
            requests.append(scheduler.submit(rows(40), timeout_s=0.011))
            requests[1].cancel()
            done = await asyncio.gather(*requests, return_exceptions=True)
            assert isinstance(done[4], DeadlineExceededError)

    run_virtual(main)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_has_every_event_and_decision(tmp_path: Path) -> None:
    """The log has the policy, and devices, requests, answers and decisions with their times."""
    lines = log_of(host(tmp_path, devices=2), tmp_path / "log.jsonl")
    kinds = Counter(line["event"] for line in lines)

    assert lines[0]["policy"]["batch_sizes"] == [8]
    assert lines[1] == {
        "event": "device_opened",
        "call": 1,
        "at": 0.0,
        "device_id": 0,
        "num_activations": 1,
        "set_size": 2,
    }
    assert kinds["request"] == kinds["resolve"] == 5
    assert kinds["dispatch"] == kinds["answered"] > 0
    assert kinds["cancelled"] == kinds["drain_started"] == kinds["closed"] == 1
    states = {line["id"]: line["state"] for line in lines if line["event"] == "resolve"}
    assert states == {0: "done", 1: "cancelled", 2: "done", 3: "done", 4: "expired"}
    sent = next(line for line in lines if line["event"] == "request")
    assert sent["priority"] == 2
    assert sent["tenant"] == "a"
    assert "state" not in sent
    assert lines[-1] == {"event": "end"}
    first = next(line for line in lines if line["event"] == "dispatch")
    assert first["parts"] == [[0, 0, 5], [2, 0, 3]]
    for before, after in pairwise(lines[1:-1]):
        assert before["at"] <= after["at"]
        assert after["call"] - before["call"] in (0, 1)
        assert before["call"] != after["call"] or before["at"] == after["at"]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_seed_gives_the_same_log(tmp_path: Path, seed: int) -> None:
    """Two runs in virtual time with one seed have equal logs, to the last byte."""
    model = host(tmp_path, devices=3, service_time_cv=0.3, seed=seed)
    log = log_of(model, tmp_path / "1")
    assert log_of(model, tmp_path / "2") == log
    assert log_of(host(tmp_path, devices=3, service_time_cv=0.3, seed=3), tmp_path / "3") != log


def test_a_call_without_events_is_written_too(tmp_path: Path) -> None:
    """A replay has to repeat every call, also those without events."""
    log = EventLog(str(tmp_path / "log"))
    log.start("m", Policy(batch_sizes=(2,)))
    log.record_events(1.5, [])
    log.close()
    log.close()
    _, line, end = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert line == {"event": "wakeup", "call": 1, "at": 1.5}
    assert end == {"event": "end"}


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """The error names the option and the file; if opening fails, the log is left empty."""
    with pytest.raises(ConfigError, match=r"event_log: .*none/log cannot be written: No such file"):
        EventLog(str(tmp_path / "none" / "log"))
    EventLog(str(tmp_path / "log")).close()
    assert (tmp_path / "log").read_bytes() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full disk")
@pytest.mark.parametrize("count", [1, 200])
def test_a_full_disk_costs_no_request(
    tmp_path: Path, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The log ends with one warning, if writing or closing it fails."""

    async def main() -> None:
        async with Scheduler(host(tmp_path), event_log="/dev/full") as scheduler:
            await asyncio.gather(*(scheduler.run(rows(1)) for _ in range(count)))

    run_virtual(main)
    assert [record.message for record in caplog.records] == [
        "event_log: writing failed, the log ends here"
    ]


def every_event() -> list[Event]:
    """Return one event of each kind, with no field at its default."""
    return [
        Request(7, 3, 0.1, 0.2, -1, 12, "a"),
        Request(8, 1, 0.1, float("inf"), tenant="null"),
        Request(9, 1, 0.1, float("-inf"), tenant="inf"),
        DeviceOpened(3, 2, 4),
        Completed(1, 0.1 + 0.2, Fault.STUCK),
        ReloadFailed(3),
        DeviceReported(3, DeviceNews.SLOW),
        LoopStalled(1.5),
        ActivationsAdded(3, (2, 4)),
        ActivationsRetired(3, (0,)),
        DeviceRetired(3),
        SetSizeChanged(5),
        PolicyChanged(Policy((1, 4), hedge_after=float("inf"))),
        Cancelled(7),
        DrainStarted(),
        Closed(),
    ]


OWN: dict[type, tuple[str, ...]] = {
    Request: ("id", "samples", "accepted_at", "deadline", "priority", "num_bytes", "tenant"),
    Completed: ("batch_id", "completed_at", "fault"),
}


def _fields(event: Event) -> dict[str, object]:
    """Return the fields of an event; of a request, those that the caller sets."""
    if type(event) not in OWN:
        return asdict(event)
    return {name: getattr(event, name) for name in OWN[type(event)]}


def test_every_kind_of_event_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The reader returns calls with their events, decisions and line numbers."""
    path = str(tmp_path / "log")
    policy = Policy(
        batch_sizes=(1, 8), max_bytes=5, hedge_after=None, max_queue_delay_s=float("inf")
    )
    request = Request(7, 3, 0.1)
    request.state = RequestState.EXPIRED
    log = EventLog(path)
    log.start("model.onnx", policy)
    log.record_events(0.1 + 0.2, every_event())
    commands = Commands()
    commands.resolve, commands.reload = [request], [3]
    commands.unload, commands.close = ((1, (0, 2)),), (4,)
    log.record_decisions(commands)
    log.record_events(0.5, [])
    log.close()

    with EventLogReader(path) as reader:
        first, second = reader
    assert (reader.model, reader.policy, reader.is_cut_off) == ("model.onnx", policy, False)
    assert (first.number, first.at, first.first_line, first.last_line) == (1, 0.1 + 0.2, 2, 21)
    assert list(map(_fields, first.events)) == list(map(_fields, every_event()))
    assert first.decisions == [
        Reload(1, 0.1 + 0.2, 3),
        Unload(1, 0.1 + 0.2, 1, (0, 2)),
        Close(1, 0.1 + 0.2, 4),
        Resolve(1, 0.1 + 0.2, 7, RequestState.EXPIRED),
    ]
    assert (second.number, second.events, second.decisions) == (2, [], [])


def test_all_kinds_of_events_are_tested_here() -> None:
    """A new kind of event needs a line in this test."""
    assert {type(event) for event in every_event()} == set(get_args(Event))


HEADER = '{"event":"log","version":3,"model":"m","policy":{}}'


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([], "log:1: not the first line"),
        (["{}"], "log:1: not the first line"),
        (["7"], "log:1: not the first line"),
        (["\xff"], "log:1: not the first line"),
        (['{"event":"log","version":1}'], "log:1: a log of version 1; this qaic-sched reads 3"),
        ([HEADER.replace("{}", '{"max_samples":"x"}')], "log:1: .*max_samples"),
        ([HEADER, "{"], "log:2: not a line"),
        ([HEADER, '{"call":1,"at":0}'], "log:2: .*`event`"),
        ([HEADER, '{"event":"fly","call":1,"at":0}'], "log:2: .*'fly'"),
        ([HEADER, '{"event":"cancelled","call":1,"at":0}'], "log:2: .*`request_id`"),
        ([HEADER, '{"event":"resolve","call":1,"at":0,"id":1,"state":"x"}'], "log:2: .*'x'"),
    ],
)
def test_a_file_that_is_no_log_is_refused(tmp_path: Path, lines: list[str], problem: str) -> None:
    """The error names the file, the line and the problem."""
    path = tmp_path / "log"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("latin-1"))
    with pytest.raises(ConfigError, match=problem), EventLogReader(str(path)) as reader:
        list(reader)


def test_a_missing_log_is_refused(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(ConfigError, match="none cannot be read: No such file"):
        EventLogReader(str(tmp_path / "none"))


@pytest.mark.parametrize("lost", [0, 1, 3, 40])
def test_a_log_that_was_cut_off_is_read_without_its_last_call(tmp_path: Path, lost: int) -> None:
    """After a crash the last call may be incomplete: it is left out."""
    path = tmp_path / "log"
    log = EventLog(str(path))
    log.start("m", Policy())
    log.record_events(0.0, [Cancelled(0)])
    log.record_events(1.0, [Cancelled(1), Cancelled(2)])
    log.close()
    text = path.read_bytes().removesuffix(b'{"event":"end"}\n')
    path.write_bytes(text[: len(text) - lost])

    with EventLogReader(str(path)) as reader:
        calls = list(reader)
    assert reader.is_cut_off
    assert [call.at for call in calls] == [0.0]


def test_the_name_of_a_model_may_hold_bytes_that_are_no_text(tmp_path: Path) -> None:
    """Python has a surrogate for each: the log writes it as an escape."""
    path = tmp_path / "log.jsonl"
    log = EventLog(str(path))
    log.start("a\udcff.sim.yaml", Policy(batch_sizes=(1,)))
    log.close()
    with EventLogReader(str(path)) as reader:
        assert reader.model == "a\\udcff.sim.yaml"


def test_a_tenant_that_cannot_be_written_is_a_config_error(tmp_path: Path) -> None:
    """When the scheduler opens, and when `tenants` change."""

    async def main() -> None:
        tenants = {"a\ud800": {"weight": 2}}
        with pytest.raises(ConfigError, match=r"tenants: tenant: got .* surrogate"):
            async with Scheduler(host(tmp_path), tenants=tenants):
                pass
        async with Scheduler(host(tmp_path), event_log=str(tmp_path / "log")) as scheduler:
            with pytest.raises(ConfigError, match="surrogate"):
                await scheduler.update_backend_options(tenants=tenants)
            await scheduler.run(rows(1))

    run_virtual(main)
