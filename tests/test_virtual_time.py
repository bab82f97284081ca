"""Virtual time: exact timers, errors instead of hangs, and the end of a run."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import time
from typing import Any

import anyio
import anyio.to_thread
import pytest

from qaic_sched.testing import DeadlockError, VirtualLoop, run_virtual


def test_returns_the_result_and_passes_arguments() -> None:
    """The coroutine function gets the arguments, and its result comes back."""

    async def add(a: int, b: int) -> int:
        return a + b

    assert run_virtual(add, 2, 3) == 5


def test_exceptions_come_out_unchanged() -> None:
    """`run_virtual` raises the exception of the coroutine unchanged."""

    async def fail() -> None:
        await asyncio.sleep(1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_virtual(fail)


def test_time_starts_at_zero_and_sleeps_are_exact() -> None:
    """Time starts at 0.0, and a sleep adds exactly its duration."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        times = [loop.time()]
        for delay in (0.1, 0.2, 1e-9, 3600.0):
            await asyncio.sleep(delay)
            times.append(loop.time())
        return times

    expected = [0.0]
    for delay in (0.1, 0.2, 1e-9, 3600.0):
        expected.append(expected[-1] + delay)

    assert run_virtual(main) == expected


@pytest.mark.parametrize("base", [0.0, 1.0, 1e5])
def test_timers_a_nanosecond_apart_fire_each_at_its_own_time(base: float) -> None:
    """Neighbouring timers, down to neighbouring floats, fire in order and never early."""
    whens = [base + 2e-9, base + 1e-9, math.nextafter(base + 2e-9, math.inf), base]

    async def main() -> list[tuple[float, float]]:
        loop = asyncio.get_running_loop()
        fired: list[tuple[float, float]] = []

        def note(when: float) -> None:
            fired.append((when, loop.time()))

        for when in whens:
            loop.call_at(when, note, when)
        await asyncio.sleep(base + 1)
        return fired

    assert run_virtual(main) == [(when, when) for when in sorted(whens)]


def test_timers_in_the_past_fire_without_moving_time() -> None:
    """A timer before now runs at once, and time does not go back."""

    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(5)
        fired = loop.create_future()
        loop.call_at(1.0, lambda: fired.set_result(loop.time()))
        return await fired, loop.time()

    assert run_virtual(main) == (5.0, 5.0)


def test_cancelled_timers_do_not_move_time() -> None:
    """Time jumps over a cancelled timer to the next one that will fire."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        loop.call_at(1.0, lambda: None).cancel()
        await asyncio.sleep(2)
        return loop.time()

    assert run_virtual(main) == 2.0


def test_two_virtual_hours_take_no_time() -> None:
    """7200 sleeps of a second, and one of many days, end at once."""

    async def main() -> float:
        for _ in range(7200):
            await asyncio.sleep(1)
        await asyncio.sleep(1e7)
        return asyncio.get_running_loop().time()

    began = time.perf_counter()

    assert run_virtual(main) == 7200 + 1e7
    assert time.perf_counter() - began < 1.0


def test_asyncio_timeouts_fire_in_virtual_time() -> None:
    """`asyncio.wait_for` raises exactly at its timeout."""

    async def main() -> float:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 2.5)
        return asyncio.get_running_loop().time()

    assert run_virtual(main) == 2.5


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout came with 3.11")
def test_asyncio_timeout_and_task_group_work() -> None:
    """asyncio.timeout and TaskGroup behave as on any loop."""
    asyncio_: Any = asyncio

    async def main() -> float:
        async with asyncio_.TaskGroup() as group:
            group.create_task(asyncio.sleep(3))
            group.create_task(asyncio.sleep(4))
        with pytest.raises(TimeoutError):
            async with asyncio_.timeout(1):
                await asyncio.sleep(10)
        return asyncio.get_running_loop().time()

    assert run_virtual(main) == 5.0


def test_anyio_scopes_and_task_groups_work() -> None:
    """anyio's `fail_after`, `move_on_after` and task groups work in virtual time."""

    async def main() -> float:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 3)
            group.start_soon(anyio.sleep, 4)
        with anyio.move_on_after(1):
            await anyio.sleep_forever()
        with pytest.raises(TimeoutError), anyio.fail_after(2):
            await anyio.Event().wait()
        return anyio.current_time()

    assert run_virtual(main) == 7.0


def test_a_deadlock_names_the_tasks_that_wait_and_where() -> None:
    """With nothing ready and no timer the error names each task and the line it waits in."""

    async def wait_for_nobody() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.sleep(1.5)
        await asyncio.gather(asyncio.create_task(wait_for_nobody(), name="lonely"))

    with pytest.raises(DeadlockError) as caught:
        run_virtual(main)

    message = str(caught.value)
    assert "at 1.5 s of virtual time" in message
    assert "lonely waits in Event.wait (" in message
    assert "test_a_deadlock_names_the_tasks_that_wait_and_where.<locals>.main (" in message


def test_a_bare_future_that_is_never_resolved_is_a_deadlock() -> None:
    """If a task awaits a bare future, the error names the coroutine that awaits it."""

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlockError, match=r"main \(.*test_virtual_time\.py:\d+\)"):
        run_virtual(main)


def test_a_loop_without_any_task_says_so() -> None:
    """The error says that there is no task."""
    loop = VirtualLoop()

    with pytest.raises(DeadlockError, match="there is no task"):
        loop.run_until_complete(loop.create_future())

    loop.close()


def test_sleeping_forever_is_a_deadlock() -> None:
    """A timer at infinity never fires, so nothing is left to wait for."""
    with pytest.raises(DeadlockError):
        run_virtual(anyio.sleep_forever)


def test_asyncio_to_thread_is_refused_in_a_sentence() -> None:
    """An executor's thread is refused at once, with an alternative."""

    async def main() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(RuntimeError, match=r"cannot answer in virtual time.*asyncio.sleep"):
        run_virtual(main)


def test_anyio_to_thread_is_refused_in_a_sentence() -> None:
    """anyio's worker thread is found before time moves, even while there is a timer."""
    release = threading.Event()
    before = threading.enumerate()

    async def main() -> None:
        with anyio.fail_after(60):
            await anyio.to_thread.run_sync(release.wait)

    with pytest.raises(RuntimeError, match="'AnyIO worker thread' cannot answer in virtual time"):
        run_virtual(main)
    release.set()
    for worker in set(threading.enumerate()).difference(before):
        worker.join(5)
        assert not worker.is_alive()


def test_a_call_from_another_thread_fails_the_run() -> None:
    """`call_soon_threadsafe` from another thread fails the run, and the error names the thread."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(print,), name="intruder")
        thread.start()
        thread.join()
        await asyncio.sleep(1)

    with pytest.raises(RuntimeError, match="the thread 'intruder' cannot answer"):
        run_virtual(main)


def test_call_soon_threadsafe_from_the_loop_itself_works() -> None:
    """Libraries may use call_soon_threadsafe from the loop's own thread."""

    async def main() -> str:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon_threadsafe(future.set_result, "here")
        return str(await future)

    assert run_virtual(main) == "here"


def test_threads_that_do_not_use_the_loop_are_allowed() -> None:
    """A thread that never touches the loop does not disturb virtual time."""
    release = threading.Event()
    thread = threading.Thread(target=release.wait)

    async def main() -> float:
        thread.start()
        await asyncio.sleep(1)
        return asyncio.get_running_loop().time()

    assert run_virtual(main) == 1.0
    release.set()
    thread.join()


def test_left_over_tasks_are_cancelled_and_generators_closed() -> None:
    """At the end tasks are cancelled in the order of their creation, and generators are closed."""
    log: list[str] = []

    async def linger(name: str) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)
            log.append(name)

    async def numbers() -> Any:
        try:
            yield 1
        finally:
            log.append("generator")

    async def main() -> None:
        for name in ("a", "b"):
            task = asyncio.create_task(linger(name))
            task.add_done_callback(lambda _: None)
        generator = numbers()
        keep.append(generator)
        await generator.__anext__()

    keep: list[Any] = []
    run_virtual(main)

    assert log == ["a", "b", "generator"]


def test_an_error_of_a_cancelled_task_is_reported() -> None:
    """If a task raises an error when cancelled, the exception handler gets it."""
    reports: list[dict[str, Any]] = []

    async def stubborn() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            raise ValueError("in the way")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context))
        tasks.append(asyncio.create_task(stubborn()))
        await asyncio.sleep(1)

    tasks: list[asyncio.Task[None]] = []
    run_virtual(main)

    assert [str(report["exception"]) for report in reports] == ["in the way"]


def test_it_does_not_run_inside_a_loop() -> None:
    """Called from a coroutine, it raises an error and starts nothing."""

    async def inner() -> None:
        raise AssertionError

    async def main() -> None:
        run_virtual(inner)

    with pytest.raises(RuntimeError, match="call it from synchronous code"):
        asyncio.run(main())


def test_debug_mode_changes_no_time() -> None:
    """asyncio's debug mode does not change the times of a run."""

    async def main(debug: bool) -> list[float]:
        loop = asyncio.get_running_loop()
        loop.set_debug(debug)
        times = []
        for delay in (0.25, 0.5):
            await asyncio.sleep(delay)
            times.append(loop.time())
        return times

    assert run_virtual(main, True) == run_virtual(main, False) == [0.25, 0.75]
