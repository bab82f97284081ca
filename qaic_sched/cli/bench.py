"""`qaic-sched bench`: the vendor's benchmark on all devices at once."""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from qaic_sched.cli.ctrl_c import INTERRUPTED, CtrlC, run_async
from qaic_sched.cli.output import format_table, print_json
from qaic_sched.config.models import UNNAMED, load_configs
from qaic_sched.errors import ConfigError
from qaic_sched.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor

    from qaic_sched.session.benchmark import Benchmark, BenchmarkResult

__all__ = ["bench"]

T = TypeVar("T")

COLUMNS = {
    "device": ">",
    "inferences": ">",
    "inferences/s": ">",
    "samples/s": ">",
    "seconds": ">",
}


def bench(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration file.")],
    num_inferences: Annotated[
        int | None,
        typer.Option(
            "--num-inferences", metavar="N", min=1, help="Inferences per device; default: 40."
        ),
    ] = None,
    inf_time: Annotated[
        float | None,
        typer.Option(
            "--time",
            metavar="S",
            min=0.001,
            help="Run for S seconds instead of a number of inferences.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run the vendor's benchmark on every device.

    All devices of the configuration run at the same time. Several models run one after another.

    Ctrl-C finishes the inferences in flight, prints the results so far and exits with status 130.
    A second Ctrl-C stops at once and prints nothing.
    """
    if num_inferences is not None and inf_time is not None:
        raise ConfigError("--num-inferences and --time are both given: remove one of them")
    configs = load_configs(config)
    sessions = {name: Session.for_each_device(each) for name, each in configs.items()}
    measured: dict[str, dict[str, Any]] = {}
    is_complete = True
    for name in sessions:
        try:
            results, is_complete = run_async(_benchmark(sessions[name], num_inferences, inf_time))
        except CancelledError:
            raise typer.Exit(INTERRUPTED) from None
        records = {device_id: _record(result) for device_id, result in results.items()}
        measured[name] = {"devices": records, "total": _total(list(records.values()))}
        if not is_complete:
            break
    if as_json:
        print_json(measured.get(UNNAMED, {"models": measured}))
    else:
        _print_tables(measured)
    if not is_complete:
        raise typer.Exit(INTERRUPTED)


async def _benchmark(
    sessions: Sequence[Session], num_inferences: int | None, inf_time: float | None
) -> tuple[dict[int, BenchmarkResult], bool]:
    """Load all sessions, then benchmark all of them, each on its own thread.

    Returns the results by device id, and False if Ctrl-C cut the benchmark short.
    """
    benchmarks: list[Benchmark] = []

    def stop() -> None:
        for benchmark in benchmarks:
            benchmark.stop()

    with CtrlC(stop) as ctrl_c, ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(len(sessions)))
        for session in sessions:
            stack.enter_context(session)
        stack.callback(stop)
        await _call_all(threads, [session.setup for session in sessions])
        benchmarks += [session.prepare_benchmark(num_inferences, inf_time) for session in sessions]
        if ctrl_c.is_pressed:
            stop()
        results = await _call_all(threads, [benchmark.run for benchmark in benchmarks])
        device_ids = [session.backend_options["dev_id"] for session in sessions]
        return dict(zip(device_ids, results, strict=True)), not ctrl_c.is_pressed


async def _call_all(threads: Executor, functions: Sequence[Callable[[], T]]) -> list[T]:
    """Call every function at the same time, each on a thread; the first error is raised at once."""
    loop = asyncio.get_running_loop()
    return await asyncio.gather(*(loop.run_in_executor(threads, each) for each in functions))


def _record(result: BenchmarkResult) -> dict[str, Any]:
    return {
        "inferences": result.inf_completed,
        "inferences_per_s": result.inf_rate,
        "samples_per_s": result.inf_rate * result.batch_size,
        "seconds": result.inf_time,
    }


def _total(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Total of the host: the sum of counts and rates, and the longest time."""
    added = ("inferences", "inferences_per_s", "samples_per_s")
    return {
        **{key: sum(record[key] for record in records) for key in added},
        "seconds": max(record["seconds"] for record in records),
    }


def _print_tables(measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one table, with a column for the model if models have names."""
    columns, rows = COLUMNS, []
    if UNNAMED not in measured:
        columns = {"model": "<", **COLUMNS}
    for model, result in measured.items():
        records = {**result["devices"], "total": result["total"]}
        cells = [_row(str(device), record) for device, record in records.items()]
        rows += [(model, *row) if model else row for row in cells]
    print(format_table(columns, rows))


def _row(name: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        str(record["inferences"]),
        f"{record['inferences_per_s']:.1f}",
        f"{record['samples_per_s']:.1f}",
        f"{record['seconds']:.3f}",
    )
