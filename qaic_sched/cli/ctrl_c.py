"""The event loop of a command, and what Ctrl-C does to it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from threading import Timer
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from qaic_sched.cli.output import say

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from typing_extensions import Self

__all__ = ["INTERRUPTED", "CtrlC", "exit_now", "run_async"]

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it: 128 + SIGINT."""

STOP_LIMIT_S = 1.0
"""Longest that a second Ctrl-C lets the devices be given back in good order."""

T = TypeVar("T")


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own: uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


def exit_now() -> NoReturn:
    """End the process though threads are still inside a device's library.

    They cannot be stopped, and some abort the process if Python's own end overtakes them.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


class CtrlC:
    """The first press asks to drain, the second cancels the task that entered the `with`.

    `on_press` is called at the first, on the loop. If what is cancelled does not end at once, the
    process does. To be entered on an event loop in the main thread. Where the loop knows no signals
    (Windows), the first press stops.
    """

    def __init__(self, on_press: Callable[[], object] | None = None) -> None:
        self._on_press = on_press
        self.is_pressed = False
        """Whether nothing new is to be begun."""
        self._exit = Timer(STOP_LIMIT_S, exit_now)
        self._exit.daemon = True

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        with suppress(NotImplementedError):
            self._loop.add_signal_handler(signal.SIGINT, self._press)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._exit.cancel()
        with suppress(NotImplementedError):
            self._loop.remove_signal_handler(signal.SIGINT)

    def _press(self) -> None:
        if not self.is_pressed:
            self.is_pressed = True
            say("Ctrl-C: finishing what is in flight; once more stops at once")
            if self._on_press is not None:
                self._on_press()
        elif self._task is not None and not self._exit.is_alive():
            self._exit.start()
            self._task.cancel()
