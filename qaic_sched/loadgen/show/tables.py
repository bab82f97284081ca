"""The report as tables of text, for the terminal and the page.

All values come from the report; here they are only formatted.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

import msgspec

from qaic_sched.loadgen.judge.official import score
from qaic_sched.loadgen.plan.scenarios import is_official
from qaic_sched.loadgen.report.formats import (
    NOTHING,
    number,
    percent,
    percentile_name,
    seconds,
    time_unit,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qaic_sched.loadgen.report.report import Check, Latency, Percentile, Point, Report, Search

__all__ = [
    "Table",
    "background_tables",
    "broken_rules",
    "headline",
    "result_tables",
    "verdict_line",
]

CHECKS = {
    "littles_law": "Little's law",
    "flow_balance": "flow balance",
    "utilisation_law": "utilisation law",
    "closed_loop_bound": "closed-loop bound",
    "predicted_wait": "predicted wait",
    "ideal_replay": "ideal replay",
}

DEVICE_COLUMNS = (
    "Execution: mean per inference; wait: mean from sent to start; p99: of the response time."
)
HOLDS = {True: "yes", False: "NO", None: NOTHING}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; `columns` are the headings, each with its alignment, `<` or `>`."""

    title: str
    columns: Mapping[str, str]
    rows: Sequence[Sequence[str]]
    broken: frozenset[int] = frozenset()
    """Indexes of rows that show a problem."""
    marked: frozenset[int] = frozenset()
    """Indexes of rows that are the result."""
    note: str = ""


def verdict_line(report: Report) -> str:
    """Return VALID, or INVALID with the first broken rule and the number of further ones."""
    broken = broken_rules(report)
    if report.verdict.is_valid:
        return "VALID"
    first = broken[0] if broken else "no rule was judged"
    others = len(broken) - 1
    more = f" (and {others} more broken rule{'s' * (others > 1)})" if others > 0 else ""
    return f"INVALID: {first}{more}"


def broken_rules(report: Report) -> list[str]:
    """Return the sentence of each broken rule."""
    return [each.text for each in report.verdict.rules if not each.holds]


def headline(report: Report) -> str:
    """Describe the run in one line: completed rate and latency."""
    latency = report.scheduled
    rate = f"{report.target}: {number(report.completed_rate)} samples/s completed"
    if latency is None:
        return f"{rate}; no request was done."
    shown = 50.0, report.plan.rules.percentile
    parts = [
        f"{percentile_name(each.percentile)} {seconds(each.value_s)}"
        for each in latency.percentiles
        if each.percentile in shown and each.value_s is not None
    ]
    return f"{', '.join([rate, *parts])} from the planned instant.{_score(report)}"


def _score(report: Report) -> str:
    """Return MLPerf's score, for its scenarios."""
    if not is_official(report.plan.scenario):
        return ""
    name, value, unit = score(report)
    shown = seconds(value) if unit == "s" else f"{number(value)} {unit}"
    return f" Score: {name}, {NOTHING if isnan(value) else shown}."


def result_tables(report: Report) -> list[Table]:
    """Return the tables of the results, the rules first; empty tables are left out."""
    tables = [
        _rules(report),
        _requests(report),
        _latencies(report),
        _devices(report),
        _checks(report.checks),
        _search(report.search),
        _pairs("Problems", report.problems),
        _pairs("Correctness", report.correctness),
        # Its rules are shown with the verdict's.
        _pairs("LoadGen", {name: v for name, v in report.mlperf.items() if name != "rules"}),
    ]
    return [table for table in tables if table and (table.rows or table.note)]


def background_tables(report: Report) -> list[Table]:
    """Return the tables of plan, configuration and host."""
    run = {"target": report.target, "started_at": report.started_at}
    plan = {**run, **msgspec.to_builtins(report.plan), "schedule_hash": report.schedule_hash}
    tables = [
        _pairs("Plan", plan),
        _pairs("Configuration", report.config),
        _pairs("Host", report.host),
    ]
    return [table for table in tables if table.rows]


def _rules(report: Report) -> Table:
    rules = report.verdict.rules
    return Table(
        "Rules",
        {"rule": "<", "holds": "<", "finding": "<"},
        [(_words(each.name), HOLDS[each.holds], each.text) for each in rules],
        broken=frozenset(row for row, each in enumerate(rules) if not each.holds),
    )


def _requests(report: Report) -> Table:
    counts = {_words(name): value for name, value in msgspec.to_builtins(report.counts).items()}
    shown = {name: number(value) for name, value in counts.items()}
    warm_up = report.warm_up
    rates = {
        "asked": _rate(report.asked_rate),
        "scheduled": _rate(report.scheduled_rate),
        "completed": _rate(report.completed_rate),
    }
    lines = max(len(shown), len(rates))
    left = [*shown.items()] + [("", "")] * (lines - len(shown))
    right = [*rates.items()] + [("", "")] * (lines - len(rates))
    return Table(
        "Requests",
        {"requests": "<", "count": ">", "rate": "<", "samples/s": ">"},
        [(*counted, *rated) for counted, rated in zip(left, right, strict=True)],
        note=f"Warm-up: the first {seconds(warm_up.until_s)}, {number(warm_up.excluded)} requests,"
        f" found by {warm_up.rule}. Trend: {warm_up.trend}.",
    )


def _rate(value: float | None) -> str:
    return NOTHING if value is None else number(value)


def _latencies(report: Report) -> Table | None:
    kinds = {"latency": report.scheduled, "response time": report.response}
    kinds["dispatch lag"] = report.lag
    known = {name: latency for name, latency in kinds.items() if latency}
    if not known:
        return None
    shown = [*known.values()]
    levels = shown[0].percentiles
    rows = [
        (percentile_name(level.percentile), *(_interval(each.percentiles[row]) for each in shown))
        for row, level in enumerate(levels)
    ]
    rows += [
        (name, *(seconds(getattr(each, f"{name}_s")) for each in shown))
        for name in ("mean", "min", "max")
    ]
    rows.append(("count", *(number(each.count) for each in shown)))
    return Table(
        "Latency", {"": "<"} | dict.fromkeys(known, ">"), rows, note=_latency_note(report, known)
    )


def _interval(percentile: Percentile) -> str:
    """Format a percentile and its interval in one unit: 12.3 ms [12.0, 12.9]."""
    value_s, bounds = percentile.value_s, (percentile.low_s, percentile.high_s)
    if value_s is None:
        return "too few samples"
    scale = time_unit(value_s)[0]
    low, high = (None if bound is None else number(bound / scale, 3) for bound in bounds)
    return f"{seconds(value_s)} [{low or NOTHING}, {high or NOTHING}]"


def _latency_note(report: Report, known: Mapping[str, Latency]) -> str:
    """Explain the columns, the brackets and missing values, and state LoadGen's bound."""
    notes = [
        "Latency: planned to done; response time: sent to done; dispatch lag: planned to sent.",
        "In brackets: 99 % confidence interval from order statistics; "
        f"{NOTHING} where the samples are too few for a bound.",
    ]
    unclaimed = {
        f"{number(each.floor)} for {percentile_name(each.percentile)}"
        for latency in known.values()
        for each in latency.percentiles
        if each.value_s is None
    }
    if unclaimed:
        notes.append(f"Samples needed: {', '.join(sorted(unclaimed, key=len))}.")
    stopping = report.early_stopping
    name = percentile_name(stopping.percentile)
    if stopping.bound_s is None:
        notes.append(f"No bound of {name}: it needs {number(stopping.needed)} samples or more.")
    else:
        notes.append(
            f"{name} of the latency is at most {seconds(stopping.bound_s)} at 99 % confidence."
        )
    return " ".join(notes)


def _devices(report: Report) -> Table:
    balance = ", ".join(f"{_words(key)} {number(each)}" for key, each in report.balance.items())
    return Table(
        "Devices",
        {"device": ">", "activations": ">", "inferences": ">", "requests": ">", "busy": ">"}
        | dict.fromkeys(("utilisation", "execution", "wait", "p99"), ">"),
        [
            (
                str(each.device_id),
                number(each.activations),
                number(each.inferences),
                number(each.requests),
                seconds(each.busy_s),
                percent(each.utilisation),
                seconds(each.mean_execute_s),
                seconds(each.mean_wait_s),
                seconds(each.p99_s),
            )
            for each in report.devices
        ],
        note=f"{DEVICE_COLUMNS} Balance of busy times: {balance}." if balance else "",
    )


def _checks(checks: Sequence[Check]) -> Table:
    return Table(
        "Checks",
        {"check": "<", "measured": ">", "expected": ">", "error": ">", "holds": "<", "note": "<"},
        [
            (
                CHECKS.get(each.name, _words(each.name)),
                _amount(each.measured, each.unit),
                _amount(each.expected, each.unit),
                percent(each.error, 2),
                HOLDS[each.holds],
                each.note,
            )
            for each in checks
        ],
        broken=frozenset(row for row, each in enumerate(checks) if each.holds is False),
    )


def _amount(value: float | None, unit: str) -> str:
    if unit == "s" or value is None:
        return seconds(value)
    return f"{number(value)} {unit}".strip()


def _search(search: Search | None) -> Table | None:
    if search is None:
        return None
    columns: dict[str, list[str]] = {
        "offered/s": [_rate(each.offered_rate) for each in search.points],
        "concurrency": [number(each.concurrency) for each in search.points],
        **_shape_columns(search.points),
        "completed/s": [_rate(each.completed_rate) for each in search.points],
        "p50": [seconds(each.p50_s) for each in search.points],
        "p95": [seconds(each.p95_s) for each in search.points],
        "p99": [seconds(each.p99_s) for each in search.points],
        "p99.9": [seconds(each.p999_s) for each in search.points],
        "errors": [percent(each.error_share) for each in search.points],
        "busy": [percent(each.utilisation) for each in search.points],
        "valid": [HOLDS[each.is_valid] for each in search.points],
        "SLO": [HOLDS[each.meets_slo] for each in search.points],
    }
    used = {name: cells for name, cells in columns.items() if {*cells} != {NOTHING}}
    points = [*enumerate(search.points)]
    return Table(
        f"Search ({search.kind})",
        dict.fromkeys(used, ">"),
        [*zip(*used.values(), strict=True)],
        broken=frozenset(row for row, each in points if each.meets_slo is False),
        marked=frozenset(row for row, each in points if _is_best(each, search)),
        note=_search_note(search),
    )


def _shape_columns(points: Sequence[Point]) -> dict[str, list[str]]:
    names = dict.fromkeys(name for point in points for name in point.shape)
    return {name: [number(point.shape.get(name)) for point in points] for name in names}


def _is_best(point: Point, search: Search) -> bool:
    rate = point.completed_rate if point.offered_rate is None else point.offered_rate
    return search.best_rate is not None and rate == search.best_rate


def _search_note(search: Search) -> str:
    """Describe the result in lines: best rate, interval, bracket, knee, and the notes."""
    lines = []
    if search.best_rate is not None:
        line = f"Best rate {number(search.best_rate)}/s"
        if search.interval:
            line += " [" + ", ".join(number(each) for each in search.interval) + "]"
        if search.bracket and search.bracket[1] is not None:
            line += f"; {number(search.bracket[1])}/s was too high"
        lines.append(f"{line}.")
    if search.knee_rate is not None:
        lines.append(f"Knee at {number(search.knee_rate)}/s ({search.knee_method}).")
    return "\n".join([*lines, *filter(None, [search.note])])


def _pairs(title: str, values: Mapping[str, Any]) -> Table:
    """Show nested settings as rows, named like `batching.max_queue_delay_s`."""
    return Table(title, {"name": "<", "value": "<"}, [*_flattened(values)])


def _flattened(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _flattened(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", NOTHING if value is None else _text(value)))
    return lines


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
