"""The report on a terminal and as plain text, and the live view of a run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from qaic_sched.loadgen.show.tables import result_tables, verdict_line
from qaic_sched.loadgen.show.terminal import LiveView, print_report, progress_line
from qaic_sched.testing import run_virtual
from tests.loadgen.reports import Host, make_report, make_search


@dataclass
class Counters:
    """The progress of a run."""

    planned: int | None = 10_000
    sent: int = 0
    done: int = 0
    errors: int = 0
    elapsed_s: float = 0.0
    p50_s: float | None = None
    p99_s: float | None = None


def printed(report: object, width: int = 80, *, terminal: bool = False, **options: object) -> str:
    """Return the output of a console."""
    colours = "standard" if terminal else None
    console = Console(file=StringIO(), width=width, force_terminal=terminal, color_system=colours)
    print_report(report, console, **options)  # type: ignore[arg-type]
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_first_line_is_the_verdict() -> None:
    """The first line has the verdict only."""
    invalid = make_report(Host(rate=830.0))

    assert printed(make_report()).splitlines()[0] == "VALID"
    assert printed(invalid).splitlines()[0] == verdict_line(invalid)
    assert printed(invalid).startswith("INVALID: p99 is at most")


def test_every_table_and_cell_is_printed() -> None:
    """Every table and cell is printed, and the files."""
    report = make_report(search=make_search(), problems={"DeviceError: [3] is lost": 2})
    text = printed(report, files=[Path("out/report.json"), Path("out/report.html")])

    for table in result_tables(report):
        assert f"\n{table.title}\n" in text
        assert all(cell in text for row in table.rows for cell in row)
        assert table.note in text
    assert text.endswith("\nFiles\nout/report.json\nout/report.html\n")


def test_elsewhere_than_on_a_terminal_it_is_plain_text_of_whole_lines() -> None:
    """Plain output has no control characters and no wrapped lines."""
    report = make_report(search=make_search())
    text = printed(report, width=40)

    assert "\x1b" not in text
    (row,) = [line for line in text.splitlines() if line.lstrip().startswith("790 ")]
    assert row.split() == [*" ".join(result_tables(report)[-1].rows[-1]).split()]


def test_on_a_terminal_lines_fit_and_the_verdict_has_a_colour() -> None:
    """On a terminal lines fit its width, and the verdict is green or red."""
    valid = printed(make_report(), width=90, terminal=True)
    invalid = printed(make_report(Host(rate=830.0)), width=90, terminal=True)

    assert valid.startswith("\x1b[1;32mVALID\x1b[0m\n")
    assert invalid.startswith("\x1b[1;31mINVALID")
    plain = printed(make_report(), width=90, terminal=False)
    assert max(map(len, plain.splitlines())) > 90


def test_the_consoles_width_is_left_as_it_was() -> None:
    """The console keeps its width."""
    console = Console(file=StringIO(), width=55)
    print_report(make_report(), console)

    assert console.width == 55


def test_progress_is_one_line() -> None:
    """The line has counts, time and latencies, and the total if it is known."""
    counters = Counters(sent=5_000, done=4_990, errors=1, elapsed_s=12.04, p50_s=0.0081, p99_s=0.02)

    assert progress_line(counters) == (
        "12.0 s: 5,000 of 10,000 sent, 4,990 done, 1 errors, p50 8.10 ms, p99 20.0 ms"
    )
    assert progress_line(Counters(planned=None)) == "0.0 s: 0 sent, 0 done, 0 errors, p50 -, p99 -"


async def watched(console: Console, steps: int) -> None:
    """Simulate a run that sends a hundred requests per second."""
    counters = Counters()
    async with LiveView(console, counters):
        for _ in range(steps):
            await asyncio.sleep(1.0)
            counters.sent += 100
            counters.elapsed_s += 1.0


def test_a_live_view_elsewhere_is_a_plain_line_now_and_then() -> None:
    """Plain output has a line every ten seconds."""
    console = Console(file=StringIO(), width=20)
    run_virtual(watched, console, 35)
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()

    assert len(lines) == 3
    assert "\x1b" not in console.file.getvalue()
    assert all(line.endswith("errors, p50 -, p99 -") for line in lines)

    console = Console(file=StringIO())
    run_virtual(watched, console, 5)
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue() == ""


def test_a_live_view_on_a_terminal_changes_one_line_and_takes_it_away() -> None:
    """On a terminal one line is updated, and removed at the end."""
    console = Console(file=StringIO(), width=100, force_terminal=True)
    run_virtual(watched, console, 5)
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()

    assert "4.0 s: 400 of 10,000 sent" in text
    assert text.count("\n") <= 2
    assert "\x1b[?25h" in text.rpartition("sent")[2]
    assert "\x1b[2K" in text.rpartition("sent")[2]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_live_view_ends_when_the_run_fails(terminal: bool) -> None:
    """If the run fails, the view ends and the error is passed on."""

    async def failing(console: Console) -> int:
        with pytest.raises(ZeroDivisionError):
            async with LiveView(console, Counters()):
                await asyncio.sleep(0.1)
                raise ZeroDivisionError
        return len(asyncio.all_tasks())

    assert run_virtual(failing, Console(file=StringIO(), force_terminal=terminal)) == 1
