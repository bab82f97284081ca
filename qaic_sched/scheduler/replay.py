"""Runs the events of a log through the core once more and compares what it decides.

The core is given each event at its recorded time, together with those that it came with. So it
decides the same, to the last line, unless its rules have changed; and what broke it breaks it
again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from os import fspath
from typing import TYPE_CHECKING

from qaic_sched.core.model import Request
from qaic_sched.core.state import SchedulerState
from qaic_sched.errors import InternalError
from qaic_sched.scheduler.event_log import Dispatch, EventLogReader, Reload, Resolve, decisions_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    from qaic_sched.scheduler.event_log import Call, Decision

__all__ = ["Difference", "ReplayResult", "Tally", "replay"]


@dataclass(frozen=True)
class Difference:
    """The first decision that is not the same; None is no decision.

    `line` is where it stands in the log, or should.
    """

    line: int
    logged: Decision | None
    replayed: Decision | None


@dataclass
class Tally:
    """What was decided, counted; requests by what became of them."""

    batches: int = 0
    samples: int = 0
    padding: int = 0
    hedges: int = 0
    reloads: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    rejected: int = 0

    def count(self, decisions: Iterable[Decision]) -> None:
        """Add some decisions."""
        for decision in decisions:
            if isinstance(decision, Dispatch):
                samples = sum(samples for _, _, samples in decision.parts)
                self.batches += 1
                self.samples += samples
                self.padding += decision.size - samples
                self.hedges += decision.is_hedge
            elif isinstance(decision, Reload):
                self.reloads += 1
            elif isinstance(decision, Resolve):
                outcome = decision.state.value
                setattr(self, outcome, getattr(self, outcome) + 1)


@dataclass
class ReplayResult:
    """How far the log and the replay agree, and both counted as far as the replay went.

    `duration_s` is of the scheduler's clock. `is_cut_off` says that the log ended early: the run
    crashed, and its last call is left out.
    """

    model: str
    calls: int = 0
    requests: int = 0
    duration_s: float = 0.0
    logged: Tally = field(default_factory=Tally)
    replayed: Tally = field(default_factory=Tally)
    difference: Difference | None = None
    is_cut_off: bool = False


def replay(path: str | PathLike[str]) -> ReplayResult:
    """Replay an event log, up to the first decision that is not the same.

    `ConfigError` if the file is no event log of this version; `InternalError` where an event
    breaks the core, which is what happened in the run, if the log ends there.
    """
    with EventLogReader(fspath(path)) as log:
        core = SchedulerState(log.policy)
        result = ReplayResult(log.model)
        began_at = None
        for call in log:
            began_at = call.at if began_at is None else began_at
            try:
                commands = core.handle(call.at, call.events)
            except Exception as error:
                where = f"{log.path}:{call.first_line}"
                raise InternalError(f"{where}: what came here breaks the core: {error}") from error
            result.calls += 1
            result.requests += sum(isinstance(event, Request) for event in call.events)
            result.duration_s = call.at - began_at
            replayed = list(decisions_of(call.number, call.at, commands))
            result.logged.count(call.decisions)
            result.replayed.count(replayed)
            result.difference = _first_difference(call, replayed)
            if result.difference is not None:
                break
        result.is_cut_off = log.is_cut_off
    return result


def _first_difference(call: Call, replayed: list[Decision]) -> Difference | None:
    first_line = call.last_line + 1 - len(call.decisions)
    pairs = zip_longest(call.decisions, replayed)
    for line, (logged, again) in enumerate(pairs, first_line):
        if logged != again:
            return Difference(line, logged, again)
    return None
