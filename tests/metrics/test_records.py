"""Metrics: the vendor's keys and lines, and what a scheduler records per device."""

from __future__ import annotations

import json

import pytest

from qaic_sched.metrics.histogram import Histogram
from qaic_sched.metrics.records import SchedulerMetrics
from qaic_sched.metrics.table import format_device_table
from qaic_sched.metrics.vendor import format_latency_metrics, latency_metrics

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
    """Device 0 ran nine fast batches, device 1 one slow one and one that failed."""
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


def words(line: str) -> str:
    """A table's line without its alignment."""
    return " ".join(line.split())


def test_latency_metrics_have_the_vendors_keys():
    """The keys are the vendor's, in its order; the values are the histogram's, in seconds."""
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


def test_latency_metrics_of_nothing_are_zero():
    """Before the first inference every metric is 0, not an error."""
    assert latency_metrics(Histogram()) == dict.fromkeys(VENDOR_KEYS, 0)


def test_printed_lines_are_the_vendors():
    """Scripts that read the vendor's print find its lines, and one more for P999."""
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


def test_whole_is_merged_over_the_devices():
    """The whole's percentiles are those of all batches together, not averages of devices."""
    whole = two_devices().snapshot(110.0, {})

    assert list(whole) == [*VENDOR_KEYS, "requests", "devices"]
    assert whole["num_of_inferences"] == 10
    assert whole["total_inference_time"] == 6.5
    assert whole["P90"] == pytest.approx(0.5, rel=0.005)
    assert whole["P99"] == 2.0


def test_devices_have_their_own_records():
    """Each device has the vendor's keys and its batches, fill, utilisation, errors and state."""
    devices = two_devices().snapshot(110.0, {0: "ready", 1: "quarantined"})["devices"]

    assert list(devices) == [0, 1]
    own = {key: value for key, value in devices[1].items() if key not in VENDOR_KEYS}
    assert own == {
        "batches": 1,
        "samples": 8,
        "fill": 0.75,
        "utilisation": 0.3,
        "errors": 1,
        "retries": 1,
        "hedges": 0,
        "state": "quarantined",
        "activations": 1,
    }
    assert devices[1]["num_of_inferences"] == 1
    assert devices[0]["fill"] == 0.75
    assert devices[0]["utilisation"] == 4.5 / 20


def test_totals_count_all_that_ran():
    """Inferences and busy seconds by device are of the same ones: also of those that failed."""
    metrics = two_devices()

    assert metrics.totals() == {0: (9, 4.5), 1: (2, 3.0)}
    devices = metrics.snapshot(110.0, {})["devices"]
    assert {i: each["batches"] + each["errors"] for i, each in devices.items()} == {0: 9, 1: 2}


def test_utilisation_follows_the_number_of_activations():
    """Time before a change of the activations counts with what there was then."""
    metrics = SchedulerMetrics(opened_at=0.0)
    metrics.add_device(0, 1)
    metrics.record_batch(0, 10.0, samples=1, size=1)
    metrics.add_device(0, 3, now=10.0)
    metrics.add_device(1, 1, now=15.0)
    metrics.record_batch(1, 5.0, samples=1, size=1)

    devices = metrics.snapshot(20.0, {})["devices"]

    assert devices[0]["utilisation"] == 10 / (10 + 30)
    assert devices[0]["activations"] == 3
    assert devices[1]["utilisation"] == 1.0
    assert metrics.snapshot(30.0, {})["devices"][0]["utilisation"] == 10 / (10 + 60)


def test_requests_are_counted_by_outcome():
    """Every outcome is counted; only requests that are done have latencies."""
    metrics = SchedulerMetrics(opened_at=0.0)
    metrics.record_done(0.25, 1.0)
    metrics.record_done(0.75, 2.0)
    for outcome in ("failed", "cancelled", "expired", "rejected"):
        metrics.record_outcome(outcome)

    requests = metrics.snapshot(1.0, {})["requests"]

    outcomes = {key: requests[key] for key in requests if key not in ("queue", "total")}
    assert outcomes == {"done": 2, "failed": 1, "cancelled": 1, "expired": 1, "rejected": 1}
    assert list(requests["queue"]) == VENDOR_KEYS
    assert (requests["queue"]["num_of_inferences"], requests["queue"]["max_latency"]) == (2, 0.75)
    assert requests["total"]["avg_latency"] == 1.5


def test_unknown_outcome_is_refused():
    """An outcome with another name is a mistake of the caller, not a new counter."""
    with pytest.raises(KeyError):
        SchedulerMetrics(opened_at=0.0).record_outcome("lost")


def test_fresh_metrics_are_plain_json():
    """Read at the instant of the opening, nothing divides by zero and nothing is NaN."""
    metrics = SchedulerMetrics(opened_at=5.0)
    metrics.add_device(0, 4)

    snapshot = metrics.snapshot(5.0, {0: "ready"})

    assert snapshot["devices"][0]["utilisation"] == 0.0
    assert json.loads(json.dumps(snapshot, allow_nan=False))["requests"]["done"] == 0


def test_device_table():
    """One aligned line per device and one for all, whose percentiles are the merged ones."""
    states = {0: "ready", 1: "quarantined"}
    lines = format_device_table(two_devices().snapshot(110.0, states)).splitlines()

    assert [len(line) for line in lines] == [len(lines[0])] * 4
    assert [words(line) for line in lines] == [
        "device state activations batches samples fill % util % P50 ms P99 ms "
        "errors retries hedges",
        "0 ready 2 9 54 75.0 22.5 500.000 500.000 0 0 1",
        "1 quarantined 1 1 8 75.0 30.0 2000.000 2000.000 1 1 0",
        "total 3 10 62 75.0 25.0 501.953 2000.000 1 1 1",  # the middle of 500 ms' bucket
    ]


def test_device_table_of_nothing():
    """Without a device there is a header and a total of zeros."""
    lines = format_device_table(SchedulerMetrics(0.0).snapshot(0.0, {})).splitlines()

    assert words(lines[1]) == "total 0 0 0 0.0 0.0 0.000 0.000 0 0 0"


def test_merged_metrics_are_those_of_everything():
    """Devices are added up by id, histograms merged, and the parts stay as they are."""
    first, second = two_devices(), SchedulerMetrics(100.0)
    second.add_device(1, 2)
    second.record_batch(1, 1.0, samples=8, size=8)
    second.record_done(0.5, 4.0)
    parts = [each.snapshot(110.0, {}) for each in (first, second)]

    whole = SchedulerMetrics(110.0)
    for each in (first, second):
        whole.merge(each, 110.0)
    merged = whole.snapshot(110.0, {0: "ready"})

    assert [each.snapshot(110.0, {}) for each in (first, second)] == parts
    assert merged["num_of_inferences"] == sum(each["num_of_inferences"] for each in parts)
    assert merged["max_latency"] == 2.0
    assert merged["requests"]["total"]["max_latency"] == 4.0
    assert merged["devices"][0] == {**parts[0]["devices"][0], "state": "ready"}
    device, *own = (each["devices"][1] for each in (merged, *parts))
    for key in ("batches", "samples", "errors", "retries", "hedges", "activations"):
        assert device[key] == sum(each[key] for each in own)
    busy = sum(each["utilisation"] * each["activations"] for each in own)
    assert device["utilisation"] == pytest.approx(busy / device["activations"])
