"""Percentiles with confidence intervals.

Rules of this file:
- Percentiles are exact, from every latency in nanoseconds, without histogram or interpolation.
- A percentile has the nearest rank: it is the smallest sample that at least this share of all
  samples does not exceed.
- Intervals come from order statistics, so their 99 % confidence holds for any distribution. They
  assume independent samples; at a high load the true interval is somewhat wider.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from qaic_sched.errors import ConfigError
from qaic_sched.extras import require
from qaic_sched.loadgen.report.report import EarlyStopping, Latency, Percentile

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["PERCENTILES", "early_stopping", "floor", "latency", "nearest_rank"]

PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99)
SIGNIFICANCE = 0.01
"""One minus the confidence of all intervals and bounds."""
CURVE_POINTS = 50
S_PER_NS = 1e-9


def nearest_rank(count: int, percentile: float) -> int:
    """Return the rank of a percentile among `count` sorted samples, from 1."""
    exact = count * Fraction(str(percentile)) / 100
    return max(1, -(-exact.numerator // exact.denominator))


@lru_cache
def floor(percentile: float, over: int = 1) -> int:
    """Return the fewest samples that show a percentile to meet a limit, with `over` above it.

    LoadGen's rule: if the percentile missed the limit, at most `over` samples above it would be
    seen in fewer than 1 % of runs. Raises `ConfigError` for a percentile outside 0 to 100.
    """
    if not 0 < percentile < 100:
        raise ConfigError(f"percentile: must be between 0 and 100, not {percentile:g}")

    def is_enough(count: int) -> bool:
        return _at_most(over, count, _share_above(percentile)) < SIGNIFICANCE

    enough = over + 1
    while not is_enough(enough):
        enough *= 2
    return _first(is_enough, over, enough)


def early_stopping(
    latencies_ns: NDArray[np.int64], percentile: float, unanswered: int = 0
) -> EarlyStopping:
    """Compute LoadGen's bound: the largest sample after setting aside what its confidence allows.

    Requests without an answer count as later than any bound: the SLO covers them too.
    """
    count, share = len(latencies_ns) + unanswered, _share_above(percentile)
    needed = floor(percentile)
    if count < needed:
        return EarlyStopping(percentile=percentile, bound_s=None, needed=needed)
    over = _first(lambda over: _at_most(over, count, share) >= SIGNIFICANCE, 1, count) - 1
    if over <= unanswered:
        return EarlyStopping(percentile=percentile, bound_s=None, needed=needed)
    bound = np.partition(latencies_ns, count - over)[count - over]
    return EarlyStopping(percentile=percentile, bound_s=float(bound) * S_PER_NS, needed=needed)


def latency(latencies_ns: NDArray[np.int64]) -> Latency | None:
    """Describe a distribution of latencies; None without any."""
    if not len(latencies_ns):
        return None
    ordered = np.sort(latencies_ns)
    return Latency(
        count=len(ordered),
        mean_s=float(ordered.mean()) * S_PER_NS,
        min_s=float(ordered[0]) * S_PER_NS,
        max_s=float(ordered[-1]) * S_PER_NS,
        percentiles=tuple(_percentile(ordered, percentile) for percentile in PERCENTILES),
        curve=_curve(ordered),
    )


def _percentile(ordered: NDArray[np.int64], percentile: float) -> Percentile:
    """Compute a percentile; its value only if the largest sample bounds it."""
    count = len(ordered)
    low, high = _interval(count, percentile)
    is_enough = count >= floor(percentile, over=0)

    def value(rank: int) -> float | None:
        return float(ordered[rank - 1]) * S_PER_NS if 1 <= rank <= count else None

    return Percentile(
        percentile=percentile,
        value_s=value(nearest_rank(count, percentile)) if is_enough else None,
        low_s=value(low),
        high_s=value(high),
        floor=floor(percentile),
    )


def _interval(count: int, percentile: float) -> tuple[int, int]:
    """Return the ranks that enclose the true percentile; 0 and count + 1 have no sample.

    The number of samples below the true percentile is binomial, so each side is missed with at most
    half the significance.
    """
    share = 1 - _share_above(percentile)
    tail = SIGNIFICANCE / 2
    low = _first(lambda below: _at_most(below, count, share) >= tail, -1, count)
    high = _first(lambda below: _at_most(below, count, share) >= 1 - tail, -1, count)
    return low, high + 1


def _curve(ordered: NDArray[np.int64]) -> tuple[tuple[float, float], ...]:
    """Return pairs of quantile and seconds, evenly over log 1/(1-q); no rank twice."""
    count = len(ordered)
    quantiles = 1 - np.power(float(count), -np.arange(CURVE_POINTS) / CURVE_POINTS)
    indexes = np.maximum(np.ceil(quantiles * count).astype(np.int64), 1) - 1
    indexes, chosen = np.unique(indexes, return_index=True)
    seconds = ordered[indexes] * S_PER_NS
    inner = zip(quantiles[chosen].tolist(), seconds.tolist(), strict=True)
    return (*inner, (1.0, float(ordered[-1]) * S_PER_NS))


def _share_above(percentile: float) -> float:
    return float(1 - Fraction(str(percentile)) / 100)


def _at_most(successes: int, count: int, share: float) -> float:
    """Return the probability of at most `successes` successes."""
    return float(require("scipy.special", "load").bdtr(successes, count, share))


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Bisect for the first number above `low` that holds; `high` and all above hold."""
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
