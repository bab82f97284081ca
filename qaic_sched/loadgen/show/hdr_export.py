"""Exports percentile distributions in HdrHistogram's format (`.hgrm`)."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from qaic_sched.extras import require

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["write_percentiles"]

DIGITS = 3
BUCKET_BITS = 11
"""Significant bits of a value in a histogram of three digits."""
NS_PER_MS = 1e6


def write_percentiles(latency_ns: NDArray[np.int64], path: Path) -> None:
    """Write the percentile distribution in milliseconds, with three significant digits."""
    histogram_class = require("hdrh.histogram", "load").HdrHistogram
    values, counts = np.unique(_rounded(latency_ns), return_counts=True)
    largest = max(int(values.max(initial=0)), 2)
    histogram = histogram_class(1, largest, DIGITS)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    buffer = BytesIO()
    histogram.output_percentile_distribution(buffer, NS_PER_MS)
    path.write_text(_in_ms(buffer.getvalue().decode(), histogram.get_stddev()))


def _in_ms(text: str, deviation_ns: float) -> str:
    """Scale the standard deviation, which the package leaves in nanoseconds."""
    name = "StdDeviation   ="
    deviation_ms = deviation_ns / NS_PER_MS
    return text.replace(f"{name} {deviation_ns:12.3f}", f"{name} {deviation_ms:12.3f}")


def _rounded(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Round down to the lowest value of the histogram's bucket, to leave few distinct values."""
    _, bits = np.frexp(np.maximum(values, 1))
    drop = np.maximum(bits.astype(np.int64) - BUCKET_BITS, 0)
    return values >> drop << drop
