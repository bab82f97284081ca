"""Calls that block, and may hang for ever as those into a card's driver can, from an event loop."""

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
    """What `function()` returns or raises; `TimeoutError` after `limit_s` seconds.

    A caller that is cancelled leaves the call behind. The thread is a daemon of its own: one that
    hangs keeps neither the next call waiting nor the process alive, as one of a pool would.
    """
    future: Future[T] = Future()
    # From here on nobody can cancel it, so that a late answer has somewhere to go.
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
    """Block until the threads have ended, at most `limit_s` seconds; whether all have."""
    give_up_at = time.monotonic() + limit_s
    have_ended = True
    for thread in threads:
        thread.join(max(0.0, give_up_at - time.monotonic()))
        have_ended = have_ended and not thread.is_alive()
    return have_ended
