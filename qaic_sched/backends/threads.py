"""Runs blocking calls from an event loop; a call into a driver, for instance, may hang for ever."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from math import inf
from typing import TYPE_CHECKING, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["in_thread", "join_all"]

T = TypeVar("T")


async def in_thread(function: Callable[[], T], name: str = "qaic-call", limit_s: float = inf) -> T:
    """Await `function()` on a new thread; `TimeoutError` after `limit_s` seconds.

    Cancelling the caller abandons the call. The thread is a daemon and not one of a pool: if it
    hangs, it neither delays the next call nor keeps the process alive.
    """
    future: Future[T] = Future()
    # From here on it cannot be cancelled, so that a late result can still be set.
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            result = function()
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=work, name=name, daemon=True).start()
    with anyio.fail_after(limit_s):
        return await asyncio.wrap_future(future)


def join_all(threads: Iterable[threading.Thread], limit_s: float) -> bool:
    """Block until the threads end, at most `limit_s` seconds; return whether all have ended."""
    give_up_at = time.monotonic() + limit_s
    have_ended = True
    for thread in threads:
        thread.join(max(0.0, give_up_at - time.monotonic()))
        have_ended = have_ended and not thread.is_alive()
    return have_ended
