"""Planned instants have the given rate and burstiness, and are repeatable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qaic_sched.errors import ConfigError
from qaic_sched.loadgen.plan.arrivals import mean_rate, schedule, schedule_hash
from qaic_sched.loadgen.plan.plan import (
    Arrivals,
    Burst,
    Constant,
    Gamma,
    Mmpp,
    Poisson,
    Ramp,
    Step,
    Trace,
)

RANDOM: list[Arrivals] = [
    Poisson(1000),
    Gamma(1000, 0.3),
    Gamma(1000, 4),
    Gamma(1000, 13),
    Mmpp(1000),
    Mmpp(1000, burst_factor=10, burst_share=0.1, cycle_s=0.1),
    Step((100, 2000, 0)),
    Ramp(0, 2000),
    Ramp(2000, 500),
]


def cv(planned_ns: NDArray[np.int64]) -> float:
    """Coefficient of variation of the gaps."""
    gaps = np.diff(planned_ns)
    return float(gaps.std() / gaps.mean())


def counts(planned_ns: NDArray[np.int64], width_s: float, duration_s: float) -> NDArray[np.int64]:
    """Arrivals in each window."""
    windows = round(duration_s / width_s)
    return np.bincount((planned_ns // round(width_s * 1e9)).astype(int), minlength=windows)


def test_constant_arrivals_are_evenly_spaced() -> None:
    """Constant arrivals start at 0, a period apart, and end before the duration."""
    planned_ns = schedule(Constant(1000), 2.0, 1)

    assert len(planned_ns) == 2000
    assert planned_ns.tolist() == [i * 1_000_000 for i in range(2000)]


@pytest.mark.parametrize("arrivals", RANDOM, ids=str)
def test_the_mean_rate_is_the_one_asked_for(arrivals: Arrivals) -> None:
    """The mean over many seeds is within four standard errors, and within 5 %, of the rate."""
    found = np.array([len(schedule(arrivals, 20.0, seed)) for seed in range(60)])
    rate = mean_rate(arrivals, 20.0)
    assert rate is not None
    error = found.mean() - rate * 20.0

    assert abs(error) < 4 * found.std() / np.sqrt(len(found)) + 1
    assert abs(error) < 0.05 * rate * 20.0


@pytest.mark.parametrize("arrivals", RANDOM, ids=str)
def test_instants_ascend_from_the_beginning_to_before_the_end(arrivals: Arrivals) -> None:
    """All instants lie within the run."""
    planned_ns = schedule(arrivals, 3.0, 5)

    assert planned_ns.dtype == np.int64
    assert planned_ns[0] >= 0
    assert planned_ns[-1] < 3_000_000_000
    assert (np.diff(planned_ns) >= 0).all()


@pytest.mark.parametrize(("arrivals", "wanted"), [(Poisson(1000), 1), (Gamma(1000, 4), 4)])
def test_gaps_vary_as_asked(arrivals: Arrivals, wanted: float) -> None:
    """The coefficient of variation of the gaps is that of the process."""
    assert cv(schedule(arrivals, 200.0, 1)) == pytest.approx(wanted, rel=0.03)


def test_gamma_of_cv_1_is_poisson_and_below_it_is_calmer() -> None:
    """Variance over mean of counts (index of dispersion) tends to the squared CV of the gaps."""
    for wanted in (0.5, 1.0, 2.0):
        windows = counts(schedule(Gamma(1000, wanted), 400.0, 2), 0.1, 400.0)
        assert windows.var() / windows.mean() == pytest.approx(wanted**2, rel=0.1)


def test_mmpp_is_as_bursty_as_theory_says() -> None:
    """The index of dispersion of counts has a closed form for two switching rates."""
    mmpp = Mmpp(1000, burst_factor=4.0, burst_share=0.25, cycle_s=0.1)
    to_calm, to_busy = 1 / (0.25 * 0.1), 1 / (0.75 * 0.1)
    both, width, spread = to_calm + to_busy, 0.5, 4000.0
    decay = 1 - (1 - np.exp(-both * width)) / (both * width)
    wanted = 1 + 2 * 0.25 * 0.75 * spread**2 / (1000 * both) * decay

    windows = counts(schedule(mmpp, 1000.0, 3), width, 1000.0)

    assert windows.var() / windows.mean() == pytest.approx(wanted, rel=0.15)


def test_steps_and_ramps_have_their_rate_at_every_time() -> None:
    """Each part of the run has arrivals at the rate of that part."""
    steps = counts(schedule(Step((500, 0, 2000)), 30.0, 4), 10.0, 30.0)
    ramp = counts(schedule(Ramp(0, 2000), 100.0, 4), 25.0, 100.0)

    assert steps == pytest.approx([5000, 0, 20000], rel=0.05)
    assert ramp == pytest.approx([6250, 18750, 31250, 43750], rel=0.05)


def test_a_trace_is_replayed_faster(tmp_path: Path) -> None:
    """Recorded instants are divided by the speed-up, and cut at the end of the run."""
    (tmp_path / "trace.csv").write_text("10\n11\n13.5\n20\n")

    planned_ns = schedule(Trace(str(tmp_path / "trace.csv"), speedup=2), 3.0, 1)

    assert planned_ns.tolist() == [0, 500_000_000, 1_750_000_000]
    assert mean_rate(Trace("any"), 3.0) is None


def test_a_burst_is_all_at_once() -> None:
    """Offline: every request is due at the beginning."""
    assert schedule(Burst(7), 1.0, 1).tolist() == [0] * 7
    assert schedule(Burst(7), 1.0, 1, max_requests=3).tolist() == [0] * 3


def test_the_same_seed_gives_the_same_instants() -> None:
    """Another seed gives other instants and another hash."""
    for arrivals in RANDOM:
        first, again, other = (schedule(arrivals, 2.0, seed) for seed in (1, 1, 2))
        assert first.tobytes() == again.tobytes()
        assert schedule_hash(first) == schedule_hash(again) != schedule_hash(other)


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    """`max_requests` gives the first instants of a longer schedule."""
    for arrivals in (Poisson(1000), Gamma(1000, 5), Constant(300)):
        short, long = schedule(arrivals, 1.0, 9), schedule(arrivals, 30.0, 9)
        assert long[: len(short)].tolist() == short.tolist()
        assert schedule(arrivals, 30.0, 9, max_requests=100).tolist() == long[:100].tolist()


@pytest.mark.parametrize(
    ("arrivals", "field"),
    [
        (Constant(0), "rate"),
        (Poisson(-1), "rate"),
        (Poisson(float("nan")), "rate"),
        (Poisson(1e12), "rate"),
        (Gamma(10, 0), "cv"),
        (Mmpp(10, burst_factor=4, burst_share=0.3), "burst_factor"),
        (Mmpp(10, burst_factor=0.5), "burst_factor"),
        (Mmpp(10, burst_share=1.0), "burst_share"),
        (Mmpp(10, cycle_s=0), "cycle_s"),
        (Step(()), "rates"),
        (Step((1, -1)), "rates"),
        (Ramp(0, 0), "from_rate"),
        (Trace("any", speedup=0), "speedup"),
        (Burst(0), "count"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_name(arrivals: Arrivals, field: str) -> None:
    """The error begins with the invalid field."""
    with pytest.raises(ConfigError, match=f"^{field}"):
        schedule(arrivals, 10.0, 1)


def test_a_run_of_no_length_is_refused() -> None:
    """A `max_requests` below 1 and a negative seed are invalid."""
    with pytest.raises(ConfigError, match="duration_s"):
        schedule(Poisson(1), 0.0, 1)
    with pytest.raises(ConfigError, match="max_requests"):
        schedule(Poisson(1), 1.0, 1, max_requests=0)
    with pytest.raises(ConfigError, match="seed"):
        schedule(Poisson(1), 1.0, -1)
