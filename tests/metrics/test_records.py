"""The counters of a scheduler, per device and per outcome of requests."""

from __future__ import annotations

import json

import pytest

from qaic_sched.metrics.records import SchedulerMetrics
from tests.metrics.metrics_samples import VENDOR_KEYS, two_devices


def test_whole_is_merged_over_the_devices() -> None:
    """Percentiles of the whole are those of all batches together, not averages of devices."""
    whole = two_devices().snapshot(110.0, {})

    assert list(whole) == [*VENDOR_KEYS, "requests", "devices"]
    assert whole["num_of_inferences"] == 10
    assert whole["total_inference_time"] == 6.5
    assert whole["P90"] == pytest.approx(0.5, rel=0.005)
    assert whole["P99"] == 2.0


def test_devices_have_their_own_records() -> None:
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


def test_totals_include_failed_inferences() -> None:
    """Inferences and busy seconds of a device both include failed inferences."""
    metrics = two_devices()

    assert metrics.totals() == {0: (9, 4.5), 1: (2, 3.0)}
    devices = metrics.snapshot(110.0, {})["devices"]
    assert {i: each["batches"] + each["errors"] for i, each in devices.items()} == {0: 9, 1: 2}


def test_utilisation_follows_the_number_of_activations() -> None:
    """Time before a change counts with the number of activations before it."""
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


def test_requests_are_counted_by_outcome() -> None:
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


def test_unknown_outcome_is_refused() -> None:
    """An outcome with an unknown name raises `KeyError`."""
    with pytest.raises(KeyError):
        SchedulerMetrics(opened_at=0.0).record_outcome("lost")


def test_fresh_metrics_are_plain_json() -> None:
    """At the instant of opening, nothing divides by zero and nothing is NaN."""
    metrics = SchedulerMetrics(opened_at=5.0)
    metrics.add_device(0, 4)

    snapshot = metrics.snapshot(5.0, {0: "ready"})

    assert snapshot["devices"][0]["utilisation"] == 0.0
    assert json.loads(json.dumps(snapshot, allow_nan=False))["requests"]["done"] == 0


def test_merged_metrics_are_sums() -> None:
    """Devices are added up by id, histograms merged, and the merged metrics stay unchanged."""
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
