"""Percentiles with their confidence intervals."""

from __future__ import annotations

import numpy as np
import pytest

from qaic_sched.errors import ConfigError
from qaic_sched.loadgen.judge.percentiles import early_stopping, floor, latency, nearest_rank
from qaic_sched.loadgen.report.report import Latency, Percentile

MS = 1_000_000


def _percentile_of(result: Latency | None, percentile: float) -> Percentile:
    assert result is not None
    return next(each for each in result.percentiles if each.percentile == percentile)


def _shuffled(count: int, seed: int = 1) -> np.ndarray:
    """Return 1 to `count` milliseconds in random order: the value is the rank."""
    return np.random.default_rng(seed).permutation(np.arange(1, count + 1)) * MS


@pytest.mark.parametrize(
    ("percentile", "expected"),
    [
        (90, [44, 64, 197, 1_246]),
        (95, [90, 130, 398, 2_504]),
        (99, [459, 662, 2_010, 12_571]),
        (99.9, [4_603, 6_636, 20_140, 125_826]),
    ],
)
def test_the_floors_are_those_of_loadgen(percentile: float, expected: list[int]) -> None:
    """The fewest samples for 0, 1, 10 and 100 above the limit are LoadGen's."""
    assert [floor(percentile, over) for over in (0, 1, 10, 100)] == expected
    assert floor(percentile) == expected[1]


@pytest.mark.parametrize("percentile", [0, 100, -1, 150])
def test_a_percentile_lies_between_0_and_100(percentile: float) -> None:
    """A percentile of 0 or 100 raises `ConfigError`."""
    with pytest.raises(ConfigError, match="between 0 and 100"):
        floor(percentile)


@pytest.mark.parametrize(
    ("count", "percentile", "rank"),
    [(1, 50, 1), (2, 50, 1), (3, 50, 2), (1_000, 99.9, 999), (1_001, 99.9, 1_000), (5, 99, 5)],
)
def test_the_rank_is_the_nearest(count: int, percentile: float, rank: int) -> None:
    """The nearest rank is exact in spite of floating-point rounding."""
    assert nearest_rank(count, percentile) == rank


def test_percentiles_are_exact() -> None:
    """Percentiles, mean, minimum and maximum are exact, in seconds."""
    result = latency(_shuffled(10_000))

    assert result is not None
    assert (result.count, result.min_s, result.max_s) == (10_000, 0.001, 10.0)
    assert result.mean_s == pytest.approx(5.0005)
    for percentile, value_s in [(50, 5.0), (75, 7.5), (90, 9.0), (95, 9.5), (99, 9.9)]:
        assert _percentile_of(result, percentile).value_s == pytest.approx(value_s)
    assert _percentile_of(result, 99.9).value_s == pytest.approx(9.99)


def test_the_interval_is_that_of_the_binomial_distribution() -> None:
    """p99 of 10,000 lies between the ranks 9,874 and 9,925 with 99 % confidence."""
    p99 = _percentile_of(latency(_shuffled(10_000)), 99)

    assert p99.low_s == pytest.approx(9.873, abs=0.002)
    assert p99.high_s == pytest.approx(9.925, abs=0.002)


@pytest.mark.parametrize("percentile", [50.0, 99.0])
def test_the_interval_holds_the_truth_as_often_as_it_says(percentile: float) -> None:
    """At least 98.5 % of 1,000 intervals have the true percentile inside."""
    draws = np.random.default_rng(7).exponential(size=(1_000, 1_000)) * 1e9
    truth = -np.log(1 - percentile / 100)
    hits = 0
    for run in draws.astype(np.int64):
        found = _percentile_of(latency(run), percentile)
        assert found.low_s is not None
        hits += found.low_s <= truth <= (found.high_s or np.inf)

    assert hits >= 985


def test_too_few_samples_have_no_percentile() -> None:
    """p99.9 of 1,000 has neither a value nor an upper bound; p99 has a value."""
    result = latency(_shuffled(1_000))

    assert _percentile_of(result, 99.9).value_s is None
    assert _percentile_of(result, 99.9).high_s is None
    assert _percentile_of(result, 99.9).floor == 6_636
    assert _percentile_of(result, 99).value_s == pytest.approx(0.99)
    assert _percentile_of(latency(_shuffled(458)), 99).value_s is None
    assert _percentile_of(latency(_shuffled(459)), 99).value_s is not None


def test_one_sample_and_none() -> None:
    """One sample has a mean but no percentile; no sample has no latency."""
    one = latency(np.array([3 * MS]))

    assert one is not None
    assert (one.mean_s, one.min_s, one.max_s) == (0.003, 0.003, 0.003)
    assert all(each.value_s is None for each in one.percentiles)
    assert one.curve == ((0.0, 0.003), (1.0, 0.003))
    assert latency(np.empty(0, np.int64)) is None


def test_the_curve_is_even_in_nines() -> None:
    """The curve has equal steps of log 1/(1-q), without repeated ranks, and ends at 1."""
    result = latency(_shuffled(100_000))

    assert result is not None
    quantiles, seconds = np.array(result.curve).T
    steps = np.diff(np.log10(1 / (1 - quantiles[:-1])))
    assert np.allclose(steps[:40], 0.1)
    assert np.allclose(steps * 10, np.round(steps * 10))
    assert len(set(seconds)) == len(seconds) == 48
    assert np.allclose(seconds, np.maximum(quantiles, 1e-5) * 100, atol=0.0011)
    assert result.curve[-1] == (1.0, 100.0)


def test_early_stopping_needs_its_floor() -> None:
    """p99 has no bound with 661 samples; with 662 the largest is the bound."""
    assert early_stopping(_shuffled(661), 99).bound_s is None
    assert early_stopping(_shuffled(662), 99).bound_s == pytest.approx(0.662)
    assert early_stopping(_shuffled(661), 99).needed == 662


@pytest.mark.parametrize(("over", "count"), [(1, 662), (10, 2_010), (100, 12_571)])
def test_early_stopping_sets_aside_what_its_table_allows(over: int, count: int) -> None:
    """The bound is the sample that LoadGen's table gives, at the exact counts."""
    bound = early_stopping(_shuffled(count), 99).bound_s
    before = early_stopping(_shuffled(count - 1), 99).bound_s

    assert bound == pytest.approx((count - over + 1) / 1_000)
    assert before == (None if over == 1 else pytest.approx((count - 1 - over + 2) / 1_000))


def test_the_bound_is_not_below_the_percentile() -> None:
    """The bound is above the percentile, and closer with more samples."""
    gaps = []
    for count in (1_000, 10_000, 1_000_000):
        bound = early_stopping(_shuffled(count), 99).bound_s
        assert bound is not None
        gaps.append(bound / (count / 1_000) - 0.99)

    assert gaps == sorted(gaps, reverse=True)
    assert 0 < gaps[-1] < 0.0005


def test_requests_without_an_answer_count_as_endlessly_late() -> None:
    """A few unanswered requests are set aside; with more there is no bound."""
    ordered = _shuffled(2_005)

    assert early_stopping(ordered, 99, unanswered=5).bound_s == pytest.approx(2.001)
    assert early_stopping(ordered, 99, unanswered=0).bound_s == pytest.approx(1.997)
    assert early_stopping(ordered, 99, unanswered=15).bound_s is None
