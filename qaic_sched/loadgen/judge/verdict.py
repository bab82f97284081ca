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
from qaic_sched.loadgen.report.host import Origin
from qaic_sched.loadgen.report.report import (
    Check,
    Findings,
    Latency,
    Percentile,
    Report,
    RuleResult,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qaic_sched.loadgen.plan.plan import Plan
    from qaic_sched.loadgen.report.report import Search

__all__ = ["conclude", "judge"]

SLACK = 1e-9
"""Shares and seconds are computed; a limit that is met exactly is met."""
LAWS = {"littles_law": "Little's law", "flow_balance": "flow balance"}


def judge(findings: Findings) -> Verdict:
    """Check the findings of a run against the rules of its plan."""
    rules = tuple(_rules(findings))
    return Verdict(all(rule.holds for rule in rules), rules)


def conclude(
    findings: Findings, origin: Origin | None = None, search: Search | None = None
) -> Report:
    """Make the report of a run from its findings: judge them, and add the rest.

    A report is itself findings, so an existing one can be concluded anew.
    """
    origin = origin or Origin()
    found = {name: getattr(findings, name) for name in Findings.__struct_fields__}
    return Report(
        **found,
        verdict=judge(findings),
        search=search,
        host=origin.host,
        started_at=origin.started_at,
    )


def _rules(findings: Findings) -> Iterator[RuleResult]:
    if findings.ended_early:
        yield RuleResult(name="complete", holds=False, text=findings.ended_early)
    yield _duration(findings)
    if is_official(findings.plan.scenario):
        yield official_length(findings.plan)
    if findings.plan.rules.min_requests:
        yield _requests(findings)
    yield _samples(findings)
    if findings.plan.rules.slo is not None:
        yield _slo(findings, findings.plan.rules.slo.percentile, findings.plan.rules.slo.limit_s)
    yield _errors(findings)
    if not _is_burst(findings.plan):
        if findings.plan.rules.needs_steady_state:
            yield _steady_state(findings)
        if findings.plan.arrivals is not None:
            yield _on_time(findings)
    for check in findings.checks:
        if check.name in LAWS:
            yield _law(check)
    if "wrong" in findings.correctness:
        yield _correctness(findings)
    if "repeated_input" in findings.correctness:
        yield _repeated_input(findings)
    yield from msgspec.convert(findings.mlperf.get("rules", ()), tuple[RuleResult, ...])


def _is_burst(plan: Plan) -> bool:
    """All at once: nothing is steady then, and nobody can send so fast."""
    return plan.scenario == "offline" or isinstance(plan.arrivals, Burst)


def _duration(findings: Findings) -> RuleResult:
    limit = findings.plan.rules.min_duration_s
    holds = findings.duration_s >= limit - SLACK
    return RuleResult(
        name="duration",
        holds=holds,
        text=f"the run took {findings.duration_s:.4g} s of at least {limit:g} s"
        + _mend(holds, "let it run longer"),
        value=findings.duration_s,
        limit=limit,
    )


def _requests(findings: Findings) -> RuleResult:
    limit, planned = findings.plan.rules.min_requests, findings.counts.planned
    return RuleResult(
        name="requests",
        holds=planned >= limit,
        text=f"{planned} requests were planned of at least {limit}"
        + _mend(planned >= limit, "let it run longer"),
        value=planned,
        limit=limit,
    )


def _samples(findings: Findings) -> RuleResult:
    """The claimed percentile needs LoadGen's floor, and so does the SLO's."""
    rules = findings.plan.rules
    claimed = max(rules.percentile, rules.slo.percentile if rules.slo else 0.0)
    needed, count = floor(claimed), findings.counts.measured
    return RuleResult(
        name="samples",
        holds=count >= needed,
        text=f"{count} measured answers; p{claimed:g} needs {needed}"
        + _mend(count >= needed, "let it run longer or claim a lower percentile"),
        value=count,
        limit=needed,
    )


def _slo(findings: Findings, percentile: float, limit_s: float) -> RuleResult:
    bound_s = findings.early_stopping.bound_s
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


def _errors(findings: Findings) -> RuleResult:
    counts, limit = findings.counts, findings.plan.rules.max_error_share
    wrong = counts.planned - counts.done
    share = wrong / counts.planned if counts.planned else 1.0
    holds = share <= limit + SLACK
    kinds = ("failed", "expired", "rejected", "cancelled", "unresolved")
    split = ", ".join(f"{getattr(counts, kind)} {kind}" for kind in kinds if getattr(counts, kind))
    problem = max(findings.problems, key=lambda kind: findings.problems[kind], default="")
    return RuleResult(
        name="errors",
        holds=holds,
        text=f"{wrong} of {counts.planned} requests had no outputs ({share:.3g} of at most"
        f" {limit:g})" + (f": {split}" if split else "") + (f"; {problem}" if problem else ""),
        value=share,
        limit=limit,
    )


def _steady_state(findings: Findings) -> RuleResult:
    warm_up = findings.warm_up
    return RuleResult(
        name="steady_state",
        holds=warm_up.is_steady,
        text=f"after {warm_up.until_s:.3g} s of warm-up: {warm_up.trend}"
        + _mend(warm_up.is_steady, "lower a rate beyond capacity, else run longer"),
    )


def _on_time(findings: Findings) -> RuleResult:
    """p99 of the lag against the median; of fewer than p99 needs, the largest lag."""
    limit = findings.plan.rules.max_lag_share
    median_s = _percentile(findings.scheduled, 50.0).value_s if findings.scheduled else None
    if findings.lag is None or median_s is None:
        text = "too few requests were done to say whether they were sent on time"
        return RuleResult(name="injector_on_time", holds=False, text=text, limit=limit)
    p99_s = _percentile(findings.lag, 99.0).value_s
    lag_s = findings.lag.max_s if p99_s is None else p99_s
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


def _correctness(findings: Findings) -> RuleResult:
    """None wrong of none compared proves nothing."""
    wrong, compared = findings.correctness["wrong"], findings.correctness.get("compared", 0)
    return RuleResult(
        name="correctness",
        holds=wrong == 0 and compared > 0,
        text=f"{wrong} of {compared} compared outputs were wrong",
        value=wrong,
        limit=0,
    )


def _repeated_input(findings: Findings) -> RuleResult:
    """MLPerf's TEST04, which must have found an answer."""
    found = findings.correctness["repeated_input"]
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
