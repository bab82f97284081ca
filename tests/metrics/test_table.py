"""The table of devices."""

from __future__ import annotations

from qaic_sched.metrics.records import SchedulerMetrics
from qaic_sched.metrics.table import format_device_table
from tests.metrics.metrics_samples import two_devices


def words(line: str) -> str:
    """Return a line of the table without its alignment."""
    return " ".join(line.split())


def test_device_table() -> None:
    """The table has a line per device and a line of totals with merged percentiles."""
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


def test_device_table_of_nothing() -> None:
    """Without devices the table has a header and totals of zero."""
    lines = format_device_table(SchedulerMetrics(0.0).snapshot(0.0, {})).splitlines()

    assert words(lines[1]) == "total 0 0 0 0.0 0.0 0.000 0.000 0 0 0"
