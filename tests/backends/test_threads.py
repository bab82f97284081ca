"""Tests of calls that may hang."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from qaic_sched.backends.threads import in_thread, join_all


def test_results_and_errors_come_back() -> None:
    """What the function returns or raises is the caller's, on a named daemon."""

    def who() -> tuple[str, bool]:
        thread = threading.current_thread()
        return thread.name, thread.daemon

    assert asyncio.run(in_thread(who, "caller")) == ("caller", True)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_thread(lambda: 1 / 0, "caller"))


def test_a_call_that_hangs_is_left_behind() -> None:
    """After the limit the caller goes on, and what comes late disturbs nobody."""
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


def test_joining_is_bounded_for_all_together() -> None:
    """Threads that hang are waited for once, and it is said that some are left."""
    may_end = threading.Event()
    threads = [threading.Thread(target=may_end.wait, args=(5,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert not join_all(threads, 0.01)
    may_end.set()
    assert join_all(threads, 5)
