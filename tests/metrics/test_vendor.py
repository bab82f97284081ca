"""Latency metrics in the vendor's form: its keys and its printed lines."""

from __future__ import annotations

import pytest

from qaic_sched.metrics.histogram import Histogram
from qaic_sched.metrics.vendor import format_latency_metrics, latency_metrics
from tests.metrics.metrics_samples import VENDOR_KEYS


def test_latency_metrics_have_the_vendors_keys() -> None:
    """The keys are the vendor's, in its order, and the values are in seconds."""
    histogram = Histogram()
    for seconds in (0.25, 0.5, 1.0, 2.25):
        histogram.record(seconds)

    metrics = latency_metrics(histogram)

    assert list(metrics) == VENDOR_KEYS
    assert metrics["num_of_inferences"] == 4
    assert (metrics["min_latency"], metrics["max_latency"]) == (0.25, 2.25)
    assert (metrics["total_inference_time"], metrics["avg_latency"]) == (4.0, 1.0)
    assert metrics["P50"] == pytest.approx(0.5, rel=0.005)
    assert metrics["P999"] == 2.25


def test_latency_metrics_of_nothing_are_zero() -> None:
    """Before the first inference every metric is 0, not an error."""
    assert latency_metrics(Histogram()) == dict.fromkeys(VENDOR_KEYS, 0)


def test_printed_lines_are_the_vendors() -> None:
    """Scripts that parse the vendor's output find its lines, and one more for P999."""
    metrics = {key: index / 8 for index, key in enumerate(VENDOR_KEYS)} | {"num_of_inferences": 999}

    assert format_latency_metrics(metrics).splitlines() == [
        "Number of inferences utilized for calculation are 999",
        "Minimum latency observed 0.125 s",
        "Maximum latency observed 0.25 s",
        "Average latency / inference time observed is 1.25 s",
        "P25 / 25% of inferences observed latency less than 0.375 s",
        "P50 / 50% of inferences observed latency less than 0.5 s",
        "P75 / 75% of inferences observed latency less than 0.625 s",
        "P90 / 90% of inferences observed latency less than 0.75 s",
        "P99 / 99% of inferences observed latency less than 0.875 s",
        "P999 / 99.9% of inferences observed latency less than 1.0 s",
        "Sum of all the inference times 1.125 s",
        "Average latency / inference time observed is 1.25 s",
    ]
