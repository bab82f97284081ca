"""Replays an event log: runs its events through a core again and compares the decisions.

The core gets each event at the recorded time, together with the other events of its call. So all
decisions repeat unless the rules of the core have changed, and an event that broke the core breaks
it again.
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
    """The first decision that differs; None stands for a decision that is missing.

    `line` is the line number of the logged decision, or where it is missing.
    """

    line: int
    logged: Decision | None
    replayed: Decision | None


@dataclass
class Tally:
    """Counts of decisions, and of requests by outcome."""

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
        """Count some decisions."""
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
    """The result of a replay, which ends at the first difference; the counts end there too.

    `duration_s` is in seconds of the scheduler's clock. `is_cut_off` is True if the log ends early
    because the run crashed; its last call is then left out.
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
    """Replay an event log up to the first decision that differs.

    Raises `ConfigError` if the file is not an event log of this version, and `InternalError` if an
    event breaks the core. If the log ends there, the run had ended with the same error.
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
                raise InternalError(
                    f"{where}: the events of this call break the core: {error}"
                ) from error
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
