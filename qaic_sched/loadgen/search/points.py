"""One run of a search: its numbers as a point, and whether it passes.

A run passes if it meets the SLO, by the percentile and, given enough samples, by its bound at 99 %
confidence, and breaks no rule except those on the length of a run: runs of a search are short. A
run with a late injector shows nothing about the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qaic_sched.loadgen.report.formats import number
from qaic_sched.loadgen.report.report import Point

if TYPE_CHECKING:
    from qaic_sched.loadgen.plan.plan import Slo
    from qaic_sched.loadgen.report.report import Report

__all__ = ["LATE_RULE", "JudgedRun", "judged", "late_note", "meets_slo", "point_of"]

LATE_RULE = "injector_on_time"
LENGTH_RULES = {"duration", "samples", "requests"}
"""Rules that a short run may break."""
SLO_RULE = "slo"
"""Judged here, with the SLO of the search."""


@dataclass(frozen=True, slots=True)
class JudgedRun:
    """One run of a search, judged."""

    point: Point
    passes: bool
    is_late: bool
    """Whether the injector was late."""
    mean_s: float | None
    """Mean latency from the planned instant."""

    @property
    def name(self) -> str:
        """The rate or the number of callers of the run, for messages."""
        if self.point.offered_rate is not None:
            return f"{number(self.point.offered_rate)}/s"
        return f"concurrency {self.point.concurrency}"


def judged(
    report: Report,
    slo: Slo | None,
    *,
    offered_rate: float | None = None,
    concurrency: int | None = None,
    shape: dict[str, int] | None = None,
) -> JudgedRun:
    """Judge a run by its report: make its point, and decide whether it passes."""
    point = point_of(
        report, slo=slo, offered_rate=offered_rate, concurrency=concurrency, shape=shape
    )
    broken = {each.name: each.value for each in report.verdict.rules if not each.holds}
    is_late = broken.get(LATE_RULE) is not None
    # Without a value, the run was too short to judge.
    tolerated = LENGTH_RULES | {SLO_RULE} | (set() if is_late else {LATE_RULE})
    return JudgedRun(
        point,
        passes=point.meets_slo is not False and broken.keys() <= tolerated,
        is_late=is_late,
        mean_s=report.scheduled.mean_s if report.scheduled else None,
    )


def point_of(
    report: Report,
    *,
    slo: Slo | None = None,
    offered_rate: float | None = None,
    concurrency: int | None = None,
    shape: dict[str, int] | None = None,
) -> Point:
    """Make a run's point; the SLO and rate, if not given, are those of the report's plan."""
    plan, counts = report.plan, report.counts
    slo = slo or plan.rules.slo
    latency = report.scheduled
    values = {each.percentile: each.value_s for each in latency.percentiles} if latency else {}
    wait = next((each for each in report.checks if each.name == "predicted_wait"), None)
    if offered_rate is None and concurrency is None:
        offered_rate = report.asked_rate
        concurrency = plan.concurrency if plan.arrivals is None else None
    return Point(
        offered_rate=offered_rate,
        concurrency=concurrency,
        completed_rate=report.completed_rate,
        p50_s=values.get(50.0),
        p95_s=values.get(95.0),
        p99_s=values.get(99.0),
        p999_s=values.get(99.9),
        error_share=(counts.planned - counts.done) / max(counts.planned, 1),
        is_valid=report.verdict.is_valid,
        meets_slo=None if slo is None else meets_slo(report, slo),
        utilisation=_utilisation(report),
        predicted_wait_s=wait.expected if wait else None,
        measured_wait_s=wait.measured if wait else None,
        shape=shape or {},
    )


def meets_slo(report: Report, slo: Slo) -> bool:
    """Return whether the latency meets an SLO, by the percentile and by its bound.

    A percentile that the report does not have is read from the curve, rounded up.
    """
    latency, stopping = report.scheduled, report.early_stopping
    if latency is None:
        return False
    claimed = [each.value_s for each in latency.percentiles if each.percentile == slo.percentile]
    upper = [value_s for share, value_s in latency.curve if share >= slo.percentile / 100 - 1e-12]
    value_s = next(
        (each for each in claimed if each is not None), min(upper, default=latency.max_s)
    )
    bound_s = stopping.bound_s if stopping.percentile == slo.percentile else None
    return max(value_s, bound_s or 0.0) <= slo.limit_s


def _utilisation(report: Report) -> float | None:
    """Return the utilisation of all activations together; None if not known."""
    activations = sum(each.activations for each in report.devices)
    if not activations:
        return None
    return sum(each.utilisation * each.activations for each in report.devices) / activations


def late_note(where: str) -> str:
    """Explain what a late injector means, and how to fix it."""
    return (
        f"The injector was late at {where}, which shows nothing about the target. "
        "Use --precise or more --processes."
    )
