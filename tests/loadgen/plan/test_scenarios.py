"""MLPerf's scenarios as plans."""

from __future__ import annotations

from typing import Any

import pytest

from qaic_sched.errors import ConfigError
from qaic_sched.loadgen.plan.plan import Burst, Poisson, Slo
from qaic_sched.loadgen.plan.scenarios import plan_for

LIMIT = Slo(99.0, 0.015)


def test_single_stream_is_one_caller_and_p90() -> None:
    """SingleStream is a closed loop of one caller for 600 s, with at least 64 requests."""
    plan = plan_for("single_stream", seed=3)

    assert (plan.arrivals, plan.concurrency, plan.samples_per_request) == (None, 1, 1)
    assert (plan.rules.percentile, plan.rules.min_requests) == (90.0, 64)
    assert (plan.duration_s, plan.rules.min_duration_s, plan.seed) == (600.0, 600.0, 3)


def test_multi_stream_is_one_caller_of_queries_of_eight() -> None:
    """MultiStream needs 662 queries for its p99; `samples` are divided by 8."""
    plan = plan_for("multi_stream")

    assert (plan.arrivals, plan.concurrency, plan.samples_per_request) == (None, 1, 8)
    assert (plan.rules.percentile, plan.rules.min_requests) == (99.0, 662)
    assert plan_for("multi_stream", samples=17).rules.min_requests == 3


def test_server_is_poisson_within_its_limit() -> None:
    """Server has the given rate, and the SLO as its rule and percentile."""
    plan = plan_for("server", rate=5000.0, slo=LIMIT, timeout_s=1.0)

    assert plan.arrivals == Poisson(5000.0)
    assert (plan.rules.slo, plan.rules.percentile, plan.timeout_s) == (LIMIT, 99.0, 1.0)
    assert plan_for("server", rate=1.0, slo=Slo(95.0, 1.0)).rules.percentile == 95.0


@pytest.mark.parametrize("given", [{"rate": 5000.0}, {"slo": LIMIT}, {"rate": 0.0, "slo": LIMIT}])
def test_server_needs_a_rate_and_a_limit(given: dict[str, Any]) -> None:
    """Server without a rate or an SLO raises `ConfigError`."""
    with pytest.raises(ConfigError, match="rate above 0 and a limit"):
        plan_for("server", **given)


def test_offline_is_one_burst_that_lasts() -> None:
    """Offline has 24,576 samples, or 10 % more than the expected rate completes."""
    plan = plan_for("offline")

    assert plan.arrivals == Burst(24_576)
    assert plan.rules.min_requests == 24_576
    assert not plan.rules.needs_steady_state
    assert plan_for("offline", rate=1000.0).arrivals == Burst(660_000)
    assert plan_for("offline", rate=1000.0, duration_s=2.0).arrivals == Burst(24_576)
    assert plan_for("offline", samples=100).arrivals == Burst(100)
