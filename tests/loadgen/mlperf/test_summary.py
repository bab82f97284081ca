"""Reading LoadGen's summary file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qaic_sched.errors import InputError
from qaic_sched.loadgen.mlperf.summary import read_summary

if TYPE_CHECKING:
    from pathlib import Path

SERVER = """\
================================================
MLPerf Results Summary
================================================
SUT name : PyFastSUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 4943.93
Result is : INVALID
  Performance constraints satisfied : NO
  Min duration satisfied : Yes
  Min queries satisfied : Yes
  Early stopping satisfied: NO
Recommendations:
 * Reduce target QPS to improve latency.
Early Stopping Result:
 * Run unsuccessful.

================================================
Additional Stats
================================================
Scheduled samples per second : 4944.38
Min latency (ns)                : 1751
Max latency (ns)                : 4493993
Mean latency (ns)               : 84144
50.00 percentile latency (ns)   : 74445
99.00 percentile latency (ns)   : 151027
99.90 percentile latency (ns)   : 3187381

================================================
Test Parameters Used
================================================
samples_per_query : 1
target_latency (ns): 100000000

1 warning encountered. See detailed log.

No errors encountered during test.
"""

SINGLE_STREAM = """\
Scenario : SingleStream
90.0th percentile latency (ns) : 1623
Result is : VALID
  Min duration satisfied : Yes
Early Stopping Result:
 * Early stopping 90.0th percentile estimate: 1632

Additional Stats
QPS w/ loadgen overhead         : 366651.84
90.00 percentile latency (ns)   : 1623
"""


def test_a_summary_is_read_whole(tmp_path: Path) -> None:
    """A summary has verdict, constraints, reasons, rates, latencies and settings."""
    path = tmp_path / "summary.txt"
    path.write_text(SERVER)

    assert read_summary(path) == {
        "scenario": "Server",
        "mode": "PerformanceOnly",
        "is_valid": False,
        "constraints": {
            "Performance constraints": False,
            "Min duration": True,
            "Min queries": True,
            "Early stopping": False,
        },
        "reasons": ["Reduce target QPS to improve latency.", "Run unsuccessful."],
        "completed_rate": 4943.93,
        "scheduled_rate": 4944.38,
        "min_s": 1.751e-6,
        "max_s": 4.493993e-3,
        "mean_s": 8.4144e-5,
        "percentiles_s": {"50": 7.4445e-5, "99": 1.51027e-4, "99.9": 3.187381e-3},
        "settings": {"samples_per_query": "1", "target_latency (ns)": "100000000"},
        "notes": [
            "1 warning encountered. See detailed log.",
            "No errors encountered during test.",
        ],
    }


def test_a_scenario_has_the_numbers_that_it_has(tmp_path: Path) -> None:
    """A scenario has its own numbers only."""
    path = tmp_path / "summary.txt"
    path.write_text(SINGLE_STREAM)
    summary = read_summary(path)

    assert summary["is_valid"]
    assert summary["queries_per_s"] == 366651.84
    assert "scheduled_rate" not in summary
    assert summary["percentiles_s"] == {"90": 1.623e-6}
    assert summary["reasons"] == ["Early stopping 90.0th percentile estimate: 1632"]


def test_a_run_without_a_result_is_no_summary(tmp_path: Path) -> None:
    """A file without a result raises `InputError`."""
    path = tmp_path / "summary.txt"
    with pytest.raises(InputError, match="not LoadGen's summary"):
        read_summary(path)

    path.write_text("")
    with pytest.raises(InputError, match="stopped before it wrote one"):
        read_summary(path)
