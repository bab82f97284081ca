"""A latency histogram of fixed memory that merges without loss.

Rules of this file:
- Buckets are log-linear: each power of two of seconds is divided into equal parts, so that the
  middle of a bucket differs from a recorded value by at most 0.4 %, from 1 ns to 6 days.
- Recording appends to a short list. Full lists go into an array, and numpy sorts a full array into
  buckets at once. One long list would cost the garbage collector a visit to each number, on every
  device; appending to the array directly takes several times as long.
- It belongs to one thread; recording from several threads needs a lock.
"""

from __future__ import annotations

import math
from array import array
from typing import Final

import numpy as np

__all__ = ["Histogram"]

_PARTS = 128
_MIN_EXPONENT = -30
_MAX_EXPONENT = 20
_NUM_BUCKETS: Final = (_MAX_EXPONENT - _MIN_EXPONENT) * _PARTS
_LIST_SIZE: Final = 64
_BUFFER_SIZE: Final = 1024


class Histogram:
    """A histogram of durations in seconds.

    Count, sum, minimum and maximum are exact, percentiles within 0.4 %. Values below 1 ns, zero and
    negative ones included, fall into the first bucket, values above 6 days into the last. Without
    values everything reads 0.
    """

    __slots__ = ("_buckets", "_buffer", "_count", "_max", "_min", "_newest", "_sum")

    def __init__(self) -> None:
        self._buckets = np.zeros(_NUM_BUCKETS, dtype=np.int64)
        self._newest: list[float] = []
        self._buffer = array("d")
        self._count = 0
        self._sum = 0.0
        self._min = math.inf
        self._max = -math.inf

    def record(self, seconds: float) -> None:
        """Record one duration, in seconds."""
        self._newest.append(seconds)
        if len(self._newest) >= _LIST_SIZE:
            self._buffer_newest()
            if len(self._buffer) >= _BUFFER_SIZE:
                self._flush()

    def merge(self, other: Histogram) -> None:
        """Add all values of another histogram, which stays unchanged."""
        self._flush()
        other._flush()
        self._buckets += other._buckets
        self._count += other._count
        self._sum += other._sum
        self._min = min(self._min, other._min)
        self._max = max(self._max, other._max)

    def copy(self) -> Histogram:
        """Return an independent histogram with the same values."""
        copied = Histogram()
        copied.merge(self)
        return copied

    @property
    def count(self) -> int:
        """The number of values."""
        return self._count + len(self._buffer) + len(self._newest)

    @property
    def sum(self) -> float:
        """The sum of all values, in seconds."""
        self._flush()
        return self._sum

    @property
    def min(self) -> float:
        """The smallest value, in seconds."""
        self._flush()
        return self._min if self._count else 0.0

    @property
    def max(self) -> float:
        """The largest value, in seconds."""
        self._flush()
        return self._max if self._count else 0.0

    def percentile(self, q: float) -> float:
        """Return the percentile `q` (0 to 100) in seconds, by nearest rank."""
        self._flush()
        # Rounded, because in floating point 99.9 % of 1000 is slightly more than 999.
        rank = max(1, math.ceil(round(q * self._count / 100, 6)))
        if rank >= self._count:
            return self.max
        bucket = int(np.searchsorted(np.cumsum(self._buckets), rank))
        octave, part = divmod(bucket, _PARTS)
        middle = math.ldexp(_PARTS + part + 0.5, octave + _MIN_EXPONENT) / (2 * _PARTS)
        return min(max(middle, self._min), self._max)

    def _buffer_newest(self) -> None:
        self._buffer.fromlist(self._newest)
        self._newest.clear()

    def _flush(self) -> None:
        self._buffer_newest()
        if not self._buffer:
            return
        values = np.array(self._buffer)
        del self._buffer[:]
        self._buckets += np.bincount(_buckets_of(values), minlength=_NUM_BUCKETS)
        self._count += len(values)
        self._sum += float(values.sum())
        self._min = min(self._min, float(values.min()))
        self._max = max(self._max, float(values.max()))


def _buckets_of(
    values: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the bucket of each value, from its power of two and its position within."""
    mantissas, exponents = np.frexp(values)
    octaves = (exponents.astype(np.int64) - _MIN_EXPONENT) * _PARTS
    parts = ((mantissas * 2 - 1) * _PARTS).astype(np.int64)
    buckets = np.where(values > 0, octaves + parts, 0)
    return np.clip(buckets, 0, _NUM_BUCKETS - 1)
