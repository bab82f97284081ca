"""MLPerf's four scenarios by their rules, as plans.

Rules of this file:
- Numbers are those of MLPerf's inference rules: 600 s, 24,576 samples offline, queries of 8 samples
  in MultiStream, p90 of SingleStream and p99 of the others.
- Who gives a duration gets a run of that length, held to it, and a sentence that it is no official
  one.
- Offline is a burst of requests of one sample each: to batch them is the target's business.
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
"""Shortest run of an official result."""
OFFLINE_SAMPLES = 24_576
SAMPLES_PER_QUERY = 8
"""Of MultiStream."""
MARGIN = 1.1
"""A burst has so many times the samples that the expected rate needs, as LoadGen's does."""

DRAIN_S = 60.0
MOST_OVERTIME = 3.0
"""A burst that takes so many times as long as was expected is given up."""

PERCENTILES = {"single_stream": 90.0, "multi_stream": 99.0, "server": 99.0, "offline": 99.0}
_MIN_REQUESTS = {"single_stream": 64, "multi_stream": 662, "server": 662}
"""What LoadGen's early stopping needs for that percentile, one of them beyond it."""


def is_official(scenario: Scenario) -> bool:
    """Whether it is one of MLPerf's."""
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
    """The plan of a scenario of MLPerf; `ConfigError` names what it needs and was not given.

    `rate` is Server's; for Offline it is what the target is expected to reach, so that the burst
    lasts. `samples` are how many there must be at least.
    """
    if not is_official(scenario):
        raise ConfigError(f"{scenario}: not a scenario of MLPerf: {', '.join(PERCENTILES)}")
    length_s = OFFICIAL_S if duration_s is None else duration_s
    if length_s <= 0:
        raise ConfigError(f"duration: {length_s:g} s is no time to measure in")
    arrivals: Poisson | Burst | None = None
    percentile = PERCENTILES[scenario]
    samples_per_request = SAMPLES_PER_QUERY if scenario == "multi_stream" else 1
    if scenario == "offline":
        min_requests = max(samples or OFFLINE_SAMPLES, ceil(MARGIN * (rate or 0.0) * length_s))
        arrivals = Burst(min_requests)
    else:
        asked = ceil(samples / samples_per_request) if samples else 0
        min_requests = asked or _MIN_REQUESTS[scenario]
    if scenario == "server":
        if rate is None or rate <= 0 or slo is None:
            raise ConfigError("server: it needs a rate above 0 and a limit of the latency")
        arrivals = Poisson(rate)
        percentile = slo.percentile
    return Plan(
        scenario=scenario,
        arrivals=arrivals,
        duration_s=length_s,
        samples_per_request=samples_per_request,
        seed=seed,
        timeout_s=timeout_s,
        # A burst is all sent at once: what others do while they send, it does in the drain.
        drain_s=DRAIN_S + (MOST_OVERTIME * length_s if scenario == "offline" else 0.0),
        rules=Rules(
            min_duration_s=length_s,
            percentile=percentile,
            slo=slo,
            needs_steady_state=scenario != "offline",
            min_requests=min_requests,
        ),
    )
