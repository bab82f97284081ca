"""The verdict: whether a run's result is valid, by rules with values, limits and remedies.

Rules of this file:
- Only the findings are read, so a report can be judged again.
- A rule that does not apply to a scenario is left out; a rule that cannot be judged is broken.
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

ROUNDING = 1e-9
"""Error of floating-point arithmetic within which a limit still counts as met."""
LAWS = {"littles_law": "Little's law", "flow_balance": "flow balance"}


def judge(findings: Findings) -> Verdict:
    """Check the findings of a run against the rules of its plan."""
    rules = tuple(_rules(findings))
    return Verdict(all(rule.holds for rule in rules), rules)


def conclude(
    findings: Findings, origin: Origin | None = None, search: Search | None = None
) -> Report:
    """Make the report of a run from its findings: judge them, and add the rest.

    A `Report` is also `Findings`, so an existing report can be judged again.
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
    """Return whether all requests are due at once: no run is steady or on time then."""
    return plan.scenario == "offline" or isinstance(plan.arrivals, Burst)


def _duration(findings: Findings) -> RuleResult:
    limit = findings.plan.rules.min_duration_s
    holds = findings.duration_s >= limit - ROUNDING
    return RuleResult(
        name="duration",
        holds=holds,
        text=f"the run took {findings.duration_s:.4g} s; the minimum is {limit:g} s"
        + _mend(holds, "run longer"),
        value=findings.duration_s,
        limit=limit,
    )


def _requests(findings: Findings) -> RuleResult:
    limit, planned = findings.plan.rules.min_requests, findings.counts.planned
    return RuleResult(
        name="requests",
        holds=planned >= limit,
        text=f"{planned} requests were planned; the minimum is {limit}"
        + _mend(planned >= limit, "run longer"),
        value=planned,
        limit=limit,
    )


def _samples(findings: Findings) -> RuleResult:
    """Require LoadGen's minimum of samples for the claimed percentile and the SLO's."""
    rules = findings.plan.rules
    claimed = max(rules.percentile, rules.slo.percentile if rules.slo else 0.0)
    needed, count = floor(claimed), findings.counts.measured
    return RuleResult(
        name="samples",
        holds=count >= needed,
        text=f"{count} requests were measured; p{claimed:g} needs {needed}"
        + _mend(count >= needed, "run longer or claim a lower percentile"),
        value=count,
        limit=needed,
    )


def _slo(findings: Findings, percentile: float, limit_s: float) -> RuleResult:
    bound_s = findings.early_stopping.bound_s
    name = f"p{percentile:g}"
    if bound_s is None:
        text = (
            f"too few requests were done for a bound of {name} at 99 % confidence; the limit is"
            f" {_ms(limit_s)}: fix the errors or run longer"
        )
        return RuleResult(name="slo", holds=False, text=text, limit=limit_s)
    holds = bound_s <= limit_s + ROUNDING
    return RuleResult(
        name="slo",
        holds=holds,
        text=f"{name} is at most {_ms(bound_s)} at 99 % confidence; the limit is {_ms(limit_s)}"
        + _mend(holds, f"lower the rate, or run longer if {name} itself is within the limit"),
        value=bound_s,
        limit=limit_s,
    )


def _errors(findings: Findings) -> RuleResult:
    counts, limit = findings.counts, findings.plan.rules.max_error_share
    wrong = counts.planned - counts.done
    share = wrong / counts.planned if counts.planned else 1.0
    holds = share <= limit + ROUNDING
    kinds = ("failed", "expired", "rejected", "cancelled", "unresolved")
    split = ", ".join(f"{getattr(counts, kind)} {kind}" for kind in kinds if getattr(counts, kind))
    problem = max(findings.problems, key=lambda kind: findings.problems[kind], default="")
    details = split + (f', most often "{problem}"' if problem else "")
    return RuleResult(
        name="errors",
        holds=holds,
        text=f"{wrong} of {counts.planned} requests had no outputs (share {share:.3g}; the limit is"
        f" {limit:g})"
        + (f": {details}" if details else "")
        + _mend(holds, "fix the cause, or lower the rate if the target is overloaded"),
        value=share,
        limit=limit,
    )


def _steady_state(findings: Findings) -> RuleResult:
    warm_up = findings.warm_up
    return RuleResult(
        name="steady_state",
        holds=warm_up.is_steady,
        text=f"after {warm_up.until_s:.3g} s of warm-up: {warm_up.trend}"
        + _mend(warm_up.is_steady, "lower a rate that is beyond capacity, else run longer"),
    )


def _on_time(findings: Findings) -> RuleResult:
    """Compare p99 of the dispatch lag with the median latency; of few requests, the maximum."""
    limit = findings.plan.rules.max_lag_share
    median_s = _percentile(findings.scheduled, 50.0).value_s if findings.scheduled else None
    if findings.lag is None or median_s is None:
        text = "too few requests were done to judge whether they were sent on time: run longer"
        return RuleResult(name="injector_on_time", holds=False, text=text, limit=limit)
    p99_s = _percentile(findings.lag, 99.0).value_s
    lag_s = findings.lag.max_s if p99_s is None else p99_s
    share = lag_s / median_s if median_s > 0 else float(lag_s > 0)
    holds = share <= limit + ROUNDING
    return RuleResult(
        name="injector_on_time",
        holds=holds,
        text=f"{'p99' if p99_s is not None else 'the maximum'} of the dispatch lag is {_ms(lag_s)},"
        f" {share:.1%} of the median latency of {_ms(median_s)}; the limit is {limit:.0%}"
        + _mend(holds, "use --precise, more --processes or a lower rate"),
        value=share,
        limit=limit,
    )


def _law(check: Check) -> RuleResult:
    """Return the rule of a law; a law that could not be computed is left to other rules."""
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
        + _mend(holds, "do not trust this run: requests were lost or counted wrongly"),
        value=check.error,
        limit=0.01,
    )


def _correctness(findings: Findings) -> RuleResult:
    """Require correct outputs, and that outputs were compared at all."""
    wrong, compared = findings.correctness["wrong"], findings.correctness.get("compared", 0)
    holds = wrong == 0 and compared > 0
    remedy = "find out how load changes outputs" if compared else "run longer"
    return RuleResult(
        name="correctness",
        holds=holds,
        text=f"{wrong} of {compared} compared outputs were wrong" + _mend(holds, remedy),
        value=wrong,
        limit=0,
    )


def _repeated_input(findings: Findings) -> RuleResult:
    """Require MLPerf's TEST04 to have found no cache."""
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
