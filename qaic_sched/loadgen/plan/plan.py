"""The plan of a run: what it sends, when, and the rules for its result.

A plan is plain data, and part of the report. Two runs of one plan in virtual time are equal.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

__all__ = [
    "Arrivals",
    "Burst",
    "Constant",
    "Gamma",
    "Mmpp",
    "Plan",
    "Poisson",
    "Ramp",
    "Rules",
    "Scenario",
    "Slo",
    "Step",
    "Trace",
]

Scenario: TypeAlias = Literal[
    "open", "closed", "single_stream", "multi_stream", "server", "offline"
]


class Constant(Struct, frozen=True, tag="constant"):
    """Requests at equal intervals."""

    rate: float


class Poisson(Struct, frozen=True, tag="poisson"):
    """Poisson arrivals: requests of many independent callers."""

    rate: float


class Gamma(Struct, frozen=True, tag="gamma"):
    """Gamma-distributed gaps; a `cv` above 1 is burstier than Poisson, below 1 more regular."""

    rate: float
    cv: float
    """Coefficient of variation of the gaps."""


class Mmpp(Struct, frozen=True, tag="mmpp"):
    """Poisson arrivals whose rate switches between a busy and a calm state (mean `rate`).

    The time in a state is exponentially distributed.
    """

    rate: float
    burst_factor: float = 4.0
    """Rate of the busy state over the mean rate; at most 1 / `burst_share`."""
    burst_share: float = 0.1
    """Share of the time in the busy state."""
    cycle_s: float = 1.0
    """Mean seconds from the start of one busy state to the start of the next."""


class Step(Struct, frozen=True, tag="step"):
    """Poisson arrivals at several rates in order, each for an equal part of the run."""

    rates: tuple[float, ...]


class Ramp(Struct, frozen=True, tag="ramp"):
    """Poisson arrivals whose rate changes linearly over the run."""

    from_rate: float
    to_rate: float


class Trace(Struct, frozen=True, tag="trace"):
    """The arrivals recorded in a file, replayed `speedup` times as fast."""

    path: str
    speedup: float = 1.0


class Burst(Struct, frozen=True, tag="burst"):
    """`count` requests at the beginning of the run (MLPerf's Offline)."""

    count: int


Arrivals: TypeAlias = Constant | Poisson | Gamma | Mmpp | Step | Ramp | Trace | Burst


class Slo(Struct, frozen=True):
    """A service level objective: an upper limit of one percentile of the latency."""

    percentile: float
    """From 0 to 100: 99.0 is p99."""
    limit_s: float


class Rules(Struct, frozen=True, kw_only=True):
    """The rules for a run's result; a run that breaks one is INVALID."""

    min_duration_s: float = 10.0
    percentile: float = 99.0
    """The highest percentile to be claimed, which determines the samples needed."""
    slo: Slo | None = None
    max_error_share: float = 0.0
    """Largest share of the planned requests that may have no outputs."""
    max_lag_share: float = 0.1
    """Largest p99 of the dispatch lag, as a share of the p50 of the latency."""
    needs_steady_state: bool = True
    min_requests: int = 0


class Plan(Struct, frozen=True, kw_only=True):
    """One run of a load test."""

    scenario: Scenario
    arrivals: Arrivals | None = None
    """When requests are due in an open loop; None for a closed loop."""
    concurrency: int = 1
    """Callers of a closed loop; each sends its next request when it has its answer."""
    duration_s: float = 30.0
    """Time of sending; the last answers are awaited afterwards."""
    max_requests: int | None = None
    """Stop sending after this number of requests, if `duration_s` is not over."""
    samples_per_request: int = 1
    seed: int = 1
    timeout_s: float | None = None
    """Time limit of each request; None for no deadline."""
    drain_s: float = 60.0
    """Longest wait for the last answers; requests without one are then unresolved."""
    is_precise: bool = False
    """Spin during the last 1.5 ms before each send: exact, and keeps one core busy."""
    rules: Rules = Rules()
