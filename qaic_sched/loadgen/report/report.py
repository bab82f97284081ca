"""The report: everything a run has to say, as plain data that goes to `report.json` and back.

Rules of this file:
- Complete: tables, plots and pages are made from it alone, at any time, by anyone.
- `host` and `started_at` are the only fields that two runs of the same seed in virtual time differ
  in.
- A number that could not be had is None, and a note beside it says why.
- `VERSION` changes with the meaning of any field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from qaic_sched.errors import InputError
from qaic_sched.loadgen.plan.plan import Plan

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "VERSION",
    "Check",
    "Counts",
    "DeviceReport",
    "EarlyStopping",
    "Latency",
    "Percentile",
    "Point",
    "Report",
    "RuleResult",
    "Search",
    "Series",
    "Verdict",
    "WarmUp",
    "encode_report",
    "read_report",
    "write_report",
]

VERSION = 1


class RuleResult(Struct, frozen=True, kw_only=True):
    """One rule of the verdict, with its number."""

    name: str
    holds: bool
    text: str
    """One sentence with the numbers, and what mends it where it does not hold."""
    value: float | None = None
    limit: float | None = None


class Verdict(Struct, frozen=True):
    """Whether the result holds; all rules, those that were broken among them."""

    is_valid: bool
    rules: tuple[RuleResult, ...]


class Counts(Struct, frozen=True, kw_only=True):
    """Requests by what became of them, of the whole run; `measured` are those after the warm-up."""

    planned: int
    sent: int
    done: int
    failed: int
    expired: int
    rejected: int
    cancelled: int
    unresolved: int
    measured: int


class Percentile(Struct, frozen=True, kw_only=True):
    """One percentile with its 99 % confidence interval from order statistics.

    A bound is None, and so is `value` below the floor of samples, where there are too few.
    """

    percentile: float
    value_s: float | None
    low_s: float | None
    high_s: float | None
    floor: int
    """Samples from which on it may be claimed."""


class Latency(Struct, frozen=True, kw_only=True):
    """One of the latencies of the measured requests that were done, in seconds."""

    count: int
    mean_s: float
    min_s: float
    max_s: float
    percentiles: tuple[Percentile, ...]
    """50, 75, 90, 95, 99, 99.9 and 99.99."""
    curve: tuple[tuple[float, float], ...]
    """Quantile (0 to 1) and seconds: some fifty points evenly over log 1/(1-q), then the max."""


class EarlyStopping(Struct, frozen=True, kw_only=True):
    """LoadGen's bound at confidence 0.99: the percentile is at most this with such certainty."""

    percentile: float
    bound_s: float | None
    needed: int
    """Samples below which nothing may be claimed."""


class WarmUp(Struct, frozen=True, kw_only=True):
    """What was cut off at the beginning, and how it was found."""

    until_s: float
    excluded: int
    rule: str
    is_steady: bool
    """Whether what remains has no trend."""
    trend: str
    """One sentence with the test's numbers."""


class DeviceReport(Struct, frozen=True, kw_only=True):
    """What one device did, from the target's own records."""

    device_id: int
    activations: int
    inferences: int
    busy_s: float
    utilisation: float
    """Busy time over time and activations."""
    requests: int
    mean_service_s: float | None
    """Execute time of an inference."""
    mean_wait_s: float | None
    """From sent to start, of the requests that it answered."""
    p99_s: float | None
    """Service latency (done - sent) of the requests that it answered."""


class Check(Struct, frozen=True, kw_only=True):
    """One law that the numbers must obey, or a prediction to hold them against."""

    name: str
    """"littles_law", "flow_balance", "utilisation_law", "closed_loop_bound", "predicted_wait" or
    "ideal_replay"."""
    measured: float | None
    expected: float | None
    unit: str
    error: float | None
    """Relative: (measured - expected) / expected; for "ideal_replay" the loss over the mean service
    time."""
    holds: bool | None
    """None where it is information, or could not be computed."""
    note: str
    """One sentence: what was compared, or why it was not."""


class Series(Struct, frozen=True, kw_only=True):
    """The run over time, in windows of `window_s`; each list has one entry per window."""

    window_s: float
    arrivals: tuple[int, ...]
    completions: tuple[int, ...]
    in_flight: tuple[float, ...]
    """Time average of the requests out."""
    queued_samples: tuple[float | None, ...]
    p50_s: tuple[float | None, ...]
    p99_s: tuple[float | None, ...]
    """Of the requests planned in the window, from the planned instant."""
    utilisation: dict[str, tuple[float | None, ...]]
    """By device id: 0 to 1."""


class Point(Struct, frozen=True, kw_only=True):
    """One run of a search or sweep."""

    offered_rate: float | None
    concurrency: int | None
    completed_rate: float
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    p999_s: float | None
    error_share: float
    is_valid: bool
    meets_slo: bool | None
    utilisation: float | None = None
    predicted_wait_s: float | None = None
    """Mean wait by a formula, where one holds; `measured_wait_s` is from sent to start."""
    measured_wait_s: float | None = None
    shape: dict[str, int] = {}
    """Of a sweep over shapes: devices, num_activations, set_size, batch."""


class Search(Struct, frozen=True, kw_only=True):
    """What a search or a sweep found, with every run that it made."""

    kind: str
    """"slo", "rates", "concurrency" or "shapes"."""
    points: tuple[Point, ...]
    best_rate: float | None = None
    """Highest rate that met the SLO; `bracket` is this and the lowest one that did not."""
    bracket: tuple[float, float | None] | None = None
    interval: tuple[float, float] | None = None
    """Of the best rate, over its repeats."""
    knee_rate: float | None = None
    knee_method: str | None = None
    note: str = ""


class Report(Struct, frozen=True, kw_only=True):
    """One run."""

    version: int = VERSION
    target: str
    plan: Plan
    schedule_hash: str | None
    """SHA-256 of the planned instants; None for a closed loop."""
    verdict: Verdict
    duration_s: float
    counts: Counts
    asked_rate: float | None
    scheduled_rate: float
    """Samples planned per second: MLPerf's score of the Server scenario."""
    completed_rate: float
    """Samples done per second, of the measured part."""
    scheduled: Latency | None
    """From the planned instant to the answer: the headline. None where nothing was done."""
    service: Latency | None
    """From sent to the answer."""
    lag: Latency | None
    """From the planned instant to sent."""
    early_stopping: EarlyStopping
    warm_up: WarmUp
    devices: tuple[DeviceReport, ...]
    balance: dict[str, float]
    """Over the devices' busy times: "max_over_mean", "jain", "cv"; empty where not told."""
    checks: tuple[Check, ...]
    series: Series
    problems: dict[str, int]
    ended_early: str = ""
    """Why the run ended before its plan did; empty where it did not."""
    correctness: dict[str, Any] = {}
    """What `correctness` found; empty where outputs were not checked."""
    mlperf: dict[str, Any] = {}
    """What the real LoadGen said; empty where it did not run."""
    search: Search | None = None
    config: dict[str, Any] = {}
    host: dict[str, Any] = {}
    started_at: str = ""


def write_report(report: Report, path: Path) -> None:
    """Write `report.json`: the same bytes for the same report."""
    path.write_bytes(encode_report(report))


def encode_report(report: Report) -> bytes:
    """What stands in `report.json`."""
    encoded = msgspec.json.encode(report, order="deterministic")
    return msgspec.json.format(encoded, indent=1) + b"\n"


def read_report(path: Path) -> Report:
    """Read what `write_report` wrote; `InputError` for another version or no report at all."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path} is not a report of qaic-sched load: {error}") from error
    if report.version != VERSION:
        raise InputError(f"{path} is a report of version {report.version}, not {VERSION}")
    return report
