"""`qaic-sched run`: every row of a file through the scheduler."""

from __future__ import annotations

from asyncio import CancelledError
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qaic_sched.cli.arrays import check_output_path, write_arrays
from qaic_sched.cli.ctrl_c import INTERRUPTED, CtrlC, run_async
from qaic_sched.cli.hangup import Hangup
from qaic_sched.cli.output import print_json
from qaic_sched.cli.progress import progress_bar, stderr_console
from qaic_sched.errors import InputError, SchedulerError
from qaic_sched.metrics.table import format_device_table
from qaic_sched.npz_file import read_arrays
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.scheduler.several import name_of
from qaic_sched.tensors import allocate_outputs, copy_rows, validate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qaic_sched.program import Program, Tensors

__all__ = ["Job", "run"]


def run(
    config: Annotated[Path, typer.Argument(help="The configuration file.")],
    input_path: Annotated[
        Path, typer.Option("--input", metavar="FILE.npz", help="One array per input, rows first.")
    ],
    output_path: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE.npz", help="Where the outputs go, in row order."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Which, of several models.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Run every row of a file.

    Progress is shown on a terminal, and at the end what each device has done.

    Ctrl-C finishes what is in flight, writes the rows that are done and ends with status 130; a
    second Ctrl-C stops at once and writes nothing. SIGHUP reads the configuration again and
    applies what may change while it runs.
    """
    inputs = read_arrays(input_path)
    if output_path is not None:
        check_output_path(output_path)
    # No caller is there who could come back later: rows wait for room, whatever the file says.
    overrides = {"queue": {"when_full": "wait"}}
    scheduler = Scheduler.from_config(config, **overrides)
    name_of(scheduler.configs, model)
    hangup = Hangup(scheduler, config, **overrides)
    try:
        keeps_outputs = output_path is not None
        job, metrics = run_async(_run(scheduler, hangup, model, input_path, inputs, keeps_outputs))
    except CancelledError:
        raise typer.Exit(INTERRUPTED) from None
    _print_report(job, metrics, as_json)
    if job.error is not None:
        raise job.error
    if output_path is not None and job.rows_done:
        write_arrays(output_path, job.outputs_done())
    if job.rows_done < job.rows:
        raise typer.Exit(INTERRUPTED)


class Job:
    """What is to be run, and how far it has come.

    `inputs` are checked against the program here: `InputError`.
    """

    def __init__(
        self, program: Program, inputs: Tensors, *, keeps_outputs: bool, model: str | None = None
    ) -> None:
        self.inputs, self.rows = validate(program, inputs)
        self.rows_done = 0
        self.seconds = 0.0
        self.error: SchedulerError | None = None
        """What ended the job before its last row."""
        self._model = model
        self._rows_per_request = program.max_batch_size
        self._outputs: Tensors = {}
        if keeps_outputs and self.rows > self._rows_per_request:
            self._outputs = allocate_outputs(program, self.rows)

    async def run(self, scheduler: Scheduler, ctrl_c: CtrlC) -> None:
        """Run the rows in order until they are done, one fails, or Ctrl-C is pressed."""
        started_at = perf_counter()
        try:
            async for outputs in scheduler.map(self._requests(ctrl_c), model=self._model):
                self._take(outputs)
        except SchedulerError as error:
            self.error = error
        self.seconds = perf_counter() - started_at

    def outputs_done(self) -> Tensors:
        """The outputs of the rows that are done, where they were to be kept."""
        if self.rows_done == self.rows:
            return self._outputs
        return {name: array[: self.rows_done] for name, array in self._outputs.items()}

    def _requests(self, ctrl_c: CtrlC) -> Iterator[Tensors]:
        size = self._rows_per_request
        if self.rows <= size:
            yield self.inputs
            return
        for start in range(0, self.rows, size):
            if ctrl_c.is_pressed:
                return
            yield {name: array[start : start + size] for name, array in self.inputs.items()}

    def _take(self, outputs: Tensors) -> None:
        count = min(self._rows_per_request, self.rows - self.rows_done)
        if count == self.rows:
            self._outputs = outputs
        else:
            copy_rows(outputs, 0, self._outputs, self.rows_done, count)
        self.rows_done += count


async def _run(
    scheduler: Scheduler,
    hangup: Hangup,
    model: str | None,
    input_path: Path,
    inputs: Tensors,
    keeps_outputs: bool,
) -> tuple[Job, dict[str, Any]]:
    with CtrlC() as ctrl_c:
        async with scheduler:
            try:
                program = scheduler.program_of(model)
                job = Job(program, inputs, keeps_outputs=keeps_outputs, model=model)
            except InputError as error:
                raise InputError(f"{input_path}: {error}") from error
            with hangup:
                async with progress_bar(stderr_console(), job.rows, lambda: job.rows_done):
                    await job.run(scheduler, ctrl_c)
            return job, scheduler.get_metrics()


def _print_report(job: Job, metrics: Mapping[str, Any], as_json: bool) -> None:
    rate = job.rows_done / job.seconds
    if as_json:
        print_json({"rows": job.rows_done, "seconds": job.seconds, "rows_per_s": rate, **metrics})
        return
    print(format_device_table(metrics))
    rows = f"{job.rows_done} rows" if job.rows_done == job.rows else _part(job)
    print(f"{rows} in {job.seconds:.3f} s: {rate:.1f} rows/s")


def _part(job: Job) -> str:
    return f"the first {job.rows_done} of {job.rows} rows"
