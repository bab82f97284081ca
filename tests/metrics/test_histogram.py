"""The histogram: exact counts and sums, percentiles within 0.5 %, merging without loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qaic_sched.metrics.histogram import Histogram

repeatable = settings(derandomize=True, deadline=None)
durations = st.lists(st.floats(1e-9, 1e5), min_size=1, max_size=50)


def filled(values):
    """Return a histogram of these values."""
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def nearest_rank(values, q):
    """Return the percentile by its definition."""
    return sorted(values)[max(1, math.ceil(round(q * len(values) / 100, 6))) - 1]


def test_empty_reads_zero():
    """Without values everything is 0, not an error or NaN."""
    histogram = Histogram()

    assert histogram.count == 0
    assert [histogram.sum, histogram.min, histogram.max, histogram.percentile(99)] == [0.0] * 4


@repeatable
@given(durations, st.floats(0, 100))
def test_percentiles_are_within_half_a_percent(values, q):
    """Over the whole range, a percentile differs from the nearest rank by at most 0.5 %."""
    assert filled(values).percentile(q) == pytest.approx(nearest_rank(values, q), rel=0.005)


@repeatable
@given(durations)
def test_count_sum_min_and_max_are_exact(values):
    """Only percentiles are approximate, and they lie between minimum and maximum."""
    histogram = filled(values)

    assert (histogram.count, histogram.min, histogram.max) == (
        len(values),
        min(values),
        max(values),
    )
    assert histogram.sum == pytest.approx(math.fsum(values), rel=1e-12)
    assert min(values) <= histogram.percentile(50) <= max(values)


def test_one_value_is_every_percentile():
    """A constant duration is exact in every percentile."""
    histogram = filled([0.00123] * 3000)

    assert [histogram.percentile(q) for q in (0, 25, 50, 99.9, 100)] == [0.00123] * 5


def test_more_values_than_the_buffer_holds():
    """Thousands of values are as exact as a few, also in the tail."""
    values = np.random.default_rng(1).lognormal(-6, 2, 5000).tolist()
    histogram = filled(values)

    assert histogram.count == 5000
    for q in (0, 25, 50, 75, 90, 99, 99.9, 100):
        assert histogram.percentile(q) == pytest.approx(nearest_rank(values, q), rel=0.005)


def test_rank_is_not_moved_by_floating_point():
    """The 99.9th percentile of 1000 values is the 999th, not the 1000th."""
    assert filled([1.0] * 999 + [2.0]).percentile(99.9) == pytest.approx(1.0, rel=0.005)


def test_values_outside_the_range():
    """Values up to zero fall into the first bucket, very long ones into the last."""
    histogram = filled([-1.0, 0.0, 1.0, 1e9])

    assert (histogram.count, histogram.min, histogram.max) == (4, -1.0, 1e9)
    assert histogram.percentile(50) == pytest.approx(0.0, abs=1e-9)
    assert histogram.percentile(100) == 1e9


@repeatable
@given(durations, durations)
def test_merge_is_as_if_all_was_recorded_in_one(left, right):
    """Merging loses nothing and leaves the other as it was."""
    merged, other, whole = filled(left), filled(right), filled(left + right)
    merged.merge(other)

    assert (merged.count, merged.min, merged.max) == (whole.count, whole.min, whole.max)
    assert merged.sum == pytest.approx(whole.sum, rel=1e-12)
    assert [merged.percentile(q) for q in (1, 50, 99)] == [whole.percentile(q) for q in (1, 50, 99)]
    assert (other.count, other.max) == (len(right), max(right))


def test_merging_nothing_changes_nothing():
    """Merging an empty histogram changes no value."""
    histogram = filled([1.0, 2.0])
    histogram.merge(Histogram())

    assert (histogram.count, histogram.min, histogram.max) == (2, 1.0, 2.0)


def test_a_copy_is_independent():
    """A value recorded after copying is in one of the two only."""
    original = filled([1.0])
    copied = original.copy()
    original.record(5.0)

    assert (copied.count, copied.max) == (1, 1.0)
    assert (original.count, original.max) == (2, 5.0)
