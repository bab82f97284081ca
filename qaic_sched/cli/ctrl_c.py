"""The event loop of a command, and its reaction to Ctrl-C."""

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
"""The exit status after Ctrl-C, as in shells: 128 + SIGINT."""

STOP_LIMIT_S = 1.0
"""How long a command may take to release its devices after a second Ctrl-C."""

T = TypeVar("T")


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a new event loop: uvloop if it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


def exit_now() -> NoReturn:
    """End the process at once, with status 130, while threads are still inside a device's library.

    Such threads cannot be stopped, and some abort the process if Python shuts down under them.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


class CtrlC:
    """Handles Ctrl-C: the first press asks to drain, the second cancels the entering task.

    `on_press` is called on the loop at the first press. If the cancelled task does not end within
    a second, the process exits. Enter it on an event loop in the main thread. On a loop without
    signal handlers (Windows), the first press stops the command.
    """

    def __init__(self, on_press: Callable[[], object] | None = None) -> None:
        self._on_press = on_press
        self.is_pressed = False
        """True from the first press on: start nothing new."""
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
            say("Ctrl-C: finishing inferences in flight; press again to stop at once")
            if self._on_press is not None:
                self._on_press()
        elif self._task is not None and not self._exit.is_alive():
            self._exit.start()
            self._task.cancel()
