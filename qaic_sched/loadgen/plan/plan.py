"""What a run sends, when, and what it is held to: all that makes it repeatable.

A plan is plain data that stands in the report as it is; nothing here sends or draws anything.
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
    """Requests at equal distances."""

    rate: float


class Poisson(Struct, frozen=True, tag="poisson"):
    """Requests of many independent callers."""

    rate: float


class Gamma(Struct, frozen=True, tag="gamma"):
    """Gaps with this coefficient of variation: above 1 burstier than Poisson, below 1 calmer."""

    rate: float
    cv: float


class Mmpp(Struct, frozen=True, tag="mmpp"):
    """Poisson whose rate switches between two states; stays are exponential, the mean is `rate`."""

    rate: float
    burst_factor: float = 4.0
    """How many times the mean rate is that of the busy state; at most 1 / `burst_share`."""
    burst_share: float = 0.1
    """Share of the time in the busy state."""
    cycle_s: float = 1.0
    """Mean seconds from the begin of one busy state to that of the next."""


class Step(Struct, frozen=True, tag="step"):
    """Poisson at one rate after the other, each for an equal part of the run."""

    rates: tuple[float, ...]


class Ramp(Struct, frozen=True, tag="ramp"):
    """Poisson whose rate changes evenly from one to another."""

    from_rate: float
    to_rate: float


class Trace(Struct, frozen=True, tag="trace"):
    """The arrivals of a file, `speedup` times as fast."""

    path: str
    speedup: float = 1.0


class Burst(Struct, frozen=True, tag="burst"):
    """All requests at once, at the beginning (MLPerf's Offline)."""

    count: int


Arrivals: TypeAlias = Constant | Poisson | Gamma | Mmpp | Step | Ramp | Trace | Burst


class Slo(Struct, frozen=True):
    """A promise: this percentile of the latency is at most this long."""

    percentile: float
    """99.0 for p99."""
    limit_s: float


class Rules(Struct, frozen=True, kw_only=True):
    """What a run is held to; a run that breaks one is INVALID."""

    min_duration_s: float = 10.0
    percentile: float = 99.0
    """The highest percentile that is claimed: it needs enough samples."""
    slo: Slo | None = None
    max_error_share: float = 0.0
    """Failed, expired, rejected and unresolved requests, of all that were sent."""
    max_lag_share: float = 0.1
    """p99 of the dispatch lag, of the p50 of the latency."""
    needs_steady_state: bool = True
    min_requests: int = 0


class Plan(Struct, frozen=True, kw_only=True):
    """One run."""

    scenario: Scenario
    arrivals: Arrivals | None = None
    """Open loop: when requests are due. None is a closed loop."""
    concurrency: int = 1
    """Closed loop: so many requests are always out, each caller sends its next at the answer."""
    duration_s: float = 30.0
    """Requests are sent for so long; then the last answers are awaited."""
    max_requests: int | None = None
    """... or until so many were sent."""
    samples_per_request: int = 1
    seed: int = 1
    timeout_s: float | None = None
    """What each request is given; None is no deadline."""
    drain_s: float = 60.0
    """So long the last answers are awaited; who has none by then is unresolved."""
    is_precise: bool = False
    """Spin through the last 1.5 ms before each send: exact, and one core busy."""
    rules: Rules = Rules()
