"""Percentiles that say how sure they are.

Rules of this file:
- Exact, from every latency in nanoseconds; no histogram, no interpolation.
- A percentile is of the nearest rank: the smallest sample that at least this share of all samples
  does not exceed.
- Intervals hold with 99 % confidence for any distribution, as they come from order statistics; they
  take samples for independent, so at a high load the truth is somewhat wider.
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
"""One minus the confidence of everything here."""
CURVE_POINTS = 50
NS = 1e-9


def nearest_rank(count: int, percentile: float) -> int:
    """Which of `count` sorted samples the percentile is, from 1."""
    exact = count * Fraction(str(percentile)) / 100
    return max(1, -(-exact.numerator // exact.denominator))


@lru_cache
def floor(percentile: float, over: int = 1) -> int:
    """The fewest samples of which `over` may lie over a limit that the percentile is said to meet.

    LoadGen's rule: had the limit been missed, so few over it were seen in fewer than 1 % of runs.
    """
    if not 0 < percentile < 100:
        raise ConfigError(f"a percentile lies between 0 and 100, not at {percentile:g}")

    def is_enough(count: int) -> bool:
        return _at_most(over, count, _share_above(percentile)) < SIGNIFICANCE

    enough = over + 1
    while not is_enough(enough):
        enough *= 2
    return _first(is_enough, over, enough)


def early_stopping(
    latencies_ns: NDArray[np.int64], percentile: float, unanswered: int = 0
) -> EarlyStopping:
    """LoadGen's bound: as many of the largest samples are set aside as its confidence allows.

    Requests without an answer are part of the load that the promise was made to: they count as
    later than any bound.
    """
    count, share = len(latencies_ns) + unanswered, _share_above(percentile)
    needed = floor(percentile)
    if count < needed:
        return EarlyStopping(percentile=percentile, bound_s=None, needed=needed)
    over = _first(lambda over: _at_most(over, count, share) >= SIGNIFICANCE, 1, count) - 1
    if over <= unanswered:
        return EarlyStopping(percentile=percentile, bound_s=None, needed=needed)
    bound = np.partition(latencies_ns, count - over)[count - over]
    return EarlyStopping(percentile=percentile, bound_s=float(bound) * NS, needed=needed)


def latency(latencies_ns: NDArray[np.int64]) -> Latency | None:
    """Everything that is said of one kind of latency; None where nothing was measured."""
    if not len(latencies_ns):
        return None
    ordered = np.sort(latencies_ns)
    return Latency(
        count=len(ordered),
        mean_s=float(ordered.mean()) * NS,
        min_s=float(ordered[0]) * NS,
        max_s=float(ordered[-1]) * NS,
        percentiles=tuple(_percentile(ordered, percentile) for percentile in PERCENTILES),
        curve=_curve(ordered),
    )


def _percentile(ordered: NDArray[np.int64], percentile: float) -> Percentile:
    """The value only with so many samples that even their largest bounds the percentile."""
    count = len(ordered)
    low, high = _interval(count, percentile)
    is_enough = count >= floor(percentile, over=0)

    def value(rank: int) -> float | None:
        return float(ordered[rank - 1]) * NS if 1 <= rank <= count else None

    return Percentile(
        percentile=percentile,
        value_s=value(nearest_rank(count, percentile)) if is_enough else None,
        low_s=value(low),
        high_s=value(high),
        floor=floor(percentile),
    )


def _interval(count: int, percentile: float) -> tuple[int, int]:
    """Ranks between which the true percentile lies; 0 and count + 1 are "no such sample".

    The number of samples under the true percentile is binomial: each side is missed by half the
    significance at most.
    """
    share = 1 - _share_above(percentile)
    tail = SIGNIFICANCE / 2
    low = _first(lambda below: _at_most(below, count, share) >= tail, -1, count)
    high = _first(lambda below: _at_most(below, count, share) >= 1 - tail, -1, count)
    return low, high + 1


def _curve(ordered: NDArray[np.int64]) -> tuple[tuple[float, float], ...]:
    """From the smallest to the largest, evenly over the logarithm of 1/(1-q); no rank twice."""
    count = len(ordered)
    quantiles = 1 - np.power(float(count), -np.arange(CURVE_POINTS) / CURVE_POINTS)
    indexes = np.maximum(np.ceil(quantiles * count).astype(np.int64), 1) - 1
    indexes, chosen = np.unique(indexes, return_index=True)
    seconds = ordered[indexes] * NS
    inner = zip(quantiles[chosen].tolist(), seconds.tolist(), strict=True)
    return (*inner, (1.0, float(ordered[-1]) * NS))


def _share_above(percentile: float) -> float:
    return float(1 - Fraction(str(percentile)) / 100)


def _at_most(successes: int, count: int, share: float) -> float:
    """The chance of so many successes or fewer."""
    return float(require("scipy.special", "load").bdtr(successes, count, share))


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The first number over `low` for which it holds; it does for `high`, and ever after."""
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
