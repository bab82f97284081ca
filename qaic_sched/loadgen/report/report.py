"""The report of a run as plain data, written to `report.json` and read back.

Rules of this file:
- A report is complete: tables, plots and the page are made from it alone, at any later time.
- `Findings` come from the records; the verdict is a function of them. A `Report` is constructed
  once, with both.
- Two runs with the same seed in virtual time differ in `host` and `started_at` only.
- A number that is not available is None, and a note next to it gives the reason.
- `VERSION` changes with the meaning of any field.
- Attributes may be renamed; the keys of the file stay (`field(name=...)`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, field

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
    "Findings",
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
"""The version of the format; `read_report` accepts no other."""

_FIRST_KEYS = ("version", "target", "plan", "schedule_hash", "verdict")
_LAST_KEYS = ("search", "config", "host", "started_at")
"""Keys that open and close `report.json`, in the order of version 1."""


class RuleResult(Struct, frozen=True, kw_only=True):
    """One rule of the verdict, with its value and its limit."""

    name: str
    holds: bool
    text: str
    """One sentence with the numbers; for a broken rule, also how to fix it."""
    value: float | None = None
    limit: float | None = None


class Verdict(Struct, frozen=True):
    """Whether the result is valid, and every rule that was checked, broken or not."""

    is_valid: bool
    rules: tuple[RuleResult, ...]


class Counts(Struct, frozen=True, kw_only=True):
    """Requests of the whole run by outcome; `measured` are those done after the warm-up."""

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

    A bound that the number of samples does not support is None, and so is `value_s`.
    """

    percentile: float
    value_s: float | None
    low_s: float | None
    high_s: float | None
    floor: int
    """The fewest samples with which this percentile may be claimed."""


class Latency(Struct, frozen=True, kw_only=True):
    """The distribution of one kind of latency over the measured requests, in seconds."""

    count: int
    mean_s: float
    min_s: float
    max_s: float
    percentiles: tuple[Percentile, ...]
    """50, 75, 90, 95, 99, 99.9 and 99.99."""
    curve: tuple[tuple[float, float], ...]
    """Pairs of quantile (0 to 1) and seconds: about 50, evenly over log 1/(1-q), then the max."""


class EarlyStopping(Struct, frozen=True, kw_only=True):
    """LoadGen's early stopping: an upper bound of the percentile at 99 % confidence."""

    percentile: float
    bound_s: float | None
    needed: int
    """The fewest samples with which a bound can be given."""


class WarmUp(Struct, frozen=True, kw_only=True):
    """The part that was cut off at the beginning, and how its end was found."""

    until_s: float
    excluded: int
    rule: str
    is_steady: bool
    """Whether the remaining part is free of a trend."""
    trend: str
    """One sentence with the numbers of the test."""


class DeviceReport(Struct, frozen=True, kw_only=True):
    """The work of one device, by the target's own metrics where it has them."""

    device_id: int
    activations: int
    inferences: int
    busy_s: float
    utilisation: float
    """Busy time over duration and number of activations."""
    requests: int
    mean_execute_s: float | None = field(name="mean_service_s")
    """Execution time of an inference."""
    mean_wait_s: float | None
    """From sent to started, over the requests that the device answered."""
    p99_s: float | None
    """Response time (sent to answered) of the requests that the device answered."""


class Check(Struct, frozen=True, kw_only=True):
    """A law that the numbers must obey, or a prediction to compare them with."""

    name: str
    """"littles_law", "flow_balance", "utilisation_law", "closed_loop_bound", "predicted_wait" or
    "ideal_replay"."""
    measured: float | None
    expected: float | None
    unit: str
    error: float | None
    """Relative: (measured - expected) / expected; for "ideal_replay" the loss over the mean
    execution time."""
    holds: bool | None
    """None for a prediction, and for a law that could not be computed."""
    note: str
    """One sentence: what was compared, or why nothing was."""


class Series(Struct, frozen=True, kw_only=True):
    """The run over time, in windows of `window_s`; every tuple has one entry per window."""

    window_s: float
    arrivals: tuple[int, ...]
    completions: tuple[int, ...]
    in_flight: tuple[float, ...]
    """Time average of the requests sent and not answered."""
    queued_samples: tuple[float | None, ...]
    p50_s: tuple[float | None, ...]
    p99_s: tuple[float | None, ...]
    """Latency from the planned instant, of the requests planned in the window."""
    utilisation: dict[str, tuple[float | None, ...]]
    """Device id -> share of the time that it was busy, 0 to 1."""


class Point(Struct, frozen=True, kw_only=True):
    """One run of a search or a sweep."""

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
    """Mean wait by a formula, where one applies."""
    measured_wait_s: float | None = None
    """Mean wait from the planned instant to the start."""
    shape: dict[str, int] = {}
    """In a sweep over shapes: devices, num_activations, set_size, batch."""


class Search(Struct, frozen=True, kw_only=True):
    """The result of a search or a sweep, with all of its runs."""

    kind: str
    """"slo", "rates", "concurrency" or "shapes"."""
    points: tuple[Point, ...]
    best_rate: float | None = None
    """The highest rate that met the SLO."""
    bracket: tuple[float, float | None] | None = None
    """`best_rate`, and the lowest rate above it that did not meet the SLO."""
    interval: tuple[float, float] | None = None
    """95 % confidence interval of the rate completed at the best rate, over its repeats."""
    knee_rate: float | None = None
    knee_method: str | None = None
    note: str = ""


class Findings(Struct, frozen=True, kw_only=True):
    """Everything that is known about one run except whether its result is valid."""

    target: str
    plan: Plan
    schedule_hash: str | None
    """SHA-256 of the planned instants; None for a closed loop."""
    duration_s: float
    counts: Counts
    asked_rate: float | None
    scheduled_rate: float
    """Samples planned per second: MLPerf's score for the Server scenario."""
    completed_rate: float
    """Samples done per second, in the measured part."""
    scheduled: Latency | None
    """Latency: from the planned instant to the answer. None if no request was done."""
    response: Latency | None = field(name="service")
    """Response time: from sent to the answer."""
    lag: Latency | None
    """Dispatch lag: from the planned instant to sent."""
    early_stopping: EarlyStopping
    warm_up: WarmUp
    devices: tuple[DeviceReport, ...]
    balance: dict[str, float]
    """Of the devices' busy times: "max_over_mean", "jain", "cv"; empty if they are not known."""
    checks: tuple[Check, ...]
    series: Series
    problems: dict[str, int]
    """Error message -> the number of requests that failed with it."""
    ended_early: str = ""
    """Why the run ended before its plan did; empty for a complete run."""
    correctness: dict[str, Any] = {}
    """The results of `judge.correctness`; empty if outputs were not checked."""
    mlperf: dict[str, Any] = {}
    """The results of MLPerf's LoadGen; empty if it did not run."""
    config: dict[str, Any] = {}
    """The target's configuration."""


class Report(Findings, frozen=True, kw_only=True):
    """One run: its findings, the verdict on them, and where and when it was made."""

    version: int = VERSION
    verdict: Verdict
    search: Search | None = None
    """The search or sweep whose best run this is."""
    host: dict[str, Any] = {}
    started_at: str = ""


def write_report(report: Report, path: Path) -> None:
    """Write `report.json`; equal reports give equal bytes."""
    path.write_bytes(encode_report(report))


def encode_report(report: Report) -> bytes:
    """Encode a report as the content of `report.json`."""
    values = msgspec.to_builtins(report, order="deterministic")
    first = {key: values.pop(key) for key in _FIRST_KEYS}
    last = {key: values.pop(key) for key in _LAST_KEYS}
    encoded = msgspec.json.encode({**first, **values, **last})
    return msgspec.json.format(encoded, indent=1) + b"\n"


def read_report(path: Path) -> Report:
    """Read a report; raise `InputError` for another version or a file that is not a report."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path} is not a report of qaic-sched load: {error}") from error
    if report.version != VERSION:
        raise InputError(f"{path} is a report of version {report.version}, not {VERSION}")
    return report
