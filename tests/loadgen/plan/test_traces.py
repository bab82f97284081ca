"""Recorded arrivals in the formats of public traces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qaic_sched.errors import InputError
from qaic_sched.loadgen.plan.traces import read_trace


def instants(folder: Path, text: str, name: str = "trace.csv") -> list[int]:
    """Read a file with this text."""
    path = folder / name
    path.write_text(text)
    return read_trace(path).tolist()


def test_reads_dates_with_seven_digits(tmp_path: Path) -> None:
    """Azure traces have a header, dates with 100 ns resolution and further columns."""
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
        "2023-11-16 18:17:03.9799600,4808,10\r\n"
        "2023-11-16 18:17:04.0319601,3180,8\r\n"
        "2023-11-17 18:17:03.9799600,1,1\r\n"
    )

    assert instants(tmp_path, text) == [0, 52_000_100, 86_400_000_000_000]


def test_reads_the_column_with_the_times(tmp_path: Path) -> None:
    """The column of arrivals need not be the first, and cells may be quoted."""
    assert instants(tmp_path, 'user,timestamp\n"a,b",5.5\nc,"7"\n') == [0, 1_500_000_000]


def test_a_header_without_a_known_name_stands_over_the_first_column(tmp_path: Path) -> None:
    """Without a known name, the first column has the times."""
    assert instants(tmp_path, "when,tokens\n1,100\n3,200\n") == [0, 2_000_000_000]


def test_reads_plain_numbers_and_sorts_them(tmp_path: Path) -> None:
    """Numbers are seconds; header, order and empty lines do not matter."""
    assert instants(tmp_path, "3.25\n\n1\n2\n") == [0, 1_000_000_000, 2_250_000_000]


def test_dates_may_have_a_zone(tmp_path: Path) -> None:
    """Dates may have `Z` or an offset."""
    text = "2024-01-01T00:00:00Z\n2024-01-01T02:00:01+02:00\n2023-12-31T22:30:02-01:30\n"

    assert instants(tmp_path, text) == [0, 1_000_000_000, 2_000_000_000]


def test_reads_json_lines(tmp_path: Path) -> None:
    """JSON lines have Mooncake's milliseconds, or seconds in `at_s`."""
    mooncake = [{"timestamp": ms, "input_length": 1} for ms in (0, 3000, 3001)]
    ours = [{"at_s": 1.5}, {"at_s": 2.0}]

    found = instants(tmp_path, "\n".join(map(json.dumps, mooncake)))
    assert found == [0, 3_000_000_000, 3_001_000_000]
    assert instants(tmp_path, "\n".join(map(json.dumps, ours))) == [0, 500_000_000]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1\n2\nthree\n", 3),
        ("TIMESTAMP,x\n2023-11-16 18:17:03,1\n2023-13-16 18:17:03,1\n", 3),
        ("at_s\n1\nnan\n", 3),
        ("a,timestamp\n1,2\n1\n", 3),
        ('{"timestamp": 1}\n{"timestamp": \n', 2),
        ('{"timestamp": 1}\n{"time": 2}\n', 2),
        ('{"at_s": true}\n', 1),
        ("1e300\n", 1),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, line: int) -> None:
    """The error names the file and the line."""
    with pytest.raises(InputError, match=rf"trace\.csv, line {line}: "):
        instants(tmp_path, text)


@pytest.mark.parametrize("text", ["", "\n\n", "timestamp\n"])
def test_a_file_without_arrivals_is_refused(tmp_path: Path, text: str) -> None:
    """A file without arrivals raises `InputError`."""
    with pytest.raises(InputError, match="has no arrivals"):
        instants(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing and binary files raise `InputError`."""
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x80")

    for name in ("none.csv", "binary.csv"):
        with pytest.raises(InputError, match=rf"{name}: cannot be read"):
            read_trace(tmp_path / name)
