"""MLPerf's scenarios as plans, and their scores."""

from __future__ import annotations

from math import isnan
from typing import Any

import pytest

from qaic_sched.errors import ConfigError
from qaic_sched.loadgen.plan import Burst, Plan, Poisson, Slo
from qaic_sched.loadgen.report import (
    Counts,
    EarlyStopping,
    Latency,
    Percentile,
    Report,
    Series,
    Verdict,
    WarmUp,
)
from qaic_sched.loadgen.scenarios import official_length, plan_for, score

LIMIT = Slo(99.0, 0.015)


def report(plan: Plan, bound_s: float | None, value_s: float | None = None) -> Report:
    """A report whose bound is of p90, and whose p90 and p99 are `value_s` and ten times that."""
    percentiles = tuple(
        Percentile(percentile=p, value_s=value, low_s=None, high_s=None, floor=1)
        for p, value in ((90.0, value_s), (99.0, value_s and value_s * 10))
    )
    values: dict[str, Any] = dict.fromkeys(("mean_s", "min_s", "max_s"), 0.0)
    latency = Latency(count=1, percentiles=percentiles, curve=(), **values)
    names = "planned sent done failed expired rejected cancelled unresolved measured"
    return Report(
        target="test",
        plan=plan,
        schedule_hash=None,
        verdict=Verdict(True, ()),
        duration_s=1.0,
        counts=Counts(**dict.fromkeys(names.split(), 1)),
        asked_rate=None,
        scheduled_rate=4973.0,
        completed_rate=4960.0,
        scheduled=latency,
        service=None,
        lag=None,
        early_stopping=EarlyStopping(percentile=90.0, bound_s=bound_s, needed=64),
        warm_up=WarmUp(until_s=0.0, excluded=0, rule="", is_steady=True, trend=""),
        devices=(),
        balance={},
        checks=(),
        series=Series(
            window_s=1.0,
            arrivals=(),
            completions=(),
            in_flight=(),
            queued_samples=(),
            p50_s=(),
            p99_s=(),
            utilisation={},
        ),
        problems={},
    )


def test_single_stream_is_one_caller_and_p90() -> None:
    """A closed loop of 1, for 600 s, 64 requests at least."""
    plan = plan_for("single_stream", seed=3)

    assert (plan.arrivals, plan.concurrency, plan.samples_per_request) == (None, 1, 1)
    assert (plan.rules.percentile, plan.rules.min_requests) == (90.0, 64)
    assert (plan.duration_s, plan.rules.min_duration_s, plan.seed) == (600.0, 600.0, 3)


def test_multi_stream_is_one_caller_of_queries_of_eight() -> None:
    """p99 of 662 queries at least; `samples` count in eights."""
    plan = plan_for("multi_stream")

    assert (plan.arrivals, plan.concurrency, plan.samples_per_request) == (None, 1, 8)
    assert (plan.rules.percentile, plan.rules.min_requests) == (99.0, 662)
    assert plan_for("multi_stream", samples=17).rules.min_requests == 3


def test_server_is_poisson_within_its_limit() -> None:
    """The rate is asked for, the limit is a rule, the percentile that of the limit."""
    plan = plan_for("server", rate=5000.0, slo=LIMIT, timeout_s=1.0)

    assert plan.arrivals == Poisson(5000.0)
    assert (plan.rules.slo, plan.rules.percentile, plan.timeout_s) == (LIMIT, 99.0, 1.0)
    assert plan_for("server", rate=1.0, slo=Slo(95.0, 1.0)).rules.percentile == 95.0


@pytest.mark.parametrize("given", [{"rate": 5000.0}, {"slo": LIMIT}, {"rate": 0.0, "slo": LIMIT}])
def test_server_needs_a_rate_and_a_limit(given: dict[str, Any]) -> None:
    """Without either there is nothing to score."""
    with pytest.raises(ConfigError, match="rate above 0 and a limit"):
        plan_for("server", **given)


def test_offline_is_one_burst_that_lasts() -> None:
    """24,576 samples, or a tenth more than the expected rate needs for the duration."""
    plan = plan_for("offline")

    assert plan.arrivals == Burst(24_576)
    assert plan.rules.min_requests == 24_576
    assert not plan.rules.needs_steady_state
    assert plan_for("offline", rate=1000.0).arrivals == Burst(660_000)
    assert plan_for("offline", rate=1000.0, duration_s=2.0).arrivals == Burst(24_576)
    assert plan_for("offline", samples=100).arrivals == Burst(100)


def test_other_scenarios_are_not_mlperfs() -> None:
    """An open loop of our own has no rules there, and no score."""
    with pytest.raises(ConfigError, match="open: not a scenario of MLPerf"):
        plan_for("open")
    with pytest.raises(ConfigError, match="has no score"):
        score(report(Plan(scenario="open"), None))


def test_a_duration_that_is_given_holds_but_is_not_official() -> None:
    """The run is held to what was asked, and says what MLPerf asks."""
    short = plan_for("single_stream", duration_s=60.0)
    rule = official_length(short)

    assert short.duration_s == short.rules.min_duration_s == 60.0
    assert rule.holds
    assert rule.text == "60 s are not an official length: MLPerf asks for 600 s"
    assert official_length(plan_for("server", rate=1.0, slo=LIMIT)).text.startswith("600 s are an")
    assert "not an official number" in official_length(plan_for("offline", samples=5)).text
    with pytest.raises(ConfigError, match="duration: 0 s"):
        plan_for("offline", duration_s=0.0)


def test_each_scenario_has_its_score() -> None:
    """Server is scored by what was scheduled, Offline by what was done, the others by latency."""
    server = plan_for("server", rate=5000.0, slo=LIMIT)

    assert score(report(server, None)) == ("scheduled samples per second", 4973.0, "samples/s")
    assert score(report(plan_for("offline"), None))[1] == 4960.0
    assert score(report(plan_for("single_stream"), 0.004, 0.003)) == (
        "90th percentile of the latency",
        0.004,
        "s",
    )


def test_a_latency_without_its_bound_is_scored_by_itself() -> None:
    """The bound of another percentile says nothing; with no number at all the score is none."""
    assert score(report(plan_for("multi_stream"), 0.004, 0.003))[1] == pytest.approx(0.03)
    assert score(report(plan_for("single_stream"), None, 0.003))[1] == 0.003
    assert isnan(score(report(plan_for("single_stream"), None))[1])
