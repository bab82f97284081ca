"""Searches over simulated runs find the rates of the formula behind them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from qaic_sched.loadgen.plan.plan import Rules, Slo
from qaic_sched.loadgen.report.report import EarlyStopping, Report
from qaic_sched.loadgen.search.points import LATE_RULE
from qaic_sched.loadgen.search.search import find_highest_rate, sweep_concurrency, sweep_rates
from tests.loadgen.reports import make_report, p99_of, verdict, with_latency

SLO = Slo(99.0, 0.050)
BASE = make_report()


@dataclass
class Target:
    """Runs by formula: p99 = execution time * (1 + 3 * load / (1 - load)), with noise."""

    capacity: float
    execute_s: float = 0.010
    noise: float = 0.0
    seed: int = 1
    late_from: float = float("inf")
    too_short: bool = False
    rates: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = np.random.default_rng(self.seed)

    @property
    def best_rate(self) -> float:
        """The rate at which p99 equals the SLO."""
        excess = (SLO.limit_s / self.execute_s - 1) / 3
        return self.capacity * excess / (1 + excess)

    async def measure(self, rate: float) -> Report:
        self.rates.append(rate)
        load = rate / self.capacity
        chance = float(np.exp(self.noise * self._chance.standard_normal()))
        p99_s = self.execute_s * (1 + 3 * load / (1 - load)) * chance if load < 1 else 10.0
        broken = [] if load < 1 else ["steady_state"]
        broken += [LATE_RULE] if rate >= self.late_from else []
        broken += ["duration", "samples"] if self.too_short else []
        return self.report(p99_s, min(rate, self.capacity) * chance, broken)

    def report(self, p99_s: float, completed: float, broken: list[str]) -> Report:
        return msgspec.structs.replace(
            with_latency(p99_s / p99_of(BASE), BASE),
            verdict=verdict(*broken),
            completed_rate=completed,
            early_stopping=EarlyStopping(percentile=99.0, bound_s=p99_s, needed=662),
        )


@pytest.mark.parametrize("capacity", [3.0, 90.0, 1_234.0, 250_000.0])
@pytest.mark.parametrize("start_rate", [1.0, 100.0, 5_000.0])
def test_the_highest_rate_is_found_within_the_tolerance(capacity: float, start_rate: float) -> None:
    """The highest rate is found from any start rate."""
    target = Target(capacity)
    search = asyncio.run(find_highest_rate(target.measure, SLO, start_rate=start_rate))

    if start_rate / 1024 > target.best_rate:
        assert search.best_rate is None
        return
    assert search.best_rate is not None
    assert search.bracket is not None
    assert search.bracket[1] is not None
    assert search.bracket[0] <= target.best_rate < search.bracket[1]
    assert search.bracket[1] <= search.bracket[0] * 1.0201
    assert target.best_rate / 1.0201 <= search.best_rate <= target.best_rate
    assert len(search.points) == len(target.rates) <= 30


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("capacity", [40.0, 7_000.0])
def test_noise_moves_the_highest_rate_by_little(capacity: float, seed: int) -> None:
    """Noise of 5 % in p99 moves the best rate only a little."""
    target = Target(capacity, noise=0.05, seed=seed)
    search = asyncio.run(find_highest_rate(target.measure, SLO, start_rate=100.0))

    assert search.best_rate == pytest.approx(target.best_rate, rel=0.06)
    at_best = [each for each in search.points if each.offered_rate == search.best_rate]
    assert len(at_best) == 3
    assert sum(each.meets_slo is True for each in at_best) >= 2
    assert len(target.rates) <= 40


def test_the_interval_is_students_over_the_repeats() -> None:
    """The interval of three rates is 4.303 standard errors on each side."""
    target = Target(100.0, noise=0.002)
    search = asyncio.run(find_highest_rate(target.measure, SLO, start_rate=50.0))
    rates = [each.completed_rate for each in search.points if each.offered_rate == search.best_rate]
    half = 4.302653 * np.std(rates, ddof=1) / np.sqrt(3)

    assert len(rates) == 3
    assert search.interval == pytest.approx((np.mean(rates) - half, np.mean(rates) + half))
    assert "95 %" in search.note


def test_a_target_that_fails_at_all_rates_has_no_best_rate() -> None:
    """A target that fails at all rates has no best rate, and the note names the lowest."""
    target = Target(1_000.0, execute_s=0.060)
    search = asyncio.run(find_highest_rate(target.measure, SLO, start_rate=1_024.0))

    assert search.best_rate is search.bracket is search.interval is None
    assert len(target.rates) == 11
    assert "No rate passed, down to 1/s." in search.note


def test_a_target_that_never_fails_ends_the_search_by_its_runs() -> None:
    """A target that never fails has an open bracket."""
    target = Target(1e30)
    search = asyncio.run(find_highest_rate(target.measure, SLO, start_rate=1.0, max_runs=12))

    assert len(target.rates) == 12
    assert search.best_rate == 2.0**9
    assert search.bracket == (2.0**9, None)
    assert target.rates[-3:] == [2.0**9] * 3
    assert "No rate failed in 12 runs" in search.note


def test_runs_that_end_early_leave_a_wide_bracket_and_say_so() -> None:
    """With too few runs the bracket is wide, and the note says so."""
    target = Target(500.0)
    search = asyncio.run(find_highest_rate(target.measure, SLO, start_rate=100.0, max_runs=6))

    assert len(target.rates) == 6
    assert search.bracket is not None
    assert search.bracket[0] <= target.best_rate < (search.bracket[1] or 0.0)
    assert "wide: no runs were left" in search.note


def test_a_late_injector_ends_the_search() -> None:
    """A late injector ends the search, and its run has no influence."""
    target = Target(1_000.0, late_from=300.0)
    search = asyncio.run(find_highest_rate(target.measure, SLO, start_rate=100.0))

    assert target.rates == [100.0, 200.0, 400.0]
    assert search.bracket == (200.0, None)
    assert "The injector was late at 400/s" in search.note
    assert "Use --precise" in search.note


def test_a_late_injector_in_the_first_run_leaves_nothing() -> None:
    """A late injector in the first run leaves no best rate and a note."""
    target = Target(1_000.0, late_from=0.0)
    search = asyncio.run(find_highest_rate(target.measure, SLO, start_rate=100.0))

    assert search.best_rate is None
    assert len(search.points) == 1
    assert search.note.startswith("The injector was late at 100/s")


def test_runs_that_are_only_too_short_pass() -> None:
    """Runs that are only too short pass, and the note counts them."""
    target = Target(100.0, too_short=True)
    search = asyncio.run(find_highest_rate(target.measure, SLO, start_rate=50.0))

    assert search.best_rate == pytest.approx(target.best_rate, rel=0.021)
    assert not any(each.is_valid for each in search.points)
    assert "were too short to be valid on their own" in search.note


@pytest.mark.parametrize("name", ["errors", "conservation", "littles_law"])
def test_a_run_that_breaks_another_rule_fails(name: str) -> None:
    """A run that breaks any other rule fails."""
    target = Target(1_000.0)

    async def measure(rate: float) -> Report:
        report = await target.measure(rate)
        return msgspec.structs.replace(report, verdict=verdict(*[name] * (rate > 150.0)))

    search = asyncio.run(find_highest_rate(measure, SLO, start_rate=100.0))

    assert search.best_rate == pytest.approx(150.0, rel=0.02)


def test_a_best_rate_that_was_luck_is_given_up() -> None:
    """A rate that passes once but not in the majority of repeats is given up."""
    target = Target(100.0)
    lucky: set[float] = set()

    async def measure(rate: float) -> Report:
        report = await target.measure(rate)
        if target.best_rate < rate < target.best_rate * 1.05 and rate not in lucky:
            lucky.add(rate)
            return with_latency(0.5, msgspec.structs.replace(report, early_stopping=_no_bound()))
        return report

    search = asyncio.run(find_highest_rate(measure, SLO, start_rate=10.0))

    assert lucky
    assert search.best_rate is not None
    assert target.best_rate / 1.04 <= search.best_rate <= target.best_rate


def test_latency_that_falls_with_the_rate_is_noted() -> None:
    """A p99 that falls at a higher rate is noted."""
    target = Target(1_000.0)

    async def measure(rate: float) -> Report:
        is_cold = not target.rates
        report = await target.measure(rate)
        return target.report(0.045, rate, []) if is_cold else report

    search = asyncio.run(find_highest_rate(measure, SLO, start_rate=100.0))
    in_order = asyncio.run(find_highest_rate(target.measure, SLO, start_rate=100.0))

    assert "Not monotonic: p99 was 45.0 ms at 100/s but 17.5 ms at 200/s" in search.note
    assert "Not monotonic" not in in_order.note


def test_a_cliff_across_the_bracket_is_noted() -> None:
    """A jump of p99 across the bracket is noted."""
    target = Target(100.0)

    async def measure(rate: float) -> Report:
        return target.report(0.020 if rate < 77.0 else 10.0, rate, [])

    search = asyncio.run(find_highest_rate(measure, SLO, start_rate=10.0))

    assert search.best_rate == pytest.approx(77.0, rel=0.02)
    assert "Cliff: p99 jumps from 20.0 ms to 10.0 s across the bracket." in search.note


def test_a_sweep_has_its_knee_where_power_is_highest() -> None:
    """The knee is at the load of maximum power, which is 0.366 for this formula."""
    target = Target(1_000.0)
    rates = np.linspace(20.0, 980.0, 97).tolist()
    search = asyncio.run(sweep_rates(target.measure, rates))

    # d/dx x (1 - x) / (1 + 2 x) = 0 at x = (sqrt(3) - 1) / 2
    assert search.knee_rate == pytest.approx(1_000 * (np.sqrt(3) - 1) / 2, abs=10.0)
    assert "power" in (search.knee_method or "")
    assert [point.offered_rate for point in search.points] == rates
    assert search.note == ""


def test_a_sweep_says_where_the_slo_ends() -> None:
    """A sweep with an SLO has the best rate and its bracket."""
    target = Target(1_000.0)
    search = asyncio.run(sweep_rates(target.measure, [100.0, 500.0, 550.0, 600.0, 900.0, 1_100.0]))

    assert target.best_rate == pytest.approx(571.4, abs=0.1)
    assert search.best_rate == 550.0
    assert search.bracket == (550.0, 600.0)
    assert [point.meets_slo for point in search.points] == [True] * 3 + [False] * 3
    assert [point.is_valid for point in search.points] == [True] * 5 + [False]


def test_a_sweep_without_slo_has_no_best_rate() -> None:
    """A sweep without an SLO has no best rate."""
    plan = msgspec.structs.replace(BASE.plan, rules=Rules())

    async def measure(rate: float) -> Report:
        return make_report(plan=plan, completed_rate=rate)

    search = asyncio.run(sweep_rates(measure, [1.0, 2.0]))

    assert search.best_rate is search.knee_rate is None
    assert [point.meets_slo for point in search.points] == [None, None]
    assert "three runs" in search.note


def test_a_knee_at_an_end_is_said_to_be_there() -> None:
    """A knee at an end of the sweep is noted as such."""
    search = asyncio.run(sweep_rates(Target(1_000.0).measure, [50.0, 100.0, 200.0]))

    assert search.knee_rate == 200.0
    assert "at an end of the sweep" in search.note


def test_late_runs_of_a_sweep_are_named_and_no_best() -> None:
    """Late runs are named, and cannot be the best."""
    target = Target(1_000.0, late_from=400.0)
    search = asyncio.run(sweep_rates(target.measure, [100.0, 300.0, 500.0]))

    assert search.best_rate == 300.0
    assert search.bracket == (300.0, None)
    assert "The injector was late at 500/s" in search.note


def test_a_sweep_over_concurrency_is_about_completed_rates() -> None:
    """A sweep over callers uses completed rates; eight slots have their knee at eight."""

    async def measure(level: int) -> Report:
        rate = min(level, 8) * 100.0
        report = with_latency(level / rate / 0.01, BASE)
        plan = msgspec.structs.replace(BASE.plan, arrivals=None, concurrency=level)
        return msgspec.structs.replace(report, plan=plan, completed_rate=rate, asked_rate=None)

    search = asyncio.run(sweep_concurrency(measure, [1, 2, 4, 8, 16, 32]))

    assert search.kind == "concurrency"
    assert search.knee_rate == 800.0
    assert [point.concurrency for point in search.points] == [1, 2, 4, 8, 16, 32]
    assert {point.offered_rate for point in search.points} == {None}


def _no_bound() -> EarlyStopping:
    return EarlyStopping(percentile=99.0, bound_s=None, needed=662)
