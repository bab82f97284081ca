"""MLPerf's four scenarios as plans.

Rules of this file:
- The numbers are from MLPerf's inference rules: 600 s, 24,576 samples in Offline, 8 samples per
  query in MultiStream, p90 for SingleStream and p99 for the others.
- A given duration replaces the official one; the verdict says that the length is not official.
- Offline is a burst of requests of one sample each; the target batches them.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from qaic_sched.errors import ConfigError
from qaic_sched.loadgen.plan.plan import Burst, Plan, Poisson, Rules

if TYPE_CHECKING:
    from qaic_sched.loadgen.plan.plan import Scenario, Slo

__all__ = [
    "OFFICIAL_S",
    "OFFLINE_SAMPLES",
    "PERCENTILES",
    "SAMPLES_PER_QUERY",
    "is_official",
    "plan_for",
]

OFFICIAL_S = 600.0
"""Shortest run with an official result."""
OFFLINE_SAMPLES = 24_576
SAMPLES_PER_QUERY = 8
"""The size of a query in MultiStream."""
BURST_MARGIN = 1.1
"""Size of a burst over the samples that the expected rate completes, as in LoadGen."""

DRAIN_S = 60.0
MAX_OVERTIME = 3.0
"""A burst is given up after this multiple of the expected time."""

PERCENTILES = {"single_stream": 90.0, "multi_stream": 99.0, "server": 99.0, "offline": 99.0}
_MIN_REQUESTS = {"single_stream": 64, "multi_stream": 662, "server": 662}
"""The fewest requests with which LoadGen's early stopping gives a bound."""


def is_official(scenario: Scenario) -> bool:
    """Return whether a scenario is one of MLPerf's."""
    return scenario in PERCENTILES


def plan_for(
    scenario: Scenario,
    *,
    rate: float | None = None,
    duration_s: float | None = None,
    slo: Slo | None = None,
    samples: int | None = None,
    seed: int = 1,
    timeout_s: float | None = None,
) -> Plan:
    """Return the plan of an MLPerf scenario; raise `ConfigError` for missing parameters.

    `rate` is the rate of Server, and for Offline the expected one, which determines the size of the
    burst. `samples` is the least number of samples.
    """
    if not is_official(scenario):
        raise ConfigError(f"{scenario}: not a scenario of MLPerf ({', '.join(PERCENTILES)})")
    length_s = OFFICIAL_S if duration_s is None else duration_s
    if length_s <= 0:
        raise ConfigError(f"duration: must be above 0, not {length_s:g}")
    arrivals: Poisson | Burst | None = None
    percentile = PERCENTILES[scenario]
    samples_per_request = SAMPLES_PER_QUERY if scenario == "multi_stream" else 1
    if scenario == "offline":
        min_requests = max(
            samples or OFFLINE_SAMPLES, ceil(BURST_MARGIN * (rate or 0.0) * length_s)
        )
        arrivals = Burst(min_requests)
    else:
        asked = ceil(samples / samples_per_request) if samples else 0
        min_requests = asked or _MIN_REQUESTS[scenario]
    if scenario == "server":
        if rate is None or rate <= 0 or slo is None:
            raise ConfigError("server: needs a rate above 0 and a limit of the latency (an SLO)")
        arrivals = Poisson(rate)
        percentile = slo.percentile
    return Plan(
        scenario=scenario,
        arrivals=arrivals,
        duration_s=length_s,
        samples_per_request=samples_per_request,
        seed=seed,
        timeout_s=timeout_s,
        # A burst is sent at once, so its work is done during the drain.
        drain_s=DRAIN_S + (MAX_OVERTIME * length_s if scenario == "offline" else 0.0),
        rules=Rules(
            min_duration_s=length_s,
            percentile=percentile,
            slo=slo,
            needs_steady_state=scenario != "offline",
            min_requests=min_requests,
        ),
    )
