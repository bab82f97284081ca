"""`qaic-sched load`: a load test and the verdict on its result."""

from __future__ import annotations

import asyncio
import sys
from asyncio import CancelledError
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from qaic_sched.cli.ctrl_c import INTERRUPTED, CtrlC, exit_now, run_async
from qaic_sched.cli.load_arguments import takes_arguments
from qaic_sched.cli.load_job import LoadJob, check_virtual
from qaic_sched.cli.load_options import LoadOptions, check
from qaic_sched.cli.output import say
from qaic_sched.cli.progress import stderr_console
from qaic_sched.config.models import load_configs
from qaic_sched.extras import require
from qaic_sched.loadgen.inject.run_progress import RunProgress
from qaic_sched.loadgen.mlperf.run import is_left_behind
from qaic_sched.loadgen.report.report import encode_report
from qaic_sched.loadgen.show.run_files import prepare, write_run
from qaic_sched.loadgen.show.tables import verdict_line
from qaic_sched.loadgen.show.terminal import LiveView, print_report
from qaic_sched.virtual_time import run_virtual

if TYPE_CHECKING:
    from pathlib import Path

    from qaic_sched.config.keys import Config
    from qaic_sched.loadgen.load import LoadRun

__all__ = ["load"]


@takes_arguments(LoadOptions)
def load(options: LoadOptions) -> None:
    """Load a scheduler or a server, and judge whether the result is valid.

    The first line of output is the verdict, VALID or INVALID with the first broken rule; the exit
    status is 0 or 1. Latency counts from the planned instant of a request. Without a rate, the load
    is a closed loop that fills the target.

    Ctrl-C stops sending, awaits the outstanding answers, reports the measurements as INVALID and
    exits with status 130. A second Ctrl-C stops at once and prints nothing.
    """
    check(options)
    configs = _check_host(options)
    run, is_whole = _run(options, configs)
    files = [] if options.report is None else write_run(run, options.report)
    _print(run, options, files)
    if is_left_behind():
        exit_now()
    if not is_whole:
        raise typer.Exit(INTERRUPTED)
    if not run.report.verdict.is_valid:
        raise typer.Exit(1)


def _check_host(options: LoadOptions) -> dict[str, Config]:
    """Raise now for anything that would otherwise fail after the run; return the configurations."""
    require("scipy", "load")
    if options.loadgen:
        require("mlperf_loadgen", "mlperf")
    configs = {} if options.is_server else load_configs(options.target)
    if options.virtual:
        check_virtual(configs)
    if options.report is not None:
        prepare(options.report)
    return configs


def _run(options: LoadOptions, configs: dict[str, Config]) -> tuple[LoadRun, bool]:
    """Make the run; also return whether it ended without Ctrl-C."""
    try:
        if options.virtual:
            return run_virtual(_main, options, configs)
        return run_async(_main(options, configs))
    except CancelledError:
        if is_left_behind():
            exit_now()
        raise typer.Exit(INTERRUPTED) from None


async def _main(options: LoadOptions, configs: dict[str, Config]) -> tuple[LoadRun, bool]:
    interrupted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    progress, console = RunProgress(), stderr_console()
    async with AsyncExitStack() as stack:
        ctrl_c = stack.enter_context(CtrlC(lambda: interrupted.set_result(None)))
        if options.processes == 1 and (console.is_terminal or not options.virtual):
            await stack.enter_async_context(LiveView(console, progress))
        run = await LoadJob(options, configs, progress, interrupted).run()
        return run, not ctrl_c.is_pressed


def _print(run: LoadRun, options: LoadOptions, files: list[Path]) -> None:
    if options.as_json:
        sys.stdout.write(encode_report(run.report).decode())
        say(verdict_line(run.report))
    else:
        print_report(run.report, Console(), files)
