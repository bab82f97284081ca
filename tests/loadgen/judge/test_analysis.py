"""From records to findings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qaic_sched.loadgen.inject.records import Records
from qaic_sched.loadgen.plan.plan import (
    Arrivals,
    Burst,
    Constant,
    Gamma,
    Mmpp,
    Plan,
    Poisson,
    Ramp,
    Rules,
    Slo,
    Step,
    Trace,
)
from qaic_sched.loadgen.report.report import Latency, read_report, write_report
from qaic_sched.loadgen.targets.base import Outcome
from tests.loadgen.runs import (
    EXECUTE_NS,
    answer_nobody,
    closed_run,
    info_of,
    plan_of,
    poisson_run,
    report_of,
    served,
)


def _value(latency: Latency | None, percentile: float) -> float | None:
    assert latency is not None
    return next(each.value_s for each in latency.percentiles if each.percentile == percentile)


def test_the_three_latencies_are_those_of_the_records() -> None:
    """Latency, response time and dispatch lag have exact percentiles and means."""
    records = poisson_run()
    records.sent_ns = records.planned_ns + 100_000
    report = report_of(plan_of(), info_of(), records, "hash")
    excluded = report.warm_up.excluded
    latencies = (records.done_ns - records.planned_ns)[excluded:]

    for percentile in (50.0, 99.0):
        exact = np.percentile(latencies, percentile, method="inverted_cdf") / 1e9
        assert _value(report.scheduled, percentile) == pytest.approx(exact)
        assert _value(report.response, percentile) == pytest.approx(exact - 0.0001)
        assert _value(report.lag, percentile) == pytest.approx(0.0001)
    assert report.counts.measured == len(latencies)
    assert report.schedule_hash == "hash"


def test_rates_are_those_of_the_plan_and_the_records() -> None:
    """Asked, scheduled and completed rates count samples."""
    records = served(np.arange(10_000) * 1_000_000)
    plan = Plan(scenario="open", arrivals=Constant(1_000), samples_per_request=8, duration_s=10)

    report = report_of(plan, info_of(), records, None)

    assert report.asked_rate == 8_000
    assert report.scheduled_rate == pytest.approx(8_000)
    assert report.completed_rate == pytest.approx(8_000, rel=0.001)
    assert report.duration_s == pytest.approx(10.001)


def test_a_backlog_of_the_warm_up_does_not_lower_the_completed_rate() -> None:
    """A backlog from the warm-up does not lower the completed rate."""
    records = poisson_run(1.2, 5.0)
    report = report_of(plan_of(2_400), info_of(), records, None)

    assert report.warm_up.until_s > 1
    assert report.completed_rate == pytest.approx(2_000, rel=0.001)


@pytest.mark.parametrize(
    ("arrivals", "asked"),
    [
        (Poisson(5), 5),
        (Gamma(6, 2), 6),
        (Mmpp(7), 7),
        (Step((1, 2, 6)), 3),
        (Ramp(2, 10), 6),
        (Trace("file.csv"), None),
        (Burst(9), None),
        (None, None),
    ],
)
def test_the_asked_rate_is_the_mean_of_the_plan_s(
    arrivals: Arrivals | None, asked: float | None
) -> None:
    """The asked rate is the mean rate of the arrivals, or None."""
    report = report_of(Plan(scenario="open", arrivals=arrivals), info_of(), poisson_run(), None)

    assert report.asked_rate == asked


def test_a_schedule_s_silent_end_belongs_to_the_run() -> None:
    """The duration includes a pause at the end of the schedule, unless the run ended early."""
    records = served(np.arange(96) * 100_000_000)
    plan = Plan(scenario="open", arrivals=Poisson(10), duration_s=10)
    assert report_of(plan, info_of(), records, None).duration_s == 10

    limited = Plan(scenario="open", arrivals=Poisson(10), duration_s=10, max_requests=96)
    assert report_of(limited, info_of(), records, None).duration_s == pytest.approx(9.502)

    answer_nobody(records, slice(90, 96), Outcome.UNRESOLVED)
    records.sent_ns[90:] = -1
    records.ended_ns = 9_100_000_000
    assert report_of(plan, info_of(), records, None).duration_s == pytest.approx(9.1)


def test_counts_are_of_the_whole_run() -> None:
    """Counts cover the whole run, including requests that were not sent."""
    records = served(np.arange(1_000) * 1_000_000)
    for row, outcome in enumerate(Outcome):
        if outcome != Outcome.DONE:
            answer_nobody(records, row, outcome)
    records.sent_ns[Outcome.UNRESOLVED] = -1
    counts = report_of(plan_of(), info_of(), records, None).counts

    assert (counts.planned, counts.sent, counts.done) == (1_000, 999, 995)
    kinds = (counts.failed, counts.expired, counts.rejected, counts.cancelled, counts.unresolved)
    assert kinds == (1, 1, 1, 1, 1)


def test_a_cold_start_is_out_of_the_latencies_but_not_of_the_counts() -> None:
    """Requests planned during a slow first second are excluded from the latencies.

    Failed ones among them count as errors, but not against the SLO.
    """
    planned = np.arange(10_000) * 1_000_000
    services = np.where(planned < 10**9, 10 * EXECUTE_NS, EXECUTE_NS)
    records = served(planned, services, servers=64)
    answer_nobody(records, slice(0, 1_000, 2), Outcome.FAILED)
    report = report_of(plan_of(), info_of({0: 32, 1: 32}), records, None)

    assert report.warm_up.until_s == pytest.approx(1.0, abs=0.2)
    assert report.warm_up.excluded == np.count_nonzero(
        planned < round(report.warm_up.until_s * 1e9)
    )
    assert report.counts.measured == 10_000 - report.warm_up.excluded
    assert (report.counts.planned, report.counts.failed) == (10_000, 500)
    assert report.early_stopping.bound_s == pytest.approx(0.002)
    assert _value(report.scheduled, 99) == pytest.approx(0.002)
    assert max(value or 0 for value in report.series.p99_s) == pytest.approx(0.02)


def test_a_freeze_is_in_the_p999() -> None:
    """A freeze of one second in twenty is visible in p99.9."""
    planned = poisson_run(duration_s=20).planned_ns
    services = np.full(len(planned), EXECUTE_NS)
    services[len(planned) // 3 :][:4] = 10**9
    report = report_of(plan_of(duration_s=20), info_of(), served(planned, services), None)

    assert (_value(report.scheduled, 99.9) or 0) > 0.9
    assert report.warm_up.until_s < 1


def test_an_offline_run_is_samples_over_time() -> None:
    """An Offline run is measured from the burst to the last answer, without warm-up."""
    records = served(np.zeros(24_576, np.int64))
    plan = Plan(scenario="offline", arrivals=Burst(24_576), rules=Rules(min_duration_s=1))

    report = report_of(plan, info_of(), records, None)

    assert report.completed_rate == pytest.approx(2_000)
    assert report.scheduled_rate == pytest.approx(2_000)
    assert report.counts.measured == 24_576
    assert report.verdict.is_valid


def test_a_single_stream_run_claims_p90() -> None:
    """A SingleStream run needs 64 samples for its p90."""
    planned = np.arange(200) * EXECUTE_NS
    plan = Plan(scenario="single_stream", rules=Rules(min_duration_s=0.4, percentile=90))

    report = report_of(plan, info_of(), served(planned), None)

    assert report.verdict.is_valid
    assert (report.early_stopping.percentile, report.early_stopping.needed) == (90, 64)
    assert report.early_stopping.bound_s == pytest.approx(0.002)
    assert report.completed_rate == pytest.approx(500)


def test_the_bound_is_that_of_the_slo_s_percentile() -> None:
    """Early stopping bounds the SLO's percentile."""
    report = report_of(plan_of(slo=Slo(95, 1)), info_of(), poisson_run(), None)

    assert (report.early_stopping.percentile, report.early_stopping.needed) == (95, 130)


def _empty() -> Records:
    return Records.for_requests(np.empty(0, np.int64))


def _nobody() -> Records:
    records = Records.for_requests(np.arange(1_000) * 1_000_000)
    records.ended_ns = 10**9
    return records


def _all_failed() -> Records:
    records = served(np.arange(1_000) * 1_000_000)
    answer_nobody(records, slice(None), Outcome.FAILED)
    return records


def _silent() -> Records:
    records = poisson_run()
    answer_nobody(records, slice(0, 0), Outcome.DONE)
    for name in ("inference", "device", "activation", "submitted_ns", "started_ns", "completed_ns"):
        getattr(records, name)[:] = -1
    records.device_samples = []
    return records


@pytest.mark.parametrize(
    ("records", "done"),
    [
        (_empty(), 0),
        (_nobody(), 0),
        (_all_failed(), 0),
        (served(np.array([5])), 1),
        (served(np.array([0]), 0), 1),
        (_silent(), None),
    ],
)
def test_any_run_has_a_report(records: Records, done: int | None, tmp_path: Path) -> None:
    """Any run has a report: empty, one request, none answered, all failed, no metrics."""
    activations = {} if done is None else None
    for plan in (plan_of(), Plan(scenario="closed"), Plan(scenario="offline", arrivals=Burst(1))):
        report = report_of(plan, info_of(activations), records, None)
        write_report(report, tmp_path / "report.json")

        assert read_report(tmp_path / "report.json") == report
        assert done is None or report.counts.done == done
        assert (report.scheduled is None) == (report.counts.measured == 0)
        assert done is None or not report.verdict.is_valid
        assert done is not None or report.devices == ()


def test_a_target_without_metrics_can_be_valid() -> None:
    """A target without metrics can have a valid run."""
    report = report_of(plan_of(), info_of({}), _silent(), None)

    assert report.verdict.is_valid
    assert report.balance == {}
    assert report.series.utilisation == {}


def test_the_same_records_make_the_same_report() -> None:
    """Equal records give equal findings."""
    first = report_of(plan_of(), info_of(), poisson_run(), None)

    assert report_of(plan_of(), info_of(), poisson_run(), None) == first


def test_a_closed_run_is_measured_from_when_callers_were_free() -> None:
    """In a closed loop latency counts from the instant at which a caller was free."""
    plan = Plan(scenario="closed", concurrency=8, rules=Rules(min_duration_s=1))

    report = report_of(plan, info_of(), closed_run(), None)

    assert _value(report.scheduled, 50) == pytest.approx(0.004)
    assert report.completed_rate == pytest.approx(2_000, rel=0.01)
    assert [device.utilisation for device in report.devices] == pytest.approx([1, 1], rel=0.01)


@pytest.mark.long
def test_ten_million_requests_can_be_analysed() -> None:
    """Ten million requests are analysed in about a minute."""
    rate = 0.8 * 1_024 / EXECUTE_NS * 1e9
    planned = np.cumsum(np.random.default_rng(1).exponential(1e9 / rate, 10_000_000))
    records = served(planned.astype(np.int64), servers=1_024)

    report = report_of(plan_of(rate), info_of({0: 512, 1: 512}), records, None)

    assert report.counts.done == 10_000_000
    assert _value(report.scheduled, 99.99) is not None
    assert [check.error for check in report.checks if check.name == "ideal_replay"] == [0.0]
