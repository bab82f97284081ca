"""The verdict: every rule, broken and kept."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from qaic_sched.loadgen.inject.records import Records
from qaic_sched.loadgen.judge.verdict import conclude, judge
from qaic_sched.loadgen.plan.plan import Burst, Plan, Rules, Slo
from qaic_sched.loadgen.report.report import Report, RuleResult
from qaic_sched.loadgen.targets.base import Outcome
from tests.loadgen.runs import (
    answer_nobody,
    closed_run,
    info_of,
    plan_of,
    poisson_ns,
    poisson_run,
    report_of,
    served,
)


def _report(records: Records | None = None, plan: Plan | None = None) -> Report:
    return report_of(plan or plan_of(), info_of(), records or poisson_run(), "hash")


def _broken(report: Report) -> list[str]:
    assert report.verdict.is_valid is not any(not rule.holds for rule in report.verdict.rules)
    return [rule.name for rule in report.verdict.rules if not rule.holds]


def _rule(report: Report, name: str) -> RuleResult:
    return next(rule for rule in report.verdict.rules if rule.name == name)


def test_a_good_run_is_valid() -> None:
    """A good run keeps every rule, each with a sentence."""
    slo = Slo(99, 0.015)
    report = _report(plan=plan_of(slo=slo, min_requests=100))

    assert _broken(report) == []
    assert report.verdict.is_valid
    assert [rule.name for rule in report.verdict.rules] == [
        "duration",
        "requests",
        "samples",
        "slo",
        "errors",
        "steady_state",
        "injector_on_time",
        "littles_law",
        "flow_balance",
    ]
    assert all(rule.text for rule in report.verdict.rules)


def test_a_short_run_is_not_valid() -> None:
    """A short run breaks a rule with both numbers and the remedy."""
    rule = _rule(_report(plan=plan_of(min_duration_s=600.0)), "duration")

    assert (rule.holds, rule.limit) == (False, 600.0)
    assert rule.text == "the run took 10 s; the minimum is 600 s: run longer"


def test_too_few_requests_are_not_valid() -> None:
    """Fewer requests than the plan's minimum are not valid."""
    report = _report(plan=plan_of(min_requests=1_000_000))

    assert _broken(report) == ["requests"]


def test_too_few_samples_are_not_valid() -> None:
    """p99.9 needs 6,636 samples, whether claimed or in the SLO."""
    records = poisson_run(0.3)  # 6,000
    assert _broken(_report(records, plan_of())) == []
    assert _broken(_report(records, plan_of(percentile=99.9))) == ["samples"]
    assert _broken(_report(records, plan_of(slo=Slo(99.9, 1.0)))) == ["samples", "slo"]

    rule = _rule(_report(records, plan_of(percentile=99.9)), "samples")
    assert (rule.value, rule.limit) == (len(records.planned_ns), 6_636)


def test_the_slo_is_held_against_the_bound_not_the_percentile() -> None:
    """A limit between the percentile and its bound breaks the SLO."""
    report = _report()
    assert report.scheduled is not None
    p99_s = next(each.value_s for each in report.scheduled.percentiles if each.percentile == 99)
    bound_s = report.early_stopping.bound_s
    assert p99_s is not None
    assert bound_s is not None

    assert _broken(_report(plan=plan_of(slo=Slo(99, (p99_s + bound_s) / 2)))) == ["slo"]
    assert _broken(_report(plan=plan_of(slo=Slo(99, bound_s)))) == []


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome.FAILED,
        Outcome.EXPIRED,
        Outcome.REJECTED,
        Outcome.CANCELLED,
        Outcome.UNRESOLVED,
    ],
)
def test_errors_of_any_kind_count(outcome: Outcome) -> None:
    """1 % of errors of any kind is not valid, unless the plan allows it."""
    records = poisson_run()
    answer_nobody(records, slice(None, None, 100), outcome)
    records.problems = {"it broke": 99, "it hung": 1}
    rule = _rule(_report(records), "errors")

    assert not rule.holds
    assert rule.value == pytest.approx(0.01, rel=0.01)
    assert f'{outcome.name.lower()}, most often "it broke"' in rule.text
    assert _rule(_report(records, plan_of(max_error_share=0.0101)), "errors").holds


def test_errors_count_against_the_slo() -> None:
    """With 2 % of the requests unanswered, p99 has no bound."""
    records = poisson_run()
    answer_nobody(records, slice(None, None, 50), Outcome.REJECTED)
    report = _report(records, plan_of(slo=Slo(99, 10.0), max_error_share=0.05))

    assert _broken(report) == ["slo"]
    assert "too few requests were done" in _rule(report, "slo").text


def test_an_overloaded_target_is_not_valid() -> None:
    """An overloaded run is not steady; a plan may leave the rule out."""
    report = _report(poisson_run(1.2))
    assert _broken(report) == ["steady_state"]
    assert "lower a rate" in _rule(report, "steady_state").text

    careless = _report(poisson_run(1.2), plan_of(needs_steady_state=False))
    assert _broken(careless) == []


def test_a_late_injector_is_not_valid() -> None:
    """2 % of the requests sent 1 ms late at a median of 2 ms are not valid."""
    records = poisson_run()
    late = slice(None, None, 50)
    for name in ("sent_ns", "started_ns", "completed_ns", "done_ns"):
        getattr(records, name)[late] += 1_000_000
    records.ended_ns += 1_000_000
    rule = _rule(_report(records), "injector_on_time")

    assert not rule.holds
    assert rule.value == pytest.approx(0.5, abs=0.1)
    assert "p99 of the dispatch lag is 1 ms" in rule.text
    assert _rule(_report(records, plan_of(max_lag_share=0.6)), "injector_on_time").holds


def test_of_few_requests_the_longest_lag_counts() -> None:
    """With too few requests for a p99, the maximum lag counts."""
    records = served(np.arange(100) * 100_000_000)
    records.sent_ns[50] += 1_900_000
    rule = _rule(_report(records, plan_of(percentile=90.0)), "injector_on_time")

    assert not rule.holds
    assert "the maximum of the dispatch lag is 1.9 ms" in rule.text


def test_a_closed_loop_s_injector_cannot_be_late() -> None:
    """A closed loop has no rule for the injector."""
    plan = Plan(scenario="closed", concurrency=8, rules=Rules(min_duration_s=1))
    report = _report(closed_run(), plan)

    assert _broken(report) == []
    assert "injector_on_time" not in [rule.name for rule in report.verdict.rules]


def test_a_burst_needs_neither_steady_state_nor_punctuality() -> None:
    """A burst has no rules for steady state and the injector."""
    plan = Plan(scenario="offline", arrivals=Burst(24_576), rules=Rules(min_duration_s=10))
    records = served(np.zeros(24_576, np.int64))
    records.sent_ns = np.minimum(np.arange(24_576) * 10_000, records.started_ns)

    report = _report(records, plan)

    assert _broken(report) == []
    names = {rule.name for rule in report.verdict.rules}
    assert not names & {"steady_state", "injector_on_time"}


def test_lost_requests_break_the_laws() -> None:
    """Lost requests break Little's law as well as the rule of errors."""
    records = poisson_run()
    answer_nobody(records, slice(1_000, 1_300), Outcome.UNRESOLVED)

    assert _broken(_report(records, plan_of(max_error_share=0.05))) == ["littles_law"]


def test_contradictory_records_break_the_laws() -> None:
    """Two requests answered before they were sent break a law."""
    records = poisson_run()
    records.sent_ns[10:12] = records.done_ns[10:12] + 5_000_000
    report = _report(records)

    assert "flow_balance" in _broken(report)
    assert "do not trust this run" in _rule(report, "flow_balance").text


@pytest.mark.parametrize(
    ("wrong", "compared", "is_valid"), [(0, 50, True), (1, 50, False), (0, 0, False)]
)
def test_wrong_outputs_are_not_valid(wrong: int, compared: int, is_valid: bool) -> None:
    """Wrong outputs are not valid, and neither are none compared."""
    found: dict[str, Any] = {"compared": compared, "equal": compared - wrong, "wrong": wrong}
    report = report_of(plan_of(), info_of(), poisson_run(), "hash", correctness=found)

    assert report.verdict.is_valid is is_valid
    assert _rule(report, "correctness").text.startswith(
        f"{wrong} of {compared} compared outputs were wrong"
    )


def test_nothing_done_breaks_what_cannot_be_judged() -> None:
    """If no request was done, every rule that needs one is broken."""
    records = Records.for_requests(poisson_ns(100, 1))
    records.ended_ns = 10**9

    assert _broken(_report(records, plan_of(slo=Slo(99, 1.0)))) == [
        "duration",
        "samples",
        "slo",
        "errors",
        "steady_state",
        "injector_on_time",
    ]


def test_a_report_can_be_judged_again() -> None:
    """A report can be judged again, by other rules as well."""
    report = _report()
    stricter = msgspec.structs.replace(report.plan, rules=Rules(min_duration_s=600))

    assert judge(report) == report.verdict
    assert not judge(msgspec.structs.replace(report, plan=stricter)).is_valid


def test_a_run_that_ended_early_says_so_first() -> None:
    """The first rule of a run that ended early says so."""
    report = msgspec.structs.replace(_report(), ended_early="interrupted by Ctrl-C")

    first, *others = judge(report).rules

    assert (first.name, first.holds, first.text) == ("complete", False, "interrupted by Ctrl-C")
    assert all(rule.holds for rule in others)


@pytest.mark.parametrize(("is_caching", "holds"), [(False, True), (True, False), (None, False)])
def test_a_cache_is_a_broken_rule(is_caching: bool | None, holds: bool) -> None:
    """A cache, or a test without a result, breaks a rule."""
    found = {"is_caching": is_caching, "gain": 0.3, "limit": 0.1, "text": "what was found"}
    report = msgspec.structs.replace(_report(), correctness={"repeated_input": found})

    verdict = judge(report)

    assert (verdict.is_valid, verdict.rules[-1].text) == (holds, "what was found")


def test_loadgens_rules_are_the_verdicts_too() -> None:
    """LoadGen's rules are part of the verdict."""
    rule = RuleResult(name="loadgen", holds=False, text="LoadGen says INVALID")
    mlperf = {"rules": msgspec.to_builtins([rule])}
    report = msgspec.structs.replace(_report(), mlperf=mlperf)

    assert judge(report).rules[-1] == rule
    assert not judge(report).is_valid


def test_a_scenario_of_mlperf_says_whether_its_length_is_official() -> None:
    """An MLPerf run states that ten seconds are not an official length."""
    plan = msgspec.structs.replace(_report().plan, scenario="server")
    report = msgspec.structs.replace(_report(), plan=plan)

    assert "not an official length" in _rule(conclude(report), "official_length").text
