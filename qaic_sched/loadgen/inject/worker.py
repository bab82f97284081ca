"""The program of a load process: `python -m qaic_sched.loadgen.inject.worker JOB`.

The process connects, prints `ready`, reads the start instant from its standard input, runs, and
leaves its records in a file. A further line of input interrupts the run. When the input closes, the
parent is gone and the process ends.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
import numpy as np

from qaic_sched.errors import SchedulerError
from qaic_sched.loadgen.inject.injector import inject
from qaic_sched.loadgen.inject.processes import ProcessJob
from qaic_sched.loadgen.inject.records_file import save_records
from qaic_sched.loadgen.plan.inputs import InputLibrary
from qaic_sched.loadgen.targets.server import ServerTarget

__all__ = ["run_job"]


async def run_job(job: ProcessJob) -> None:
    """Run the job that the parent has written."""
    parent = await _parent()
    target = ServerTarget(job.url)
    try:
        info = await target.open()
        rows = job.plan.samples_per_request
        if job.inputs_path is None:
            inputs = InputLibrary(info, rows, job.plan.seed)
        else:
            inputs = InputLibrary.from_file(Path(job.inputs_path), info, rows, job.plan.seed)
        planned_ns = None if job.planned_path is None else np.load(job.planned_path)
        print("ready", flush=True)
        starts_at = float(await parent.readline())
        interrupted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        run = inject(
            *(target, info, job.plan, planned_ns, inputs),
            starts_at=starts_at,
            interrupted=interrupted,
        )
        work = asyncio.ensure_future(run)
        heeding = asyncio.ensure_future(_heed(parent, interrupted))
        heeding.add_done_callback(lambda _: work.cancel())
        save_records(await work, Path(job.records_path))
    finally:
        await target.aclose()


async def _heed(parent: asyncio.StreamReader, interrupted: asyncio.Future[None]) -> None:
    """Interrupt the run when the parent says so; return when the parent is gone."""
    while await parent.readline():
        if not interrupted.done():
            interrupted.set_result(None)


async def _parent() -> asyncio.StreamReader:
    """Return a reader of standard input, which the parent writes to."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    return reader


def main() -> None:
    """Run the job named on the command line, on uvloop if it is installed."""
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ProcessJob)
    try:
        import uvloop
    except ImportError:
        run = asyncio.run
    else:
        run = uvloop.run
    try:
        run(run_job(job))
    except SchedulerError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
