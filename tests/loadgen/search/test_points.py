"""A run as a point of a search, and whether it meets the SLO."""

from __future__ import annotations

import msgspec
import pytest

from qaic_sched.loadgen.plan.plan import Slo
from qaic_sched.loadgen.report.report import EarlyStopping, RuleResult, Verdict
from qaic_sched.loadgen.search.points import judged, meets_slo, point_of
from tests.loadgen.reports import SLO, Host, make_report, p99_of, verdict

BASE = make_report()
NO_BOUND = EarlyStopping(percentile=99.0, bound_s=None, needed=662)


def test_the_bound_at_99_percent_certainty_has_to_keep_the_promise_too() -> None:
    """A run fails if p99 is within the limit and its bound is not."""
    report = make_report(early_stopping=EarlyStopping(percentile=99.0, bound_s=0.051, needed=662))

    assert p99_of(report) < SLO.limit_s
    assert not meets_slo(report, SLO)
    assert meets_slo(msgspec.structs.replace(report, early_stopping=NO_BOUND), SLO)
    assert meets_slo(report, Slo(95.0, 0.050)), "the bound is on another percentile"


def test_a_percentile_that_is_not_claimed_is_read_from_the_curve_rounded_up() -> None:
    """A percentile between two points of the curve has the higher value."""
    report = msgspec.structs.replace(BASE, early_stopping=NO_BOUND)
    assert report.scheduled is not None
    above_s = next(value_s for share, value_s in report.scheduled.curve if share >= 0.97)

    assert meets_slo(report, Slo(97.0, above_s))
    assert not meets_slo(report, Slo(97.0, above_s * 0.999))
    assert not meets_slo(make_report(scheduled=None), SLO)


def test_a_point_has_the_reports_numbers() -> None:
    """A point has the report's percentiles, errors, utilisation and waits."""
    report = make_report(Host(devices=2, activations=1, rate=150.0, duration_s=50.0))
    counts = msgspec.structs.replace(report.counts, failed=15, done=report.counts.done - 15)
    point = point_of(msgspec.structs.replace(report, counts=counts), shape={"devices": 2})

    assert point.offered_rate == 150.0
    assert point.concurrency is None
    assert point.p99_s == p99_of(report)
    assert point.error_share == 15 / report.counts.planned
    assert point.utilisation == pytest.approx(0.75, abs=0.001)
    assert point.predicted_wait_s == report.checks[1].expected
    assert point.measured_wait_s == report.checks[1].measured
    assert point.shape == {"devices": 2}
    assert point_of(make_report(scheduled=None, devices=(), checks=())).utilisation is None


@pytest.mark.parametrize(
    ("broken", "passes"),
    [
        ((), True),
        (("duration", "samples", "requests"), True),
        (("slo",), True),
        (("errors",), False),
        (("duration", "steady_state"), False),
        (("injector_on_time",), False),
    ],
)
def test_what_a_run_may_break_and_still_pass(broken: tuple[str, ...], passes: bool) -> None:
    """A run may break rules on its length and its own SLO, and still pass."""
    run = judged(make_report(verdict=verdict(*broken)), SLO)

    assert run.passes is passes
    assert run.is_late is ("injector_on_time" in broken)
    assert not judged(make_report(verdict=verdict(*broken)), Slo(99.0, 0.001)).passes


def test_a_run_too_short_to_know_whether_it_was_late_was_not_late() -> None:
    """A run that is too short to judge the injector does not count as late."""
    unknown = RuleResult(name="injector_on_time", holds=False, text="too few")
    run = judged(make_report(verdict=Verdict(False, (unknown,))), SLO)

    assert run.passes
    assert not run.is_late
    assert not judged(make_report(verdict=Verdict(False, (unknown,)), scheduled=None), SLO).passes
