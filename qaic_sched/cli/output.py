"""Output of a command: lines on stderr, tables and JSON on stdout."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["format_table", "log_on_stderr", "print_json", "say"]

logger = logging.getLogger("qaic_sched")


def say(line: str) -> None:
    """Print a message to stderr as one line."""
    print("qaic-sched:", " ".join(line.splitlines()), file=sys.stderr)


class _Stderr(logging.Handler):
    # `sys.stderr` is looked up for each line, because a progress bar replaces it.
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Within the context, print the package's log to stderr, from level INFO."""
    handler, level = _Stderr(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def print_json(value: object) -> None:
    """Print a value as indented JSON; values of other types become text."""
    print(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode())


def format_table(columns: Mapping[str, str], rows: Sequence[Sequence[str]]) -> str:
    """Format an aligned text table; `columns` maps each heading to its alignment, `<` or `>`."""
    lines = [tuple(columns), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:{align}{width}}"
            for cell, align, width in zip(line, columns.values(), widths, strict=True)
        ).rstrip()
        for line in lines
    )
