"""Prints a report to a terminal, and shows the progress of a run.

Rules of this file:
- The first line is the verdict.
- If the console is not a terminal, the output is plain text without control characters.
- Showing progress takes a fraction of a millisecond, twice a second: the event loop also sends the
  requests.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from qaic_sched.loadgen.report.formats import number, seconds
from qaic_sched.loadgen.show.tables import headline, result_tables, verdict_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rich.console import Console

    from qaic_sched.loadgen.report.report import Report
    from qaic_sched.loadgen.show.tables import Table

__all__ = ["LiveProgress", "LiveView", "print_report", "progress_line"]

REFRESH_S = 0.5
PLAIN_REFRESH_S = 10.0
PLAIN_WIDTH = 1000
"""The width of output that is not a terminal, so that lines are not wrapped."""

STYLES = {True: "bold green", False: "bold red"}


class LiveProgress(Protocol):
    """The progress of a run; may be read at any time."""

    @property
    def planned(self) -> int | None:
        """Requests of the whole run; None if the number is not known."""

    @property
    def sent(self) -> int:
        """Requests sent so far."""

    @property
    def done(self) -> int:
        """Requests answered so far, errors included."""

    @property
    def errors(self) -> int:
        """Answered requests without outputs."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""

    @property
    def p50_s(self) -> float | None:
        """Median latency from the planned instant; None before the first answer."""

    @property
    def p99_s(self) -> float | None:
        """p99 of the latency; None before the first answer."""


def print_report(report: Report, console: Console, files: Sequence[Path] = ()) -> None:
    """Print the verdict, the tables and the paths of the files."""
    with _unwrapped(console):
        _print(console, verdict_line(report), STYLES[report.verdict.is_valid])
        _print(console, headline(report))
        for table in result_tables(report):
            _print(console, f"\n{table.title}", "bold")
            console.print(_rich_table(table))
            if table.note:
                _print(console, table.note, "dim")
        if files:
            _print(console, "\nFiles", "bold")
        for path in files:
            _print(console, str(path))


@contextmanager
def _unwrapped(console: Console) -> Iterator[None]:
    """Do not wrap lines inside the block, unless the console is a terminal."""
    width = console.width
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    try:
        yield
    finally:
        console.width = width


def _print(console: Console, line: str, style: str = "") -> None:
    console.print(Text(line, style), soft_wrap=not console.is_terminal)


def _rich_table(table: Table) -> RichTable:
    shown = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading, alignment in table.columns.items():
        shown.add_column(heading, justify="right" if alignment == ">" else "left")
    for row, cells in enumerate(table.rows):
        style = "red" if row in table.broken else "green" if row in table.marked else None
        shown.add_row(*map(Text, cells), style=style)
    return shown


def progress_line(progress: LiveProgress) -> str:
    """Describe the progress of a run in one line: counts, and latencies so far."""
    whole = f" of {number(progress.planned)}" if progress.planned else ""
    return (
        f"{progress.elapsed_s:.1f} s: {number(progress.sent)}{whole} sent, "
        f"{number(progress.done)} done, {number(progress.errors)} errors, "
        f"p50 {seconds(progress.p50_s)}, p99 {seconds(progress.p99_s)}"
    )


class LiveView:
    """Shows the progress of a run: `async with LiveView(console, progress): ...`.

    On a terminal, one line is updated in place; otherwise a line is printed every ten seconds.
    """

    def __init__(self, console: Console, progress: LiveProgress) -> None:
        self._console = console
        self._progress = progress
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._refreshing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> LiveView:
        if self._console.is_terminal:
            self._live.start()
        self._refreshing = asyncio.ensure_future(self._refresh())
        return self

    async def __aexit__(self, *_: Any) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            with suppress(asyncio.CancelledError):
                await self._refreshing
        self._live.stop()

    async def _refresh(self) -> None:
        while self._console.is_terminal:
            self._live.update(Text(progress_line(self._progress)), refresh=True)
            await asyncio.sleep(REFRESH_S)
        while True:
            await asyncio.sleep(PLAIN_REFRESH_S)
            _print(self._console, progress_line(self._progress))
