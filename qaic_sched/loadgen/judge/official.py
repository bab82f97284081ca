"""MLPerf's score of a run, and whether the run has an official length."""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING

from qaic_sched.errors import ConfigError
from qaic_sched.loadgen.plan.scenarios import (
    OFFICIAL_S,
    OFFLINE_SAMPLES,
    PERCENTILES,
    is_official,
)
from qaic_sched.loadgen.report.report import RuleResult

if TYPE_CHECKING:
    from qaic_sched.loadgen.plan.plan import Plan
    from qaic_sched.loadgen.report.report import Report

__all__ = ["official_length", "score"]


def official_length(plan: Plan) -> RuleResult:
    """Return a rule that states whether MLPerf accepts a run of this length; it always holds."""
    length_s = plan.rules.min_duration_s
    samples = plan.rules.min_requests
    too_short = length_s < OFFICIAL_S
    too_few = plan.scenario == "offline" and samples < OFFLINE_SAMPLES
    if too_short:
        text = f"{length_s:g} s is not an official length: MLPerf requires {OFFICIAL_S:g} s"
    elif too_few:
        text = f"{samples:,} samples are too few for MLPerf, which requires {OFFLINE_SAMPLES:,}"
    else:
        text = f"{length_s:g} s is an official length"
    return RuleResult(
        name="official_length", holds=True, text=text, value=length_s, limit=OFFICIAL_S
    )


def score(report: Report) -> tuple[str, float, str]:
    """Return name, value and unit of MLPerf's score; the value is nan if the run has none.

    Raises `ConfigError` for a scenario that is not MLPerf's.
    """
    scenario = report.plan.scenario
    if scenario == "server":
        return "scheduled samples per second", report.scheduled_rate, "samples/s"
    if scenario == "offline":
        return "samples per second", report.completed_rate, "samples/s"
    if not is_official(scenario):
        raise ConfigError(f"{scenario}: not a scenario of MLPerf, so there is no score")
    percentile = PERCENTILES[scenario]
    return f"{percentile:g}th percentile of the latency", _latency(report, percentile), "s"


def _latency(report: Report, percentile: float) -> float:
    """Return the bound of early stopping, as LoadGen does, else the percentile."""
    stopping = report.early_stopping
    if stopping.percentile == percentile and stopping.bound_s is not None:
        return stopping.bound_s
    of_all = report.scheduled.percentiles if report.scheduled is not None else ()
    values = (each.value_s for each in of_all if each.percentile == percentile)
    value = next(values, None)
    return nan if value is None else value
