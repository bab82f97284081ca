"""The progress of the current run, for `show.terminal.LiveView`."""

from __future__ import annotations

import asyncio

from qaic_sched.clock import clock_of
from qaic_sched.loadgen.inject.injector import RunCounters

__all__ = ["RunProgress"]


class RunProgress:
    """The injector's counters and the elapsed time, of the latest run."""

    def __init__(self) -> None:
        self.counters = RunCounters()
        self._begun_at: float | None = None

    def begin(self) -> RunCounters:
        """Return new counters for a run that begins now."""
        self.counters = RunCounters()
        self._begun_at = clock_of(asyncio.get_running_loop())()
        return self.counters

    @property
    def planned(self) -> int | None:
        """Requests of the whole run; None if the number is not known."""
        return self.counters.planned

    @property
    def sent(self) -> int:
        """Requests sent so far."""
        return self.counters.sent

    @property
    def done(self) -> int:
        """Requests answered so far, errors included."""
        return self.counters.done

    @property
    def errors(self) -> int:
        """Answered requests without outputs."""
        return self.counters.errors

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        if self._begun_at is None:
            return 0.0
        return clock_of(asyncio.get_running_loop())() - self._begun_at

    @property
    def p50_s(self) -> float | None:
        """Median latency from the planned instant; None before the first answer."""
        return self._percentile(50)

    @property
    def p99_s(self) -> float | None:
        """p99 of the latency; None before the first answer."""
        return self._percentile(99)

    def _percentile(self, q: float) -> float | None:
        latency = self.counters.latency
        return latency.percentile(q) if latency.count else None
