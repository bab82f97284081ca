"""Sample metrics for the tests of this folder."""

from __future__ import annotations

from qaic_sched.metrics.records import SchedulerMetrics

__all__ = ["VENDOR_KEYS", "two_devices"]

VENDOR_KEYS = [
    "num_of_inferences",
    "min_latency",
    "max_latency",
    "P25",
    "P50",
    "P75",
    "P90",
    "P99",
    "P999",
    "total_inference_time",
    "avg_latency",
]


def two_devices() -> SchedulerMetrics:
    """Return metrics: device 0 ran nine fast batches, device 1 a slow one and a failed one."""
    metrics = SchedulerMetrics(opened_at=100.0)
    metrics.add_device(0, 2)
    metrics.add_device(1, 1)
    for _ in range(9):
        metrics.record_batch(0, 0.5, samples=6, size=8)
    metrics.record_batch(1, 2.0, samples=8, size=8)
    metrics.record_error(1, samples=4, size=8, execute_s=1.0)
    metrics.record_retry(1)
    metrics.record_hedge(0)
    return metrics
