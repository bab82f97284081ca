"""Running estimates of the execution time on a device, by batch size.

Without compiled sizes there is no end of sizes. Then times are kept by classes of sizes that differ
by a quarter at most, and the time of an unmeasured size is taken to be in proportion to its class.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

__all__ = [
    "LEAST_COUNT",
    "MAX_COUNTED_RATIO",
    "STEADY_COUNT",
    "ExecuteTimes",
    "ewma_weight",
    "size_class",
]

_EWMA_WEIGHT: Final = 0.02
"""Weight of the newest time in a running mean of many."""
STEADY_COUNT: Final = 50
"""That weight applies beyond this many times, 1 / `_EWMA_WEIGHT`; until then the mean is plain."""
MAX_COUNTED_RATIO: Final = 10.0
"""A time counts for at most this many means. One hang predicts nothing; if all times stay that
long, the mean gets there after a few dozen of them."""
LEAST_COUNT: Final = 4
"""Fewest times that make a mean, or a device's ratio to its group, reliable."""
_DEADLINE_SIGMAS: Final = 2.0
"""Standard deviations beyond the mean that a deadline has to leave room for."""


def ewma_weight(count: int) -> float:
    """Return the weight of the newest of `count` times in their running mean."""
    return 1 / count if count < STEADY_COUNT else _EWMA_WEIGHT


def size_class(size: int) -> int:
    """Return the largest size of the class that a batch size is in: 1 to 8, 10, 12, 14, 16, 20 …"""
    step = 1 << max((size - 1).bit_length() - 3, 0)
    return -(-size // step) * step


class _Mean:
    """The running mean of the execution times of one batch size, or class of sizes."""

    __slots__ = ("count", "seconds")

    def __init__(self, count: int, seconds: float) -> None:
        self.count = count
        """Times in it; starts at `LEAST_COUNT` if the mean was scaled from another group's."""
        self.seconds = seconds
        """Their mean, the newest weighted most."""


class ExecuteTimes:
    """Mean execution time by batch size, and how much the times vary."""

    __slots__ = ("_means", "cv2", "takes_any_size")

    def __init__(self, *, takes_any_size: bool = False) -> None:
        self.takes_any_size = takes_any_size
        """Whether sizes are put into classes, as there are no compiled ones."""
        self.cv2 = 0.0
        """Squared coefficient of variation, over all sizes."""
        self._means: dict[int, _Mean] = {}
        """By compiled batch size, or class of sizes; those without an answer are absent."""

    def record(self, size: int, execute_s: float) -> float:
        """Record one execution time; return its ratio to the mean before it."""
        if self.takes_any_size:
            size = size_class(size)
        mean = self._means.get(size)
        if mean is None:
            mean = self._means[size] = _Mean(0, execute_s)
        mean.count += 1
        weight = ewma_weight(mean.count)
        ratio = counted = execute_s / mean.seconds if mean.seconds > 0 else 1.0
        if ratio > MAX_COUNTED_RATIO and mean.count > LEAST_COUNT:
            counted, execute_s = MAX_COUNTED_RATIO, MAX_COUNTED_RATIO * mean.seconds
        mean.seconds += weight * (execute_s - mean.seconds)
        self.cv2 += weight * ((counted - 1) * (counted - 1) - self.cv2)
        return ratio

    def mean_s(self, size: int) -> float:
        """Return the mean for a size, or for the nearest measured size; 0 if there is none.

        Of any number of sizes, the nearest may be far away: its mean is then scaled to the size.
        """
        if self.takes_any_size:
            size = size_class(size)
        mean = self._means.get(size)
        if mean is not None:
            return mean.seconds
        if not self._means:
            return 0.0
        nearest = min(self._means, key=lambda known: (abs(known - size), known))
        seconds = self._means[nearest].seconds
        return seconds * size / nearest if self.takes_any_size else seconds

    def likely_s(self, size: int) -> float:
        """Return a time that most inferences of a size stay within; 0 if nothing was measured."""
        return self.mean_s(size) * (1 + _DEADLINE_SIGMAS * sqrt(self.cv2))

    def measured_s(self, size: int) -> float | None:
        """Return the mean for exactly this size or class; None before a few inferences of it."""
        if self.takes_any_size:
            size = size_class(size)
        mean = self._means.get(size)
        return mean.seconds if mean is not None and mean.count >= LEAST_COUNT else None

    def scaled(self, ratio: float) -> ExecuteTimes:
        """Return the estimates for devices that take `ratio` times as long."""
        other = ExecuteTimes(takes_any_size=self.takes_any_size)
        other.cv2 = self.cv2
        other._means = {
            size: _Mean(LEAST_COUNT, ratio * mean.seconds) for size, mean in self._means.items()
        }
        return other
