"""Keeps Python's garbage collector from stopping a run for longer than what is measured."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["gc_frozen"]


@contextmanager
def gc_frozen() -> Iterator[None]:
    """Keep the garbage collector from what was there before the run.

    A load tester's libraries are hundreds of thousands of objects: a search through them all stops
    the process for some 50 ms, target and all, and would be the p99 of a short run. Whoever had
    frozen something before has to do so again: to ask for that is a search, too.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
