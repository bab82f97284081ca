"""Finds the end of the warm-up, and whether the rest of a run is steady.

Rules of this file:
- Latencies are averaged over windows with equal numbers of requests, in planned order.
- The cut is MSER's: after it, the mean has the smallest standard error. It is searched for in the
  first half only; a cut at the end of that half means that the run was still changing.
- The cut ends at the first window that is like the second half, so that a target that froze later
  is not taken for a cold one.
- The rest is steady unless it has a trend that is both significant and large.
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
"""Requests per window, as in MSER-5; more if there are enough for `WINDOWS` windows."""
LATEST_CUT = 0.9
"""A cut beyond this share of the first half counts as a cut at its end."""
USUAL_PERCENTILES = (5, 95)
"""A window between these percentiles of the second half's windows is like the second half."""
KPSS_CRITICAL = 0.739
"""The KPSS statistic that a series without a trend reaches in 1 % of runs."""
WINDOWS_PER_LAG = 20
"""Windows for each lag of the KPSS test; more lags would take a straight line for noise."""
LARGE_CHANGE = 0.1
"""A large trend changes the latency by this share of its mean."""
RULE = "MSER on means of {size} requests in the first half, up to the first window like the second"


@dataclass(frozen=True, slots=True)
class Trend:
    """The trend of the windows after the cut."""

    change: float
    """Of the fitted line from start to end, as a share of the mean."""
    statistic: float
    """The KPSS statistic."""

    @property
    def is_steady(self) -> bool:
        """Whether the trend is not both significant and large."""
        return abs(self.change) < LARGE_CHANGE or self.statistic < KPSS_CRITICAL


def find(planned_ns: NDArray[np.int64], latency_ns: NDArray[np.int64]) -> WarmUp:
    """Find the warm-up of the requests that were done, given in planned order."""
    size = max(WINDOW_SIZE, len(planned_ns) // WINDOWS)
    count = len(planned_ns) // size
    if count < MIN_WINDOWS:
        return _too_few(len(planned_ns), size)
    means = latency_ns[: count * size].reshape(count, size).mean(axis=1)
    cut = _cut(means)
    trend = _trend(means[cut:])
    is_border = cut >= LATEST_CUT * (count // 2)
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
        trend=f"{count} answers are too few to judge: {MIN_WINDOWS * WINDOW_SIZE} are needed",
    )


def _cut(means: NDArray[np.float64]) -> int:
    """Return the number of windows to cut off."""
    half = len(means) // 2
    low, high = np.percentile(means[half:], USUAL_PERCENTILES)
    is_usual = (means[:half] >= low) & (means[:half] <= high)
    first_usual = int(is_usual.argmax()) if is_usual.any() else half
    return min(_mser(means), first_usual)


def _mser(means: NDArray[np.float64]) -> int:
    """Return the cut in the first half that minimizes the mean's standard error after it."""
    deviations = means - means.mean()  # avoids cancellation in the sums of squares
    left = np.arange(len(means), 0, -1)
    sums = np.cumsum(deviations[::-1])[::-1]
    squares = np.cumsum(deviations[::-1] ** 2)[::-1]
    errors = (squares - sums**2 / left) / left**2
    return int(errors[: len(means) // 2 + 1].argmin())


def _trend(means: NDArray[np.float64]) -> Trend:
    """Fit a line by least squares, and compute the KPSS statistic against a constant level.

    The statistic is the spread of the running sum of deviations, relative to the spread that noise
    would give. The noise includes the correlation of neighbouring windows, so the normal waves of a
    queue pass, while a queue that keeps growing does not.
    """
    count = len(means)
    at = np.arange(count) - (count - 1) / 2
    deviations = means - means.mean()
    lags = count // WINDOWS_PER_LAG
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
    found = "no trend" if trend.is_steady else "a trend"
    return (
        f"the latency changes by {trend.change:+.1%} of its mean over the measured part, KPSS"
        f" {trend.statistic:.2f}: {found} (a trend reaches {LARGE_CHANGE:.0%} and {KPSS_CRITICAL})"
    )
