"""`qaic-sched run`: run every row of an `.npz` file through a scheduler."""

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
from qaic_sched.tensors import allocate_outputs, check_row_count, copy_rows, validate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qaic_sched.program import Program, Tensors

__all__ = ["FileJob", "run"]


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration file.")],
    input_path: Annotated[
        Path,
        typer.Option(
            "--input", metavar="FILE.npz", help="One array per model input; axis 0 is the rows."
        ),
    ],
    output_path: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE.npz",
            help="File for the outputs, in row order; default: discard them.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="Model to run, if there are several."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Run every row of an .npz file through the model.

    Shows progress on a terminal, and prints a table of the devices at the end.

    Ctrl-C finishes the inferences in flight, writes the completed rows and exits with status 130.
    A second Ctrl-C stops at once and writes nothing. SIGHUP reloads the configuration and applies
    the keys that can change while the scheduler runs.
    """
    inputs = read_arrays(input_path)
    if output_path is not None:
        check_output_path(output_path)
    # A rejected row could not be sent again later, so rows wait whatever the configuration says.
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
    if output_path is not None and job.rows_completed:
        write_arrays(output_path, job.completed_outputs())
    if job.rows_completed < job.rows:
        raise typer.Exit(INTERRUPTED)


class FileJob:
    """The rows of a file and their progress through a scheduler.

    Raises `InputError` if `inputs` do not fit the program.
    """

    def __init__(
        self, program: Program, inputs: Tensors, *, keeps_outputs: bool, model: str | None = None
    ) -> None:
        self.inputs, self.rows = validate(program, inputs)
        self.rows_completed = 0
        self.seconds = 0.0
        self.error: SchedulerError | None = None
        """The error that ended the job before its last row."""
        self._model = model
        # Outputs that have shapes of their own cannot be joined: then the file is one request.
        self._rows_per_request = program.max_batch_size if program.keeps_shapes else self.rows
        last = self.rows % self._rows_per_request or self._rows_per_request
        if program.limits_rows:
            check_row_count(program, last)
        self._outputs: Tensors = {}
        if keeps_outputs and self.rows > self._rows_per_request:
            self._outputs = allocate_outputs(program, self.rows)

    async def run(self, scheduler: Scheduler, ctrl_c: CtrlC) -> None:
        """Run the rows in order until all are completed, one fails, or Ctrl-C is pressed."""
        started_at = perf_counter()
        try:
            async for outputs in scheduler.map(self._requests(ctrl_c), model=self._model):
                self._take(outputs)
        except SchedulerError as error:
            self.error = error
        self.seconds = perf_counter() - started_at

    def completed_outputs(self) -> Tensors:
        """Return the outputs of the completed rows."""
        if self.rows_completed == self.rows:
            return self._outputs
        return {name: array[: self.rows_completed] for name, array in self._outputs.items()}

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
        count = min(self._rows_per_request, self.rows - self.rows_completed)
        if count == self.rows:
            self._outputs = outputs
        else:
            copy_rows(outputs, 0, self._outputs, self.rows_completed, count)
        self.rows_completed += count


async def _run(
    scheduler: Scheduler,
    hangup: Hangup,
    model: str | None,
    input_path: Path,
    inputs: Tensors,
    keeps_outputs: bool,
) -> tuple[FileJob, dict[str, Any]]:
    with CtrlC() as ctrl_c:
        async with scheduler:
            try:
                program = scheduler.program_of(model)
                job = FileJob(program, inputs, keeps_outputs=keeps_outputs, model=model)
            except InputError as error:
                raise InputError(f"{input_path}: {error}") from error
            with hangup:
                async with progress_bar(stderr_console(), job.rows, lambda: job.rows_completed):
                    await job.run(scheduler, ctrl_c)
            return job, scheduler.get_metrics()


def _print_report(job: FileJob, metrics: Mapping[str, Any], as_json: bool) -> None:
    rate = job.rows_completed / job.seconds
    if as_json:
        print_json(
            {"rows": job.rows_completed, "seconds": job.seconds, "rows_per_s": rate, **metrics}
        )
        return
    print(format_device_table(metrics))
    rows = f"{job.rows_completed} rows" if job.rows_completed == job.rows else _part(job)
    print(f"{rows} in {job.seconds:.3f} s: {rate:.1f} rows/s")


def _part(job: FileJob) -> str:
    return f"the first {job.rows_completed} of {job.rows} rows"
