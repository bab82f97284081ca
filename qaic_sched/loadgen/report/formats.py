"""Formats numbers for readers: three or four significant digits, with a unit."""

from __future__ import annotations

from math import floor, log10

__all__ = ["NOTHING", "number", "percent", "percentile_name", "seconds", "time_unit"]

NOTHING = "-"
"""Shown for a number that is not available."""

UNITS = (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")


def number(value: float | None, digits: int = 4) -> str:
    """Format a number with at least `digits` significant digits: 0.01234, 12,345."""
    if value is None:
        return NOTHING
    # As an integer, which has no negative zero.
    return f"{int(value):,}" if value == int(value) else _rounded(value, digits)


def _rounded(value: float, digits: int) -> str:
    significant = abs(float(f"{value:.{digits - 1}e}"))
    return f"{value:,.{max(digits - 1 - floor(log10(significant)), 0)}f}"


def time_unit(value_s: float) -> tuple[float, str]:
    """Return the unit that fits a time: its length in seconds and its name, (0.001, "ms")."""
    return next((unit for unit in UNITS if abs(value_s) >= unit[0]), UNITS[-1])


def seconds(value_s: float | None) -> str:
    """Format a time in the unit that fits it: 12.3 ms."""
    if not value_s:
        return NOTHING if value_s is None else "0 s"
    scale, unit = time_unit(value_s)
    return f"{_rounded(value_s / scale, 3)} {unit}"


def percent(share: float | None, digits: int = 3) -> str:
    """Format a share as percent: 80.1 %; less than a millionth is a rounding error, shown as 0."""
    return NOTHING if share is None else f"{number(round(100 * share, 4), digits)} %"


def percentile_name(percentile: float) -> str:
    """Format the name of a percentile: 99.9 is p99.9, 50.0 is p50."""
    return f"p{percentile:g}"
