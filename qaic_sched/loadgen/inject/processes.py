"""Several processes that load one server, for servers that are faster than one client.

Rules of this file:
- All processes start at one instant of the monotonic clock, which the processes of a host share,
  and count their times from it. The instant is chosen when every process is connected.
- The planned instants, or the callers, are dealt out: together the processes send what a single one
  would.
- Nothing is lost: each process leaves its raw records in a file. If one dies, the others continue
  to the end, and the error has their records.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from msgspec import json as msgspec_json
from msgspec.structs import replace

from qaic_sched.errors import ConfigError, SchedulerError
from qaic_sched.loadgen.inject.records import Records
from qaic_sched.loadgen.inject.records_file import ARRAYS, load_records
from qaic_sched.loadgen.inject.rows import count_problem
from qaic_sched.loadgen.plan.plan import Plan

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ProcessDiedError", "ProcessJob", "inject_from_processes", "merge", "split"]

WORKER = "qaic_sched.loadgen.inject.worker"
"""The module that each process runs, by `python -m`."""

_START_LEAD_S = 0.2
"""Time between the last process being ready and the start, for the message to arrive."""
_READY_LIMIT_S = 60.0


class ProcessDiedError(SchedulerError):
    """A load process ended early, by the host's fault or ours; `records` are the others'."""

    def __init__(self, message: str, records: Records | None = None) -> None:
        super().__init__(message)
        self.records = records


class ProcessJob(Struct, frozen=True):
    """The instructions for one process, in `job.json`."""

    url: str
    plan: Plan
    planned_path: str | None
    """An `.npy` file of the planned instants in nanoseconds; None for a closed loop."""
    inputs_path: str | None
    records_path: str


def split(planned_ns: NDArray[np.int64], n: int) -> list[NDArray[np.int64]]:
    """Deal the planned instants out to `n` processes, in turn."""
    return [planned_ns[i::n] for i in range(n)]


def merge(records: Sequence[Records]) -> Records:
    """Merge records with a common start, in the order of the planned instants.

    Ids of inferences are unique within one process only, so they are renumbered; -1 stays. The
    processes sampled the same devices, so the samples are sorted by time.
    """
    order = np.argsort(np.concatenate([each.planned_ns for each in records]), kind="stable")
    columns = {
        name: np.concatenate([getattr(each, name) for each in records])[order] for name in ARRAYS
    }
    columns["inference"] = np.concatenate(_renumbered(records))[order]
    problems: dict[str, int] = {}
    for each in records:
        for problem, count in each.problems.items():
            count_problem(problems, problem, count)
    samples = [sample for each in records for sample in each.device_samples]
    return Records(
        **columns,
        ended_ns=max(each.ended_ns for each in records),
        problems=problems,
        device_samples=sorted(samples, key=lambda sample: sample.at_ns),
    )


def _renumbered(records: Sequence[Records]) -> list[NDArray[np.int64]]:
    columns, first = [], 0
    for each in records:
        columns.append(np.where(each.inference < 0, -1, each.inference + first))
        first += int(each.inference.max(initial=-1)) + 1
    return columns


async def inject_from_processes(
    url: str,
    plan: Plan,
    planned_ns: NDArray[np.int64] | None,
    n: int,
    *,
    inputs_path: Path | None = None,
    interrupted: asyncio.Future[None] | None = None,
) -> Records:
    """Run a plan against a server from `n` new processes; return the merged records.

    The callers of a closed loop and `max_requests` are divided among the processes. When the future
    `interrupted` is done, sending stops. Raises `ConfigError` for a plan that cannot be divided and
    `ProcessDiedError` for a process that fails; its message has the last line of that process.
    """
    _check(plan, planned_ns, n)
    shares = _shares(plan, planned_ns, n)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qaic-sched-load-")))
        processes = [_LoadProcess(i, n, folder) for i in range(n)]
        for process, (part_plan, part_ns) in zip(processes, shares, strict=True):
            stack.push_async_callback(process.kill)
            await process.start(url, part_plan, part_ns, inputs_path)
        await asyncio.gather(*(process.ready() for process in processes))
        starts_at = time.monotonic() + _START_LEAD_S
        for process in processes:
            process.begin(starts_at)

        def interrupt(_: object) -> None:
            for process in processes:
                process.interrupt()

        if interrupted is not None:
            interrupted.add_done_callback(interrupt)
            stack.callback(interrupted.remove_done_callback, interrupt)
        results = await asyncio.gather(*(process.records() for process in processes))
    parts = [each for each in results if isinstance(each, Records)]
    deaths = [each for each in results if isinstance(each, str)]
    if deaths:
        raise ProcessDiedError("; ".join(deaths), merge(parts) if parts else None)
    return merge(parts)


def _check(plan: Plan, planned_ns: NDArray[np.int64] | None, n: int) -> None:
    if n < 1:
        raise ConfigError(f"processes: must be at least 1, not {n}")
    if planned_ns is not None:
        return
    for name, number in (("concurrency", plan.concurrency), ("max_requests", plan.max_requests)):
        if number is not None and number < n:
            raise ConfigError(f"{name}: {number} cannot be divided among {n} processes")


def _shares(
    plan: Plan, planned_ns: NDArray[np.int64] | None, n: int
) -> list[tuple[Plan, NDArray[np.int64] | None]]:
    """Divide a plan; each part has a seed of its own for its inputs and their order."""
    plans = [replace(plan, seed=plan.seed + i) for i in range(n)]
    if planned_ns is not None:
        return list(zip(plans, split(planned_ns, n), strict=True))
    most = plan.max_requests
    return [
        (
            replace(
                each,
                concurrency=_part(plan.concurrency, i, n),
                max_requests=None if most is None else _part(most, i, n),
            ),
            None,
        )
        for i, each in enumerate(plans)
    ]


def _part(whole: int, i: int, n: int) -> int:
    return whole // n + (i < whole % n)


class _LoadProcess:
    """One load process, which runs `WORKER`."""

    def __init__(self, index: int, n: int, folder: Path) -> None:
        self._name = f"load process {index + 1} of {n}"
        self._folder = folder / str(index)
        self._folder.mkdir()
        self._process: Process | None = None
        self._stderr: asyncio.Task[bytes] | None = None

    async def start(
        self,
        url: str,
        plan: Plan,
        planned_ns: NDArray[np.int64] | None,
        inputs_path: Path | None,
    ) -> None:
        planned_path = None
        if planned_ns is not None:
            planned_path = str(self._folder / "planned.npy")
            np.save(planned_path, planned_ns)
        inputs = None if inputs_path is None else str(inputs_path)
        job = ProcessJob(url, plan, planned_path, inputs, str(self._folder / "records.npz"))
        (self._folder / "job.json").write_bytes(msgspec_json.encode(job))
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", WORKER, str(self._folder / "job.json")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C goes to the parent only
        )
        assert self._process.stderr is not None
        self._stderr = asyncio.create_task(self._process.stderr.read())

    async def ready(self) -> None:
        """Wait until the process is connected; raise with its last line if it cannot."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), _READY_LIMIT_S)
        except asyncio.TimeoutError:
            text = f"{self._name} was not ready within {_READY_LIMIT_S:g} s"
            raise ProcessDiedError(text) from None
        if line != b"ready\n":
            raise ProcessDiedError(await self._last_words())

    def begin(self, starts_at: float) -> None:
        """Send the start instant; a process that died meanwhile is noticed by `records`."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{starts_at!r}\n".encode())

    def interrupt(self) -> None:
        """Make the process stop sending."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"stop\n")

    async def records(self) -> Records | str:
        """Wait for the end; return the records, or a sentence on how the process died."""
        assert self._process is not None
        if await self._process.wait() == 0:
            return await asyncio.to_thread(load_records, self._folder / "records.npz")
        return await self._last_words()

    async def kill(self) -> None:
        """Kill the process if it is still running."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._stderr is not None:
            await self._stderr

    async def _last_words(self) -> str:
        assert self._process is not None
        assert self._stderr is not None
        status = await self._process.wait()
        lines = (await self._stderr).decode(errors="replace").split("\n")
        words = next((line for line in reversed(lines) if line.strip()), "no message")
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"{self._name} {how}: {words}"
