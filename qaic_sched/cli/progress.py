"""A progress bar for terminals, which polls the job so that the job pays nothing for it."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["progress_bar", "stderr_console"]

REFRESH_S = 0.1


def stderr_console() -> Console:
    """Return a console on stderr, which is a terminal only if stderr is one."""
    return Console(stderr=True, force_terminal=sys.stderr.isatty())


@asynccontextmanager
async def progress_bar(
    console: Console, total: int, completed: Callable[[], int]
) -> AsyncIterator[None]:
    """Within the context, show the number of completed rows if the console is a terminal."""
    if not console.is_terminal:
        yield
        return
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        refreshing = asyncio.ensure_future(_refresh(progress, total, completed))
        try:
            yield
        finally:
            refreshing.cancel()


async def _refresh(progress: Progress, total: int, completed: Callable[[], int]) -> None:
    task = progress.add_task("rows", total=total)
    while True:
        progress.update(task, completed=completed(), refresh=True)
        await asyncio.sleep(REFRESH_S)
