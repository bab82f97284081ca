"""Whether a run's result holds: every rule with its number, and what mends it.

Rules of this file:
- It reads the report only, so anyone can judge a report again.
- A rule that does not apply to a scenario is left out; one that could not be judged is broken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from qaic_sched.loadgen.judge.official import official_length
from qaic_sched.loadgen.judge.percentiles import floor
from qaic_sched.loadgen.plan.plan import Burst
from qaic_sched.loadgen.plan.scenarios import is_official
from qaic_sched.loadgen.report.report import Check, Latency, Percentile, RuleResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qaic_sched.loadgen.plan.plan import Plan
    from qaic_sched.loadgen.report.report import Report

__all__ = ["judge"]

SLACK = 1e-9
"""Shares and seconds are computed; a limit that is met exactly is met."""
LAWS = {"littles_law": "Little's law", "flow_balance": "flow balance"}


def judge(report: Report) -> Verdict:
    """Hold the report's numbers to the rules of its plan."""
    rules = tuple(_rules(report))
    return Verdict(all(rule.holds for rule in rules), rules)


def _rules(report: Report) -> Iterator[RuleResult]:
    if report.ended_early:
        yield RuleResult(name="complete", holds=False, text=report.ended_early)
    yield _duration(report)
    if is_official(report.plan.scenario):
        yield official_length(report.plan)
    if report.plan.rules.min_requests:
        yield _requests(report)
    yield _samples(report)
    if report.plan.rules.slo is not None:
        yield _slo(report, report.plan.rules.slo.percentile, report.plan.rules.slo.limit_s)
    yield _errors(report)
    if not _is_burst(report.plan):
        if report.plan.rules.needs_steady_state:
            yield _steady_state(report)
        if report.plan.arrivals is not None:
            yield _on_time(report)
    for check in report.checks:
        if check.name in LAWS:
            yield _law(check)
    if "wrong" in report.correctness:
        yield _correctness(report)
    if "repeated_input" in report.correctness:
        yield _repeated_input(report)
    yield from msgspec.convert(report.mlperf.get("rules", ()), tuple[RuleResult, ...])


def _is_burst(plan: Plan) -> bool:
    """All at once: nothing is steady then, and nobody can send so fast."""
    return plan.scenario == "offline" or isinstance(plan.arrivals, Burst)


def _duration(report: Report) -> RuleResult:
    limit = report.plan.rules.min_duration_s
    holds = report.duration_s >= limit - SLACK
    return RuleResult(
        name="duration",
        holds=holds,
        text=f"the run took {report.duration_s:.4g} s of at least {limit:g} s"
        + _mend(holds, "let it run longer"),
        value=report.duration_s,
        limit=limit,
    )


def _requests(report: Report) -> RuleResult:
    limit, planned = report.plan.rules.min_requests, report.counts.planned
    return RuleResult(
        name="requests",
        holds=planned >= limit,
        text=f"{planned} requests were planned of at least {limit}"
        + _mend(planned >= limit, "let it run longer"),
        value=planned,
        limit=limit,
    )


def _samples(report: Report) -> RuleResult:
    """The claimed percentile needs LoadGen's floor, and so does the SLO's."""
    rules = report.plan.rules
    claimed = max(rules.percentile, rules.slo.percentile if rules.slo else 0.0)
    needed, count = floor(claimed), report.counts.measured
    return RuleResult(
        name="samples",
        holds=count >= needed,
        text=f"{count} measured answers; p{claimed:g} needs {needed}"
        + _mend(count >= needed, "let it run longer or claim a lower percentile"),
        value=count,
        limit=needed,
    )


def _slo(report: Report, percentile: float, limit_s: float) -> RuleResult:
    bound_s = report.early_stopping.bound_s
    wanted = f"p{percentile:g} <= {_ms(limit_s)} at 99 % confidence"
    if bound_s is None:
        text = f"{wanted}: nothing can be claimed, as too few of the requests have an answer"
        return RuleResult(name="slo", holds=False, text=text, limit=limit_s)
    holds = bound_s <= limit_s + SLACK
    return RuleResult(
        name="slo",
        holds=holds,
        text=f"{wanted}: it is at most {_ms(bound_s)}"
        + _mend(holds, "lower the rate, or run longer if the percentile itself is lower"),
        value=bound_s,
        limit=limit_s,
    )


def _errors(report: Report) -> RuleResult:
    counts, limit = report.counts, report.plan.rules.max_error_share
    wrong = counts.planned - counts.done
    share = wrong / counts.planned if counts.planned else 1.0
    holds = share <= limit + SLACK
    kinds = ("failed", "expired", "rejected", "cancelled", "unresolved")
    split = ", ".join(f"{getattr(counts, kind)} {kind}" for kind in kinds if getattr(counts, kind))
    problem = max(report.problems, key=lambda kind: report.problems[kind], default="")
    return RuleResult(
        name="errors",
        holds=holds,
        text=f"{wrong} of {counts.planned} requests had no outputs ({share:.3g} of at most"
        f" {limit:g})" + (f": {split}" if split else "") + (f"; {problem}" if problem else ""),
        value=share,
        limit=limit,
    )


def _steady_state(report: Report) -> RuleResult:
    found = report.warm_up
    return RuleResult(
        name="steady_state",
        holds=found.is_steady,
        text=f"after {found.until_s:.3g} s of warm-up: {found.trend}"
        + _mend(found.is_steady, "lower the rate if it is beyond capacity, else let it run longer"),
    )


def _on_time(report: Report) -> RuleResult:
    """p99 of the lag against the median; of fewer than p99 needs, the largest lag."""
    limit = report.plan.rules.max_lag_share
    median_s = _percentile(report.scheduled, 50.0).value_s if report.scheduled else None
    if report.lag is None or median_s is None:
        text = "too few requests were done to say whether they were sent on time"
        return RuleResult(name="injector_on_time", holds=False, text=text, limit=limit)
    p99_s = _percentile(report.lag, 99.0).value_s
    lag_s = report.lag.max_s if p99_s is None else p99_s
    share = lag_s / median_s if median_s > 0 else float(lag_s > 0)
    holds = share <= limit + SLACK
    return RuleResult(
        name="injector_on_time",
        holds=holds,
        text=f"{'p99' if p99_s is not None else 'the longest'} of the dispatch lag is {_ms(lag_s)},"
        f" {share:.1%} of the median latency {_ms(median_s)}, of at most {limit:.0%}"
        + _mend(holds, "send precisely (--precise), from more processes, or at a lower rate"),
        value=share,
        limit=limit,
    )


def _law(check: Check) -> RuleResult:
    """One that could not be computed has nothing to hold against: other rules say that."""
    holds = check.holds is not False
    numbers = (
        f"{check.measured:.6g} against {check.expected:.6g} {check.unit}: "
        if (check.measured is not None and check.expected is not None)
        else ""
    )
    return RuleResult(
        name=check.name,
        holds=holds,
        text=f"{LAWS[check.name]}: {numbers}{check.note}"
        + _mend(holds, "do not trust this run, requests were lost or counted wrongly"),
        value=check.error,
        limit=0.01,
    )


def _correctness(report: Report) -> RuleResult:
    """None wrong of none compared proves nothing."""
    wrong, compared = report.correctness["wrong"], report.correctness.get("compared", 0)
    return RuleResult(
        name="correctness",
        holds=wrong == 0 and compared > 0,
        text=f"{wrong} of {compared} compared outputs were wrong",
        value=wrong,
        limit=0,
    )


def _repeated_input(report: Report) -> RuleResult:
    """MLPerf's TEST04, which must have found an answer."""
    found = report.correctness["repeated_input"]
    return RuleResult(
        name="repeated_input",
        holds=found["is_caching"] is False,
        text=found["text"],
        value=found["gain"],
        limit=found["limit"],
    )


def _percentile(latency: Latency, percentile: float) -> Percentile:
    return next(each for each in latency.percentiles if each.percentile == percentile)


def _mend(holds: bool, advice: str) -> str:
    return "" if holds else f": {advice}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms"
