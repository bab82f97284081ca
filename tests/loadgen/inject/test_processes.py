"""Several load processes send together the requests of one, and lose none."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
import pytest

from qaic_sched.errors import ConfigError
from qaic_sched.loadgen.inject import processes
from qaic_sched.loadgen.inject.processes import (
    ProcessDiedError,
    ProcessJob,
    inject_from_processes,
    merge,
    split,
)
from qaic_sched.loadgen.inject.records import Records
from qaic_sched.loadgen.inject.records_file import ARRAYS
from qaic_sched.loadgen.plan.arrivals import schedule
from qaic_sched.loadgen.plan.plan import Constant, Plan, Poisson
from qaic_sched.loadgen.targets.base import DeviceSample, Outcome
from tests.loadgen.kserve_server import running

PLANNED = schedule(Poisson(1000), 1.0, 1)


def records_of(planned_ns: list[int], first_inference: int = 0) -> Records:
    """Records in which every column of a row follows from its planned instant."""
    records = Records.for_requests(np.array(planned_ns, np.int64))
    records.sent_ns += 1 + records.planned_ns
    records.done_ns += 2 + records.planned_ns
    records.outcome[:] = records.planned_ns % 3
    records.inference[:] = first_inference + np.arange(len(planned_ns))
    records.ended_ns = int(records.done_ns.max(initial=0))
    return records


def test_the_module_that_processes_run_exists() -> None:
    """`WORKER` is a string: no import would notice a renamed module."""
    spec = find_spec(processes.WORKER)

    assert spec is not None
    assert spec.origin is not None
    assert '__name__ == "__main__"' in Path(spec.origin).read_text()


@pytest.mark.parametrize("n", [1, 2, 7, 5000])
def test_split_and_merge_are_a_round_trip(n: int) -> None:
    """For any number of processes, each row comes back once, with all columns."""
    parts = split(PLANNED, n)
    whole = merge([records_of(part.tolist()) for part in parts])

    assert len(parts) == n
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    expected = records_of(PLANNED.tolist())
    for name in ARRAYS:
        if name != "inference":
            assert getattr(whole, name).tolist() == getattr(expected, name).tolist(), name
    assert whole.ended_ns == expected.ended_ns


def test_merged_inferences_stay_apart() -> None:
    """One id in two processes means two inferences; -1 means none."""
    first, second = records_of([0, 10, 20]), records_of([5, 15, 25])
    first.inference[:] = [0, 0, 4]
    second.inference[:] = [0, -1, 2]

    assert merge([first, second]).inference.tolist() == [0, 5, 0, -1, 4, 7]


def test_merged_problems_and_samples_are_all_there() -> None:
    """Counts are added and device samples sorted by time."""
    first, second = records_of([0]), records_of([1])
    first.problems, second.problems = {"a": 1, "others": 2}, {"a": 3, "b": 1}
    first.device_samples = [DeviceSample(at, 0, {}, {}) for at in (0, 20)]
    second.device_samples = [DeviceSample(at, 0, {}, {}) for at in (10, 30)]

    whole = merge([first, second])

    assert whole.problems == {"a": 4, "others": 2, "b": 1}
    assert [sample.at_ns for sample in whole.device_samples] == [0, 10, 20, 30]


@pytest.mark.parametrize(
    ("plan", "n", "field"),
    [
        (Plan(scenario="closed", concurrency=3), 4, "concurrency"),
        (Plan(scenario="closed", concurrency=8, max_requests=3), 4, "max_requests"),
        (Plan(scenario="closed"), 0, "processes"),
    ],
)
def test_what_cannot_be_divided_is_refused(plan: Plan, n: int, field: str) -> None:
    """A closed loop needs a caller, and a request, for each process."""
    with pytest.raises(ConfigError, match=f"^{field}"):
        asyncio.run(inject_from_processes("http://nowhere:1", plan, None, n))


@pytest.mark.slow
def test_processes_send_the_plan_together() -> None:
    """The whole schedule is sent on time, and each request answered once."""
    planned_ns = schedule(Constant(400), 1.5, 1)
    plan = Plan(scenario="open", duration_s=1.5)
    with running(delay=0.005) as url:
        records = asyncio.run(inject_from_processes(url, plan, planned_ns, 3))

    assert records.planned_ns.tolist() == planned_ns.tolist()
    assert (records.outcome == Outcome.DONE).all()
    assert records.sent_ns.min() >= 0
    assert np.median(records.sent_ns - records.planned_ns) < 20e6
    assert ((records.done_ns - records.sent_ns) >= 5_000_000).all()


@pytest.mark.slow
def test_callers_of_a_closed_loop_are_divided() -> None:
    """Two processes share seven callers, and the limit of requests."""
    plan = Plan(scenario="closed", duration_s=20.0, concurrency=7, max_requests=101)
    with running(kind="grpc", delay=0.050) as url:
        records = asyncio.run(inject_from_processes(url, plan, None, 2))

    assert len(records.planned_ns) == 101
    assert (records.outcome == Outcome.DONE).all()
    events = np.concatenate([records.sent_ns, records.done_ns])
    steps = np.repeat([1, -1], 101)[np.lexsort((np.repeat([1, 0], 101), events))]
    assert np.cumsum(steps).max() == 7


@pytest.mark.slow
def test_nobody_there_is_the_workers_sentence() -> None:
    """The error names the process and the server that it cannot reach."""
    plan = Plan(scenario="open", duration_s=0.1)
    with pytest.raises(ProcessDiedError, match=r"load process \d of 2 .*no KServe v2 server"):
        asyncio.run(inject_from_processes("http://127.0.0.1:9", plan, PLANNED, 2))


@pytest.mark.slow
def test_a_process_that_dies_is_named_and_the_others_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error has the records of the other processes."""
    planned_ns = schedule(Constant(200), 2.0, 1)
    begin = processes._LoadProcess.begin
    killed = []

    def begin_and_kill_the_second(worker: processes._LoadProcess, starts_at: float) -> None:
        begin(worker, starts_at)
        if worker._name == "load process 2 of 2":
            assert worker._process is not None
            pid = worker._process.pid
            delay_s = starts_at + 1.0 - time.monotonic()
            asyncio.get_running_loop().call_later(delay_s, os.kill, pid, signal.SIGKILL)
            killed.append(pid)

    monkeypatch.setattr(processes._LoadProcess, "begin", begin_and_kill_the_second)
    with (
        running() as url,
        pytest.raises(ProcessDiedError, match="load process 2 of 2 was killed by signal 9") as info,
    ):
        plan = Plan(scenario="open", duration_s=2.0)
        asyncio.run(inject_from_processes(url, plan, planned_ns, 2))

    assert len(killed) == 1
    assert info.value.records is not None
    assert info.value.records.planned_ns.tolist() == planned_ns[0::2].tolist()
    assert (info.value.records.outcome == Outcome.DONE).all()


@pytest.mark.slow
def test_cancelling_ends_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled run leaves no process behind."""
    pids: list[int] = []
    have_begun = asyncio.Event()
    begin = processes._LoadProcess.begin

    def remember(worker: processes._LoadProcess, starts_at: float) -> None:
        begin(worker, starts_at)
        assert worker._process is not None
        pids.append(worker._process.pid)
        if len(pids) == 2:
            have_begun.set()

    monkeypatch.setattr(processes._LoadProcess, "begin", remember)

    async def main(url: str) -> None:
        plan = Plan(scenario="closed", duration_s=60.0, concurrency=2)
        run = asyncio.ensure_future(inject_from_processes(url, plan, None, 2))
        await have_begun.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    with running() as url:
        asyncio.run(main(url))

    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_a_process_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    """A load process ends when its parent is killed."""
    with running() as url:
        plan = Plan(scenario="closed", duration_s=60.0)
        job = ProcessJob(url, plan, None, None, str(tmp_path / "records.npz"))
        (tmp_path / "job.json").write_bytes(msgspec.json.encode(job))
        command = [
            sys.executable,
            "-m",
            "qaic_sched.loadgen.inject.worker",
            str(tmp_path / "job.json"),
        ]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.stdin.write(f"{time.monotonic()!r}\n".encode())
            process.stdin.close()

            assert process.wait(10) != 0

    assert not (tmp_path / "records.npz").exists()


@pytest.mark.slow
def test_an_interruption_reaches_every_process() -> None:
    """An interruption stops all processes; sent requests are answered."""

    async def main(url: str) -> Records:
        loop = asyncio.get_running_loop()
        interrupted: asyncio.Future[None] = loop.create_future()
        loop.call_later(3.0, interrupted.set_result, None)
        plan = Plan(scenario="closed", duration_s=60.0, concurrency=4)
        return await inject_from_processes(url, plan, None, 2, interrupted=interrupted)

    with running(delay=0.010) as url:
        begun = time.monotonic()
        records = asyncio.run(main(url))

    assert time.monotonic() - begun < 20
    assert records.ended_ns < 20e9
    assert (records.outcome == Outcome.DONE).all()
    assert len(records.planned_ns) > 20
