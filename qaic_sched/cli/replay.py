"""`qaic-sched replay`: replay an event log and compare every decision."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qaic_sched.cli.output import format_table, print_json, say
from qaic_sched.scheduler.replay import replay as replay_log

if TYPE_CHECKING:
    from qaic_sched.scheduler.event_log import Decision
    from qaic_sched.scheduler.replay import ReplayResult

__all__ = ["replay"]


def replay(
    log: Annotated[
        Path, typer.Argument(metavar="LOG", help="Event log: the file named by `event_log`.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Replay an event log and compare every decision.

    Sends the logged arrivals and execution times through the scheduler's core in virtual time. The
    exit status is 1 if a decision differs from the log.
    """
    result = replay_log(log)
    if as_json:
        print_json(result)
    else:
        _print_result(result)
    if result.is_cut_off:
        say(f"{log}: the log ends early: its last lines are ignored")
    difference = result.difference
    if difference is not None:
        logged, replayed = map(_shown, (difference.logged, difference.replayed))
        say(f"{log}:{difference.line}: the log has {logged}, the replay {replayed}")
        raise typer.Exit(1)


def _print_result(result: ReplayResult) -> None:
    logged, replayed = asdict(result.logged), asdict(result.replayed)
    rows = [(name, str(count), str(replayed[name])) for name, count in logged.items()]
    print(format_table({"decisions": "<", "log": ">", "replay": ">"}, rows))
    verdict = "the same decisions" if result.difference is None else "the decisions differ"
    print(
        f"\n{result.model}: {result.requests} requests in {result.duration_s:.3f} s: {verdict} "
        f"in {result.calls} calls to the core"
    )


def _shown(decision: Decision | None) -> str:
    return "nothing" if decision is None else msgspec.json.encode(decision).decode()
