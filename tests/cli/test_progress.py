"""Tests of the progress bar."""

from __future__ import annotations

import asyncio
from io import StringIO

from rich.console import Console

from qaic_sched.cli.progress import progress_bar
from qaic_sched.testing import run_virtual


def test_the_progress_bar_shows_rows_on_a_terminal_only() -> None:
    """A terminal shows the number of completed rows; a file shows nothing."""

    def shown(is_terminal: bool) -> str:
        console = Console(file=StringIO(), force_terminal=is_terminal, width=60)

        async def half_way() -> None:
            async with progress_bar(console, 10, lambda: 5):
                await asyncio.sleep(0.25)

        run_virtual(half_way)
        assert isinstance(console.file, StringIO)
        return console.file.getvalue()

    assert "5/10" in shown(is_terminal=True)
    assert shown(is_terminal=False) == ""
