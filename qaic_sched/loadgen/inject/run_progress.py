"""How far the run is that is going on, for whoever looks on: `terminal.LiveView`."""

from __future__ import annotations

import asyncio

from qaic_sched.clock import clock_of
from qaic_sched.loadgen.inject.injector import RunCounters

__all__ = ["RunProgress"]


class RunProgress:
    """The injector's counters with times beside them; of several runs, those of the latest."""

    def __init__(self) -> None:
        self.counters = RunCounters()
        self._begun_at: float | None = None

    def begin(self) -> RunCounters:
        """New counters for a run that begins now."""
        self.counters = RunCounters()
        self._begun_at = clock_of(asyncio.get_running_loop())()
        return self.counters

    @property
    def planned(self) -> int | None:
        """Requests that are due in all; None where nobody knows."""
        return self.counters.planned

    @property
    def sent(self) -> int:
        """Requests sent so far."""
        return self.counters.sent

    @property
    def done(self) -> int:
        """Requests that have their answer so far, errors included."""
        return self.counters.done

    @property
    def errors(self) -> int:
        """Requests of these that have no outputs."""
        return self.counters.errors

    @property
    def elapsed_s(self) -> float:
        """Since the run began."""
        if self._begun_at is None:
            return 0.0
        return clock_of(asyncio.get_running_loop())() - self._begun_at

    @property
    def p50_s(self) -> float | None:
        """Of the latency from the planned instant; None before the first answer."""
        return self._percentile(50)

    @property
    def p99_s(self) -> float | None:
        """The same for p99."""
        return self._percentile(99)

    def _percentile(self, q: float) -> float | None:
        latency = self.counters.latency
        return latency.percentile(q) if latency.count else None
