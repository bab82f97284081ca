"""The end of the warm-up, and whether the rest is steady."""

from __future__ import annotations

from heapq import heapreplace

import numpy as np
import pytest
from numpy.typing import NDArray

from qaic_sched.loadgen.judge.queueing import simulate_mdc
from qaic_sched.loadgen.judge.warm_up import find

SERVERS = 4
EXECUTE_S = 0.002
Run = tuple[NDArray[np.int64], NDArray[np.int64]]


def _run(load: float, duration_s: float, seed: int, execute_s: float = EXECUTE_S) -> Run:
    """Simulate planned instants and latencies of a pool that is warm from the start."""
    rate = load * SERVERS / execute_s
    arrivals, waits = simulate_mdc(rate, execute_s, SERVERS, int(rate * duration_s), seed)
    return (arrivals * 1e9).astype(np.int64), ((waits + execute_s) * 1e9).astype(np.int64)


def _disturbed(duration_s: float, seed: int, begin_s: float, end_s: float, execute_s: float) -> Run:
    """Simulate 80 % load with another execution time between two instants."""
    rate = 0.8 * SERVERS / EXECUTE_S
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * duration_s))
    free, latencies = [0.0] * SERVERS, []
    for arrival in np.cumsum(gaps).tolist():
        start = max(free[0], arrival)
        done = start + (execute_s if begin_s <= start < end_s else EXECUTE_S)
        heapreplace(free, done)
        latencies.append(done - arrival)
    return (np.cumsum(gaps) * 1e9).astype(np.int64), (np.array(latencies) * 1e9).astype(np.int64)


@pytest.mark.parametrize(("duration_s", "execute_s"), [(10, 0.002), (30, 0.002), (10, 0.01)])
def test_a_run_at_80_percent_load_is_steady(duration_s: float, execute_s: float) -> None:
    """At least 95 of 100 seeds are steady, with almost nothing cut."""
    found = [find(*_run(0.8, duration_s, seed, execute_s)) for seed in range(1000, 1100)]

    assert sum(each.is_steady for each in found) >= 95
    assert max(each.until_s for each in found) < 0.05 * duration_s


@pytest.mark.parametrize(
    ("load", "duration_s"), [(1.05, 10), (1.1, 10), (1.2, 10), (1.2, 3), (2.0, 10)]
)
def test_an_overloaded_run_is_never_steady(load: float, duration_s: float) -> None:
    """An overloaded run is not steady, for any seed."""
    assert not any(find(*_run(load, duration_s, seed)).is_steady for seed in range(1000, 1100))


@pytest.mark.parametrize("count", [100, 150, 1_000, 100_000])
def test_a_straight_line_is_never_steady(count: int) -> None:
    """A straight line, as of constant arrivals beyond capacity, is not steady."""
    planned = np.arange(count) * 1_000_000

    assert not find(planned, 2_000_000 + planned // 5).is_steady
    assert not find(planned, 2_000_000 + planned[::-1] // 5).is_steady


def test_a_cold_start_is_cut() -> None:
    """A cold start with its backlog is cut, and the rest is like a warm run."""
    for seed in range(15):
        planned, latency = _disturbed(20, seed, 0, 1, 10 * EXECUTE_S)
        found = find(planned, latency)
        warm_ns = _run(0.8, 100, seed)[1].mean()

        assert found.is_steady
        assert 3.5 < found.until_s < 6
        assert planned[found.excluded] == round(found.until_s * 1e9)
        assert latency[found.excluded :].mean() == pytest.approx(warm_ns, rel=0.1)
        assert latency.mean() > 20 * warm_ns


def test_a_freeze_later_on_is_not_taken_for_a_cold_start() -> None:
    """A freeze in the middle stays in the measured part."""
    for seed in range(5):
        for freeze_s in (3, 6, 9):
            planned, latency = _disturbed(20, seed, freeze_s, freeze_s + 0.004, 1.0)
            found = find(planned, latency)

            assert found.until_s < 1
            assert latency[found.excluded :].max() > 0.9e9


def test_a_target_that_slows_down_late_is_not_steady() -> None:
    """Nothing is cut from a steady first half; the trend of the rest is found."""
    planned = np.arange(10_000) * 1_000_000
    noise = np.random.default_rng(2).normal(2_000_000, 100_000, 10_000).astype(np.int64)
    found = find(planned, noise + np.maximum(planned - 6 * 10**9, 0) // 10_000)

    assert not found.is_steady
    assert found.until_s < 1
    assert "KPSS" in found.trend


def test_a_warm_up_to_the_middle_leaves_too_little() -> None:
    """A warm-up up to the middle of the run is not steady."""
    planned = np.arange(10_000) * 1_000_000
    noise = np.random.default_rng(2).normal(2_000_000, 100_000, 10_000).astype(np.int64)

    late = find(planned, np.where(planned < 4.8e9, 10, 1) * noise)
    early = find(planned, np.where(planned < 3e9, 10, 1) * noise)

    assert (late.is_steady, early.is_steady) == (False, True)
    assert early.until_s == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize(("off_ns", "excluded"), [(130_000, 0), (150_000, 5)])
def test_a_first_window_that_is_hardly_off_is_worth_more_than_its_harm(
    off_ns: int, excluded: int
) -> None:
    """MSER cuts a first window if that lowers the standard error of the mean."""
    noise = np.repeat(np.where(np.arange(100) % 2, -100_000, 100_000), 5)
    noise[:5] = off_ns

    assert find(np.arange(500) * 1_000_000, 2_000_000 + noise).excluded == excluded


def test_equal_latencies_are_steady() -> None:
    """Equal latencies, even of 0, are steady."""
    planned = np.arange(1_000) * 1_000_000

    for latency_ns in (5_000_000, 0):
        found = find(planned, np.full(1_000, latency_ns))
        assert (found.is_steady, found.excluded, found.until_s) == (True, 0, 0.0)


def test_too_few_answers_prove_nothing() -> None:
    """Fewer than a hundred answers are not steady, and the sentence says so."""
    found = find(np.arange(99) * 1_000_000, np.full(99, 5))

    assert not found.is_steady
    assert found.trend == "99 answers are too few to judge: 100 are needed"
    assert not find(np.empty(0, np.int64), np.empty(0, np.int64)).is_steady


def test_the_sentence_has_the_numbers() -> None:
    """The sentence has the change and the statistic, or says that the run was changing."""
    assert "KPSS" in find(*_run(0.8, 10, 1)).trend
    assert "halfway" in find(*_run(1.2, 10, 1)).trend
