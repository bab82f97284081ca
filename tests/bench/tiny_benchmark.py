"""A benchmark that measures nothing, for the tests of the frame."""

from __future__ import annotations

from bench.result import Result, at_least, compare


def measure(is_short: bool) -> list[Result]:
    """A ratio of 2, where 3 was asked for."""
    note = "short" if is_short else "full"
    ours, theirs = [3.0, 4.0, 5.0], [2.0]
    return [
        compare("tiny", "calls", "1/s", ours, "nothing", theirs, asked=[at_least(3)], note=note)
    ]
