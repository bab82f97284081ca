"""Calls that block and may hang."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from qaic_sched.backends.threads import in_thread, join_all


def test_results_and_errors_come_back() -> None:
    """The caller gets the result or the exception; the call runs on a named daemon thread."""

    def who() -> tuple[str, bool]:
        thread = threading.current_thread()
        return thread.name, thread.daemon

    assert asyncio.run(in_thread(who, "caller")) == ("caller", True)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_thread(lambda: 1 / 0, "caller"))


def test_a_call_that_hangs_is_abandoned() -> None:
    """After the limit the caller goes on, and a late result is dropped."""
    may_end = threading.Event()
    ended: list[Any] = []

    def hang() -> None:
        ended.append(may_end.wait(5))

    with pytest.raises(TimeoutError):
        asyncio.run(in_thread(hang, "hanging", 0.01))
    may_end.set()
    for thread in threading.enumerate():
        if thread.name == "hanging":
            thread.join(5)
    assert ended == [True]


def test_joining_has_one_limit_for_all_threads() -> None:
    """The limit applies to all threads together, and the result says if any is left."""
    may_end = threading.Event()
    threads = [threading.Thread(target=may_end.wait, args=(5,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert not join_all(threads, 0.01)
    may_end.set()
    assert join_all(threads, 5)
