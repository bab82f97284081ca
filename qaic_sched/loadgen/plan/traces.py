"""Recorded arrivals: CSV or JSON lines, in the formats of public traces.

Rules of this file:
- Only the arrival times are read, as dates or numbers; other columns are ignored.
- CSV: the column TIMESTAMP, another of `_COLUMNS`, or the first one; dates or seconds.
- JSON lines: an object with `timestamp` in milliseconds or `at_s` in seconds, or a bare number of
  seconds.
- Instants are sorted and count from the first arrival.
- Every error is an `InputError` that names the file and the line.
"""

from __future__ import annotations

import csv
import json
import re
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from qaic_sched.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["read_trace"]

_COLUMNS = ("timestamp", "at_s", "arrival_time", "arrived_at", "time")
_ZONE = re.compile(r"(?:Z|([+-])(\d\d):?(\d\d))$")
_MAX_S = 9e9
"""Seconds that fit into 64 bits of nanoseconds."""


def read_trace(path: str | Path) -> NDArray[np.int64]:
    """Return the arrivals of a file in nanoseconds from the first one, ascending."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            instants = np.fromiter(_instants(path, file), np.int64)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not len(instants):
        raise InputError(f"{path}: has no arrivals")
    instants.sort()
    instants -= instants[0]
    return instants


def _instants(path: str | Path, file: Iterable[str]) -> Iterator[int]:
    """Yield the nanoseconds of each line that is not empty, from the file's own origin."""
    numbered = ((i, line) for i, line in enumerate(file, 1) if line.strip())
    first = next(numbered, None)
    if first is None:
        return
    lines = chain([first], numbered)
    is_json = first[1].lstrip().startswith("{")
    for number, text in _of_json(lines) if is_json else _of_csv(lines):
        try:
            yield _nanoseconds(text)
        except (ValueError, OverflowError) as error:
            raise InputError(f"{path}, line {number}: {error}") from error


def _of_json(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, object]]:
    """Yield the seconds of each line; an unreadable value is passed on unchanged."""
    for number, line in lines:
        try:
            value: Any = json.loads(line)
        except ValueError:
            value = line
        if isinstance(value, dict):
            milliseconds = value.get("timestamp")
            value = value.get("at_s", milliseconds)
            if isinstance(milliseconds, int | float):
                value = milliseconds / 1e3
        yield number, value


def _of_csv(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, object]]:
    """Yield the values of the arrivals' column; the first line may be a header."""
    column, is_first = 0, True
    for number, line in lines:
        row = next(csv.reader([line]))
        if is_first and (found := _column(row)) is not None:
            column = found
        else:
            yield number, row[column] if column < len(row) else ""
        is_first = False


def _column(row: list[str]) -> int | None:
    """Return the index of the arrivals' column if this row is a header."""
    names = [name.strip().lower() for name in row]
    for name in _COLUMNS:
        if name in names:
            return names.index(name)
    return 0 if names[0][:1].isalpha() and names[0] not in ("nan", "inf") else None


def _nanoseconds(value: object) -> int:
    if isinstance(value, str):
        value = value.strip()
        if ":" in value or value.count("-") > 1:
            return _of_date(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value == "":
        raise ValueError(f"{value!r} is not an arrival time: expected a date or seconds")
    try:
        seconds = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not an arrival time: expected a date or seconds") from None
    if not abs(seconds) < _MAX_S:
        raise ValueError(f"{value} is not an arrival time in seconds")
    return round(seconds * 1e9)


def _of_date(text: str) -> int:
    zone = _ZONE.search(text) if ":" in text else None
    offset_ns = 0
    if zone is not None:
        text = text[: zone.start()]
        if zone[1] is not None:
            offset_ns = int(f"{zone[1]}1") * (int(zone[2]) * 60 + int(zone[3])) * 60_000_000_000
    try:
        return int(np.datetime64(text, "ns").astype(np.int64)) - offset_ns
    except ValueError:
        raise ValueError(
            f"{text!r} is not a date: expected one like 2023-11-16 18:17:03.97"
        ) from None
