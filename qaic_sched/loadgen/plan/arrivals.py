"""Schedules: the planned instants of every kind of arrivals, in nanoseconds.

Rules of this file:
- Equal arrivals, duration and seed give equal instants, to the nanosecond. If the mean rate is
  constant, a longer run begins with the instants of a shorter one.
- For a changing rate, Poisson arrivals of rate 1 are mapped through the inverse of the cumulative
  rate: exact, and vectorized.
- The first gap of a renewal process is the rest of a gap at a random instant (a stationary
  process), so the mean rate is as planned however bursty the arrivals are.
- An invalid number raises `ConfigError`, which names the field.
"""

from __future__ import annotations

import hashlib
from math import isfinite, sqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import PCG64, Generator

from qaic_sched.errors import ConfigError
from qaic_sched.loadgen.plan.plan import Burst, Constant, Gamma, Mmpp, Poisson, Ramp, Step, Trace
from qaic_sched.loadgen.plan.traces import read_trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qaic_sched.loadgen.plan.plan import Arrivals

    Floats = NDArray[np.float64]

__all__ = ["mean_rate", "schedule", "schedule_hash"]

MAX_REQUESTS = 100_000_000
"""Most requests of a run: more are almost certainly a mistake, and would not fit into memory."""


def schedule(
    arrivals: Arrivals, duration_s: float, seed: int, max_requests: int | None = None
) -> NDArray[np.int64]:
    """Return the planned instants in nanoseconds, ascending, from 0 to before `duration_s`.

    At most the first `max_requests` are returned. Raises `ConfigError` for invalid numbers and
    `InputError` for a trace that cannot be read.
    """
    _check_positive("duration_s", duration_s)
    if max_requests is not None and max_requests < 1:
        raise ConfigError(f"max_requests: must be at least 1, not {max_requests}")
    if seed < 0:
        raise ConfigError(f"seed: must not be negative, not {seed}")
    _check(arrivals)
    rate = mean_rate(arrivals, duration_s)
    if rate is not None and rate * duration_s > MAX_REQUESTS:
        raise ConfigError(
            f"rate: {rate:g} per second for {duration_s:g} s make {rate * duration_s:.3g} "
            f"requests; one run has at most {MAX_REQUESTS:,}"
        )
    planned_ns = _planned_ns(arrivals, duration_s, Generator(PCG64(seed)))
    until = int(np.searchsorted(planned_ns, round(duration_s * 1e9)))
    return planned_ns[:until][:max_requests]


def schedule_hash(planned_ns: NDArray[np.int64]) -> str:
    """Return the SHA-256 of the instants as little-endian 64-bit integers."""
    return hashlib.sha256(np.ascontiguousarray(planned_ns, "<i8").tobytes()).hexdigest()


def mean_rate(arrivals: Arrivals, duration_s: float) -> float | None:
    """Return the planned requests per second over the run; None for traces and bursts."""
    if isinstance(arrivals, Constant | Poisson | Gamma | Mmpp):
        return arrivals.rate
    if isinstance(arrivals, Step):
        return sum(arrivals.rates) / len(arrivals.rates)
    if isinstance(arrivals, Ramp):
        return (arrivals.from_rate + arrivals.to_rate) / 2
    return None


def _planned_ns(arrivals: Arrivals, duration_s: float, rng: Generator) -> NDArray[np.int64]:
    if isinstance(arrivals, Burst):
        return np.zeros(arrivals.count, np.int64)
    if isinstance(arrivals, Trace):
        return _in_ns(read_trace(arrivals.path) / 1e9 / arrivals.speedup)
    if isinstance(arrivals, Constant):
        return _in_ns(np.arange(int(arrivals.rate * duration_s) + 1) / arrivals.rate)
    if isinstance(arrivals, Poisson):
        return _in_ns(_renewals(rng, 1.0, arrivals.rate * duration_s) / arrivals.rate)
    if isinstance(arrivals, Gamma):
        return _in_ns(_renewals(rng, arrivals.cv, arrivals.rate * duration_s) / arrivals.rate)
    if isinstance(arrivals, Ramp):
        return _in_ns(_ramp(arrivals, duration_s, rng))
    if isinstance(arrivals, Step):
        times = np.linspace(0.0, duration_s, len(arrivals.rates) + 1)
        return _in_ns(_piecewise(times, np.array(arrivals.rates), rng))
    return _in_ns(_piecewise(*_mmpp_states(arrivals, duration_s, rng), rng))


def _in_ns(seconds: Floats) -> NDArray[np.int64]:
    return np.rint(seconds * 1e9).astype(np.int64)


def _renewals(rng: Generator, cv: float, until: float) -> Floats:
    """Draw instants before `until` with gaps of mean 1 and coefficient of variation `cv`.

    The gaps are gamma distributed; the first is the rest of a gap at a random instant.
    """
    shape, scale = 1 / cv**2, cv**2
    # A random instant falls into a long gap more often: such gaps are gamma with shape + 1.
    first = rng.random() * rng.standard_gamma(shape + 1) * scale
    count = int(until + 6 * cv * sqrt(until)) + 64
    times = np.cumsum(np.append(first, _gaps(rng, shape, count)))
    while times[-1] < until:
        more = _gaps(rng, shape, count)
        more[0] += times[-1]
        times = np.append(times, np.cumsum(more))
    return times[: np.searchsorted(times, until)]


def _gaps(rng: Generator, shape: float, count: int) -> Floats:
    return rng.standard_gamma(shape, count) / shape


def _piecewise(times: Floats, rates: Floats, rng: Generator) -> Floats:
    """Draw Poisson arrivals at `rates[i]` from `times[i]` to `times[i + 1]`."""
    cumulative = np.append(0.0, np.cumsum(rates * np.diff(times)))
    return np.interp(_renewals(rng, 1.0, cumulative[-1]), cumulative, times)


def _ramp(ramp: Ramp, duration_s: float, rng: Generator) -> Floats:
    """Draw Poisson arrivals at a linear rate, whose cumulative rate is a parabola."""
    units = _renewals(rng, 1.0, (ramp.from_rate + ramp.to_rate) / 2 * duration_s)
    slope = (ramp.to_rate - ramp.from_rate) / duration_s
    root = np.sqrt(np.maximum(ramp.from_rate**2 + 2 * slope * units, 0.0))
    return 2 * units / (ramp.from_rate + root)


def _mmpp_states(mmpp: Mmpp, duration_s: float, rng: Generator) -> tuple[Floats, Floats]:
    """Draw the instants at which the state changes, and the rate between them."""
    share = mmpp.burst_share
    is_busy_first = rng.random() < share
    means = mmpp.cycle_s * np.array([share, 1 - share] if is_busy_first else [1 - share, share])
    cycles = int(duration_s / mmpp.cycle_s + 6 * sqrt(duration_s / mmpp.cycle_s)) + 16
    ends = np.zeros(1)
    while ends[-1] < duration_s:
        stays = rng.standard_exponential((cycles, 2)) * means
        ends = np.append(ends, ends[-1] + np.cumsum(stays))
    times = np.append(ends[ends < duration_s], duration_s)
    busy = mmpp.rate * mmpp.burst_factor
    calm = max(mmpp.rate * (1 - mmpp.burst_factor * share) / (1 - share), 0.0)
    pair = [busy, calm] if is_busy_first else [calm, busy]
    return times, np.resize(pair, len(times) - 1)


# Checks


def _check(arrivals: Arrivals) -> None:
    if isinstance(arrivals, Constant | Poisson | Gamma | Mmpp):
        _check_positive("rate", arrivals.rate)
    if isinstance(arrivals, Gamma):
        _check_positive("cv", arrivals.cv)
    elif isinstance(arrivals, Mmpp):
        _check_mmpp(arrivals)
    elif isinstance(arrivals, Step):
        _check_rates("rates", arrivals.rates)
    elif isinstance(arrivals, Ramp):
        _check_rates("from_rate, to_rate", (arrivals.from_rate, arrivals.to_rate))
    elif isinstance(arrivals, Trace):
        _check_positive("speedup", arrivals.speedup)
    elif isinstance(arrivals, Burst) and not 1 <= arrivals.count <= MAX_REQUESTS:
        raise ConfigError(f"count: must be from 1 to {MAX_REQUESTS:,}, not {arrivals.count}")


def _check_mmpp(mmpp: Mmpp) -> None:
    _check_positive("cycle_s", mmpp.cycle_s)
    if not 0 < mmpp.burst_share < 1:
        raise ConfigError(f"burst_share: must be between 0 and 1, not {mmpp.burst_share:g}")
    if not 1 <= mmpp.burst_factor <= (1 + 1e-12) / mmpp.burst_share:
        raise ConfigError(
            f"burst_factor: must be from 1 to 1 / burst_share = {1 / mmpp.burst_share:g}, "
            f"not {mmpp.burst_factor:g}: the calm state's rate would be negative"
        )


def _check_rates(field: str, rates: tuple[float, ...]) -> None:
    if not all(isfinite(rate) and rate >= 0 for rate in rates) or not any(rates):
        text = ", ".join(f"{rate:g}" for rate in rates) or "none"
        raise ConfigError(f"{field}: needs a value above 0 and none below 0, not {text}")


def _check_positive(field: str, value: float) -> None:
    if not (isfinite(value) and value > 0):
        raise ConfigError(f"{field}: must be above 0, not {value:g}")
