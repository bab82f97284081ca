"""Where the warm-up ends, and whether what is left is steady.

Rules of this file:
- Latencies are averaged over windows of equally many requests, in the order of their plan.
- The cut is MSER's: the one after which the mean is known best. It is looked for in the first half
  only; a best cut at the end of that says that the run was still changing.
- Only what the run began with is cut: the cut ends at the first window that is like the second
  half, so that a target that froze later is not taken for one that was cold.
- What is left is steady unless it has a trend that is both sure and large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qaic_sched.loadgen.report.report import WarmUp

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["find"]

WINDOWS = 100
MIN_WINDOWS = 20
WINDOW_SIZE = 5
"""MSER-5's; more where there are enough requests for `WINDOWS` windows."""
BORDER = 0.9
"""A cut this far into the first half is at its end."""
USUAL = (5, 95)
"""Percentiles of the second half's windows between which one is like it."""
CRITICAL = 0.739
"""The KPSS statistic that a level reaches in 1 % of runs."""
LAG_SHARE = 20
"""One lag for so many windows; more would take a straight line for noise."""
LARGE = 0.1
"""A trend changes the latency by this share of its mean from begin to end of what is left."""
RULE = "MSER on means of {size} requests, in the first half, up to the first window like the second"


@dataclass(frozen=True, slots=True)
class Trend:
    """What is left of the windows, held against a level."""

    change: float
    """Of the straight line through it from begin to end, as a share of the mean."""
    statistic: float
    """Of the KPSS test."""

    @property
    def is_steady(self) -> bool:
        """Unless the trend is both sure and large."""
        return abs(self.change) < LARGE or self.statistic < CRITICAL


def find(planned_ns: NDArray[np.int64], latency_ns: NDArray[np.int64]) -> WarmUp:
    """Look at requests that were done, in the order of their plan."""
    size = max(WINDOW_SIZE, len(planned_ns) // WINDOWS)
    count = len(planned_ns) // size
    if count < MIN_WINDOWS:
        return _too_few(len(planned_ns), size)
    means = latency_ns[: count * size].reshape(count, size).mean(axis=1)
    cut = _cut(means)
    trend = _trend(means[cut:])
    is_border = cut >= BORDER * (count // 2)
    return WarmUp(
        until_s=float(planned_ns[cut * size]) * 1e-9 if cut else 0.0,
        excluded=cut * size,
        rule=RULE.format(size=size),
        is_steady=trend.is_steady and not is_border,
        trend=_sentence(trend, is_border),
    )


def _too_few(count: int, size: int) -> WarmUp:
    return WarmUp(
        until_s=0.0,
        excluded=0,
        rule=RULE.format(size=size),
        is_steady=False,
        trend=f"{count} answers are too few to tell: {MIN_WINDOWS * WINDOW_SIZE} are needed",
    )


def _cut(means: NDArray[np.float64]) -> int:
    """How many windows are cut off."""
    half = len(means) // 2
    low, high = np.percentile(means[half:], USUAL)
    is_usual = (means[:half] >= low) & (means[:half] <= high)
    first_usual = int(is_usual.argmax()) if is_usual.any() else half
    return min(_mser(means), first_usual)


def _mser(means: NDArray[np.float64]) -> int:
    """The cut in the first half after which the mean's standard error is smallest."""
    deviations = means - means.mean()  # or the sums of squares cancel
    left = np.arange(len(means), 0, -1)
    sums = np.cumsum(deviations[::-1])[::-1]
    squares = np.cumsum(deviations[::-1] ** 2)[::-1]
    errors = (squares - sums**2 / left) / left**2
    return int(errors[: len(means) // 2 + 1].argmin())


def _trend(means: NDArray[np.float64]) -> Trend:
    """The line by least squares, and the KPSS test of whether there is a level instead.

    Its statistic is how far the running sum of the deviations strays, measured by what it would
    stray from noise alone; that counts neighbours' likeness up to a few windows, so a queue's own
    waves pass, and what grows and never comes back does not.
    """
    count = len(means)
    at = np.arange(count) - (count - 1) / 2
    deviations = means - means.mean()
    lags = count // LAG_SHARE
    noise = float(deviations @ deviations) + sum(
        2 * (1 - lag / (lags + 1)) * float(deviations[lag:] @ deviations[:-lag])
        for lag in range(1, lags + 1)
    )
    if noise <= 0:
        return Trend(change=0.0, statistic=0.0)
    change = float(at @ deviations / (at @ at)) * (count - 1) / float(means.mean())
    sums = np.cumsum(deviations)
    return Trend(change, statistic=float(sums @ sums) / (count * noise))


def _sentence(trend: Trend, is_border: bool) -> str:
    if is_border:
        return "the latency was still changing halfway through the run"
    return (
        f"from begin to end of what is left the latency changes by {trend.change:+.1%} of its mean,"
        f" KPSS {trend.statistic:.2f} (a trend if both {LARGE:.0%} and {CRITICAL} are reached)"
    )
