"""Virtual time: an event loop whose clock jumps to the next timer instead of waiting.

Rules of this file:
- Time moves only when nothing is ready, and then exactly to the next timer: running code takes no
  time, and two timers that are a nanosecond apart fire at two times.
- Waiting without a timer would never end, and threads, which live in real time, could not be
  repeated: both raise an error that says so.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import threading
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

__all__ = ["DeadlockError", "VirtualLoop", "run_virtual"]

T = TypeVar("T")

_NO_THREADS = (
    "{} cannot answer in virtual time, which does not pass while a thread works: call the function"
    " directly, model its duration with asyncio.sleep, or run it in real time"
)


class DeadlockError(RuntimeError):
    """The fault of the test or the tested code: every task waits, and no timer is left."""


class _Selector(selectors.DefaultSelector):
    """Moves the loop's clock to the next timer where asyncio would wait for something."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and (timeout is None or timeout > 0):
            self.loop.jump()
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` starts at 0.0 and jumps to the next timer when nothing is ready.

    It does not wait for sockets and threads. Run it in the thread that makes it.
    """

    is_virtual = True
    """The clock does not run by itself, see `qaic_sched.clock`."""

    # Attributes of asyncio's loop, for which there is no public method.
    _scheduled: list[asyncio.TimerHandle]
    _clock_resolution: float

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)
        self._home = threading.current_thread()
        self._foreign_thread: threading.Thread | None = None
        self._num_threads = threading.active_count()
        self._set_time(0.0)

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._now

    def jump(self) -> None:
        """Move the clock to the next timer; `DeadlockError` if there is none."""
        self._refuse_threads()
        # Not from the selector's timeout: adding it would miss the timer by a rounding error, and
        # asyncio limits it to a day.
        when = self._scheduled[0].when() if self._scheduled else math.inf
        if when == math.inf:
            raise DeadlockError(
                f"nothing left to wait for at {self._now} s of virtual time: {_waiting(self)}"
            )
        self._set_time(when)

    def run_in_executor(self, *args: object) -> NoReturn:
        """Raise `RuntimeError`: a thread cannot live in virtual time."""
        raise RuntimeError(_NO_THREADS.format("an executor's thread"))

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> asyncio.Handle:
        """Do as asyncio does; a call from another thread fails the run."""
        if threading.current_thread() is not self._home:
            self._foreign_thread = threading.current_thread()
        return super().call_soon_threadsafe(callback, *args, context=context)

    def _set_time(self, now: float) -> None:
        self._now = float(now)  # a caller may sleep for a numpy scalar
        # asyncio runs timers before now + resolution: with the smallest float step, only those due.
        self._clock_resolution = math.ulp(now)

    def _refuse_threads(self) -> None:
        """Raise if another thread has used the loop, or refers to it as anyio's threads do."""
        thread = self._foreign_thread
        if threading.active_count() > self._num_threads:
            holders = (t for t in threading.enumerate() if getattr(t, "loop", None) is self)
            thread = thread or next(holders, None)
        if thread is not None:
            # Reported once, so that the remaining tasks can clean up.
            self._foreign_thread = None
            self._num_threads = threading.active_count()
            raise RuntimeError(_NO_THREADS.format(f"the thread {thread.name!r}"))


def run_virtual(async_function: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
    """Run `async_function(*args)` in virtual time, which starts at 0.0, and return its result.

    Like `asyncio.run`, it then cancels the remaining tasks and closes async generators. Raises
    `DeadlockError` if every task waits and no timer is left, and `RuntimeError` if another thread
    uses the loop, or if an event loop is running in this thread already.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("run_virtual() makes its own event loop: call it from synchronous code")
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(async_function(*args))
    finally:
        try:
            loop.run_until_complete(_cancel_tasks(loop))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


async def _cancel_tasks(loop: VirtualLoop) -> None:
    """Cancel all other tasks, wait for them, and report the exceptions they raise."""
    tasks = [task for task in _tasks(loop) if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and task.exception() is not None:
            loop.call_exception_handler(
                {
                    "message": "unhandled exception at the end of run_virtual()",
                    "exception": task.exception(),
                    "task": task,
                }
            )


def _tasks(loop: VirtualLoop) -> list[asyncio.Task[Any]]:
    """Return the unfinished tasks ordered by name, Task-2 before Task-10."""
    return sorted(asyncio.all_tasks(loop), key=lambda task: (len(task.get_name()), task.get_name()))


def _waiting(loop: VirtualLoop) -> str:
    """Describe the waiting tasks, each with the line where it waits."""
    lines = [f"{task.get_name()} waits in {_innermost(task)}" for task in _tasks(loop)]
    return "; ".join(lines) or "there is no task"


def _innermost(task: asyncio.Task[Any]) -> str:
    """Describe the innermost coroutine that a task waits in, with its line."""
    coroutine: Any = task.get_coro()
    while getattr(getattr(coroutine, "cr_await", None), "cr_frame", None) is not None:
        coroutine = coroutine.cr_await
    frame = getattr(coroutine, "cr_frame", None)
    name = getattr(coroutine, "__qualname__", repr(coroutine))
    return f"{name} ({frame.f_code.co_filename}:{frame.f_lineno})" if frame else name
