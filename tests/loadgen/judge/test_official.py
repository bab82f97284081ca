"""MLPerf's score and official length."""

from __future__ import annotations

from math import isnan

import pytest

from qaic_sched.errors import ConfigError
from qaic_sched.loadgen.judge.official import official_length, score
from qaic_sched.loadgen.plan.plan import Plan, Slo
from qaic_sched.loadgen.plan.scenarios import plan_for
from tests.loadgen.scored_report import scored_report

LIMIT = Slo(99.0, 0.015)


def test_other_scenarios_are_not_mlperfs() -> None:
    """An open loop has no MLPerf plan and no score."""
    with pytest.raises(ConfigError, match="open: not a scenario of MLPerf"):
        plan_for("open")
    with pytest.raises(ConfigError, match="there is no score"):
        score(scored_report(Plan(scenario="open"), None))


def test_a_duration_that_is_given_holds_but_is_not_official() -> None:
    """A given duration replaces the official one, and the rule states both."""
    short = plan_for("single_stream", duration_s=60.0)
    rule = official_length(short)

    assert short.duration_s == short.rules.min_duration_s == 60.0
    assert rule.holds
    assert rule.text == "60 s is not an official length: MLPerf requires 600 s"
    assert official_length(plan_for("server", rate=1.0, slo=LIMIT)).text.startswith("600 s is an")
    assert "too few for MLPerf" in official_length(plan_for("offline", samples=5)).text
    with pytest.raises(ConfigError, match="duration: must be above 0"):
        plan_for("offline", duration_s=0.0)


def test_each_scenario_has_its_score() -> None:
    """Server is scored by its scheduled rate, Offline by its completed rate, others by latency."""
    server = plan_for("server", rate=5000.0, slo=LIMIT)

    assert score(scored_report(server, None)) == (
        "scheduled samples per second",
        4973.0,
        "samples/s",
    )
    assert score(scored_report(plan_for("offline"), None))[1] == 4960.0
    assert score(scored_report(plan_for("single_stream"), 0.004, 0.003)) == (
        "90th percentile of the latency",
        0.004,
        "s",
    )


def test_a_latency_without_its_bound_is_scored_by_itself() -> None:
    """Without its bound, the score is the percentile, or nan."""
    assert score(scored_report(plan_for("multi_stream"), 0.004, 0.003))[1] == pytest.approx(0.03)
    assert score(scored_report(plan_for("single_stream"), None, 0.003))[1] == 0.003
    assert isnan(score(scored_report(plan_for("single_stream"), None))[1])
