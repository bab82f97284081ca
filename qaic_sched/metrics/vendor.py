"""Latency metrics in the form of the vendor's package: its 11 keys and its printed lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qaic_sched.metrics.histogram import Histogram

__all__ = ["format_latency_metrics", "latency_metrics"]

_PERCENTILES = {"P25": 25, "P50": 50, "P75": 75, "P90": 90, "P99": 99, "P999": 99.9}


def latency_metrics(histogram: Histogram) -> dict[str, float | int]:
    """Return the vendor's metrics of a histogram, in seconds; all 0 if it is empty."""
    count = histogram.count
    return {
        "num_of_inferences": count,
        "min_latency": histogram.min,
        "max_latency": histogram.max,
        **{key: histogram.percentile(q) for key, q in _PERCENTILES.items()},
        "total_inference_time": histogram.sum,
        "avg_latency": histogram.sum / count if count else 0.0,
    }


def format_latency_metrics(metrics: Mapping[str, Any]) -> str:
    """Return the lines that the vendor's `print_metrics` prints, and one more for P999."""
    average = f"Average latency / inference time observed is {metrics['avg_latency']} s"
    percentiles = [
        f"{key} / {q:g}% of inferences observed latency less than {metrics[key]} s"
        for key, q in _PERCENTILES.items()
    ]
    return "\n".join(
        [
            f"Number of inferences utilized for calculation are {metrics['num_of_inferences']}",
            f"Minimum latency observed {metrics['min_latency']} s",
            f"Maximum latency observed {metrics['max_latency']} s",
            average,
            *percentiles,
            f"Sum of all the inference times {metrics['total_inference_time']} s",
            average,  # the vendor prints it twice
        ]
    )
