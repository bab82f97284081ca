"""Reads LoadGen's summary file: its verdict, reasons and numbers.

The file is written for people. Lines of the form `key : value` are read by section; a line that
begins with a star is a reason or a recommendation.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qaic_sched.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_summary"]

_HEADINGS = {"Additional Stats": "stats", "Test Parameters Used": "settings"}
_PERCENTILE = re.compile(r"([\d.]+) percentile latency \(ns\)")
_RATES = {
    "Scheduled samples per second": "scheduled_rate",
    "Completed samples per second": "completed_rate",
    "Samples per second": "completed_rate",
    "QPS w/ loadgen overhead": "queries_per_s",
}
_SECONDS = {"Min latency (ns)": "min_s", "Max latency (ns)": "max_s", "Mean latency (ns)": "mean_s"}


def read_summary(path: Path) -> dict[str, Any]:
    """Read `mlperf_log_summary.txt`; raise `InputError` if LoadGen has written no result.

    The keys are `is_valid`, `constraints` by name, `reasons` (with recommendations), the rates and
    latencies of the scenario (`percentiles_s` by percentile), `settings`, and `notes` (warnings and
    errors).
    """
    sections: dict[str, dict[str, str]] = {"result": {}, "stats": {}, "settings": {}}
    reasons: list[str] = []
    notes: list[str] = []
    section = "result"
    for line in map(str.strip, _lines(path)):
        section = _HEADINGS.get(line, section)
        key, colon, value = line.partition(":")
        if line.startswith("*"):
            reasons.append(line.lstrip("* "))
        elif colon and value.strip():
            sections[section][key.strip()] = value.strip()
        elif section == "settings" and line and line not in _HEADINGS and "===" not in line:
            notes.append(line)
    if "Result is" not in sections["result"]:
        raise InputError(f"{path} has no result: LoadGen was stopped before it wrote one")
    return _summary(sections, reasons, notes)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path} is not LoadGen's summary: {error}") from error


def _summary(
    sections: dict[str, dict[str, str]], reasons: list[str], notes: list[str]
) -> dict[str, Any]:
    """Translate LoadGen's names to ours."""
    result = sections["result"]
    numbers = result | sections["stats"]
    return {
        "scenario": result.get("Scenario"),
        "mode": result.get("Mode"),
        "is_valid": result["Result is"] == "VALID",
        "constraints": {
            key.removesuffix(" satisfied"): value.lower() == "yes"
            for key, value in result.items()
            if key.endswith(" satisfied")
        },
        "reasons": reasons,
        **{ours: float(numbers[key]) for key, ours in _RATES.items() if key in numbers},
        **{ours: float(numbers[key]) / 1e9 for key, ours in _SECONDS.items() if key in numbers},
        "percentiles_s": {
            f"{float(found[1]):g}": float(value) / 1e9
            for key, value in sections["stats"].items()
            if (found := _PERCENTILE.fullmatch(key))
        },
        "settings": sections["settings"],
        "notes": notes,
    }
