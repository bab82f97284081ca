"""A benchmark that measures nothing, for the tests of the runner."""

from __future__ import annotations

from bench.result import Result, at_least, compare


def measure(is_short: bool) -> list[Result]:
    """Return a ratio of 2 with a target of 3."""
    note = "short" if is_short else "full"
    ours, theirs = [3.0, 4.0, 5.0], [2.0]
    return [
        compare("tiny", "calls", "1/s", ours, "nothing", theirs, targets=[at_least(3)], note=note)
    ]
