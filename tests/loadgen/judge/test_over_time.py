"""The run over time, in windows."""

from __future__ import annotations

import numpy as np
import pytest

from qaic_sched.loadgen.inject.records import Records
from qaic_sched.loadgen.judge.over_time import over_time, time_out
from qaic_sched.loadgen.targets.base import DeviceSample, Outcome
from tests.loadgen.runs import answer_nobody, info_of, poisson_run, samples_of, served


def test_time_out_is_exact() -> None:
    """The time of two overlapping requests is of a manual calculation."""
    entered, left = np.array([2, 4]), np.array([5, 9])

    inside = time_out(entered, left, np.arange(11))

    assert inside.tolist() == [0, 0, 0, 1, 2, 4, 5, 6, 7, 8, 8]


def test_time_of_requests_that_never_leave_grows() -> None:
    """The time of requests that never leave keeps growing."""
    inside = time_out(np.array([0, 0]), np.array([4]), np.array([0, 4, 10]))

    assert inside.tolist() == [0, 8, 14]


def test_time_out_is_exact_where_sums_overflow() -> None:
    """Differences are exact even if the sums overflow 64 bits."""
    entered = np.arange(100_000) * 10_000_000_000
    edges = np.array([0, 10**15])

    inside = time_out(entered, entered + 7, edges)

    assert inside[1] - inside[0] == 700_000


def test_every_request_is_in_one_window() -> None:
    """Windows add up to all arrivals, completions and time spent."""
    records = poisson_run(duration_s=3)
    series = over_time(records, info_of())

    spent_s = (records.done_ns - records.sent_ns).sum() / 1e9
    assert sum(series.arrivals) == sum(series.completions) == len(records.planned_ns)
    assert sum(series.in_flight) * series.window_s == pytest.approx(spent_s, rel=1e-6)
    assert series.window_s == pytest.approx(records.ended_ns / 1e11)
    assert all(
        len(each) == 100
        for each in (series.in_flight, series.queued_samples, series.p50_s, series.p99_s)
    )


def test_percentiles_are_those_of_the_window() -> None:
    """Percentiles are of the requests planned in the window, or None."""
    planned = np.arange(1_000) * 10_000_000
    records = served(planned)
    records.done_ns[500:510] += 50_000_000  # planned in the window from 5 s on
    answer_nobody(records, slice(700, 720), Outcome.FAILED)
    records.ended_ns = 10_000_000_000
    series = over_time(records, info_of())

    assert series.p50_s[49:52] == (0.002, 0.052, 0.002)
    assert series.p99_s[50] == 0.052
    assert series.p50_s[69:73] == (0.002, None, None, 0.002)


def test_utilisation_is_busy_time_of_the_window() -> None:
    """Utilisation is 0.5 in the first half of the run, then 1, then unknown.

    Metrics count an inference when it ends, so the busy time of a window may exceed its length.
    """
    records = served(np.array([0]), 10)
    records.ended_ns = 10_000_000_000
    records.device_samples = [
        DeviceSample(0, 0, {3: 100.0}, {3: 0}),
        DeviceSample(5_000_000_000, 4, {3: 105.0}, {3: 9}),
        DeviceSample(8_000_000_000, 6, {3: 112.0}, {3: 18}),
    ]
    series = over_time(records, info_of({3: 2}))

    assert series.utilisation.keys() == {"3"}
    assert series.utilisation["3"][:50] == pytest.approx([0.5] * 50)
    assert series.utilisation["3"][50:80] == pytest.approx([1.0] * 30)
    assert series.utilisation["3"][80:] == (None,) * 20
    assert (series.queued_samples[50], series.queued_samples[80]) == (4.0, 6.0)
    assert series.queued_samples[1] is None


def test_utilisation_of_a_run_is_its_load() -> None:
    """The mean utilisation of each device is its load."""
    records = poisson_run(load=0.8)
    records.device_samples = samples_of(records)

    for shares in over_time(records, info_of()).utilisation.values():
        assert np.mean([share for share in shares if share is not None]) == pytest.approx(
            0.8, abs=0.03
        )


def test_a_run_without_requests_has_empty_windows() -> None:
    """A run without requests has empty windows."""
    series = over_time(Records.for_requests(np.empty(0, np.int64)), info_of())

    assert sum(series.arrivals) == 0
    assert set(series.p50_s) == {None}
    assert set(series.in_flight) == {0.0}
    assert series.utilisation == {}
