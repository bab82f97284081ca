"""An event loop on a separate thread, for blocking callers.

Rules of the file:
- The thread lives as long as the program on its loop, and never keeps the process alive.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["LoopThread", "finish_alone"]

T = TypeVar("T")


class LoopThread:
    """An event loop on a new daemon thread."""

    def __init__(self) -> None:
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = Thread(
            target=asyncio.run, args=(_serve(started),), name="qaic_sched session", daemon=True
        )
        self._thread.start()
        self._loop, self._stopping = started.result()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the loop, from any thread; the future of its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for its result; interrupting the wait cancels it."""
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def set(self, event: asyncio.Event) -> None:
        """Set an event of the loop, from any thread."""
        self._loop.call_soon_threadsafe(event.set)

    def stop(self) -> None:
        """End the loop and its thread, cancelling coroutines that still run; does not wait."""
        self.set(self._stopping)

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()


def finish_alone(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a temporary loop, and wait for its result."""
    thread = LoopThread()
    try:
        return thread.finish(work)
    finally:
        thread.stop()
        thread.join()


async def _serve(started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    stopping = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), stopping))
    await stopping.wait()
