"""Keeps pauses of Python's garbage collector out of the measurement."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["gc_frozen"]


@contextmanager
def gc_frozen() -> Iterator[None]:
    """Exclude the objects that exist now from garbage collection, until the block ends.

    The libraries of a load test are hundreds of thousands of objects. A full collection stops the
    process, target included, for about 50 ms, which would be the p99 of a short run. At the end
    everything is unfrozen, including objects that the caller had frozen before.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
