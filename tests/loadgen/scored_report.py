"""A report with only the latency that MLPerf scores."""

from __future__ import annotations

from typing import Any

from qaic_sched.loadgen.plan.plan import Plan
from qaic_sched.loadgen.report.report import (
    Counts,
    EarlyStopping,
    Latency,
    Percentile,
    Report,
    Series,
    Verdict,
    WarmUp,
)


def scored_report(plan: Plan, bound_s: float | None, value_s: float | None = None) -> Report:
    """Make a report with a bound of p90, a p90 of `value_s` and a p99 of ten times that."""
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
        response=None,
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
