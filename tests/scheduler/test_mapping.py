"""`Scheduler.map`: streams through the scheduler, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qaic_sched.errors import DeadlineExceededError, InputError
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.scheduler.mapping import map_requests
from qaic_sched.testing import run_virtual
from tests.hosts import expected, host, rows


def test_yields_in_the_order_of_the_stream(tmp_path: Path) -> None:
    """By default outputs come in the order of the stream, not in the order of the answers."""

    async def main() -> None:
        slow = {0: {"speed": 0.2}}
        async with Scheduler(host(tmp_path, batch=1, devices=3, overrides=slow)) as scheduler:
            stream = [rows(1, seed) for seed in range(50)]
            answers = [outputs async for outputs in scheduler.map(stream)]

            assert len(answers) == 50
            for inputs, outputs in zip(stream, answers, strict=True):
                np.testing.assert_array_equal(outputs["mean"], expected(inputs))

    run_virtual(main)


def test_unordered_yields_as_they_come(tmp_path: Path) -> None:
    """With `ordered=False` a slow device delays only its own requests."""

    async def main() -> None:
        slow = {0: {"speed": 0.1}}
        async with Scheduler(host(tmp_path, batch=1, devices=2, overrides=slow)) as scheduler:
            stream = [rows(1, seed) for seed in range(20)]
            answers = [outputs async for outputs in scheduler.map(stream, ordered=False)]

            got = [float(outputs["mean"][0, 0]) for outputs in answers]
            sent = [float(expected(inputs)[0, 0]) for inputs in stream]
            assert sorted(got) == sorted(sent)
            assert got != sent

    run_virtual(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_is_bounded_in_flight_and_keeps_devices_busy(tmp_path: Path, ordered: bool) -> None:
    """The stream is read no further than the bound, and the device never idles."""
    read = 0

    def stream() -> Iterator[dict[str, np.ndarray]]:
        nonlocal read
        for seed in range(200):
            read += 1
            yield rows(4, seed)

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            taken = 0
            async for _ in scheduler.map(stream(), ordered=ordered):
                taken += 1
                assert 4 * (read - taken) <= scheduler.samples_to_keep_busy + 4
            assert taken == 200
            assert asyncio.get_running_loop().time() == pytest.approx(1.0)

    run_virtual(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_requests_as_large_as_the_bound_keep_devices_busy(tmp_path: Path, ordered: bool) -> None:
    """While the last batch of one request runs, the next request is on the device already."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, host_turnaround_s=0.001)) as scheduler:
            stream = [rows(scheduler.samples_to_keep_busy, seed) for seed in range(20)]
            async for _ in scheduler.map(stream, ordered=ordered):
                pass
            batches = 20 * scheduler.samples_to_keep_busy / 8
            assert asyncio.get_running_loop().time() == pytest.approx(batches * 0.010)

    run_virtual(main)


def test_yields_while_the_stream_is_slow(tmp_path: Path) -> None:
    """Outputs are yielded when they are ready, not when the stream gives its next element."""

    async def stream() -> AsyncIterator[dict[str, np.ndarray]]:
        for seed in range(3):
            yield rows(8, seed)
            await asyncio.sleep(1.0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Scheduler(host(tmp_path)) as scheduler:
            times = [loop.time() async for _ in scheduler.map(stream())]
        assert times == pytest.approx([0.01, 1.01, 2.01])

    run_virtual(main)


def test_an_empty_stream_yields_nothing(tmp_path: Path) -> None:
    """An empty stream ends at once, without outputs."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            assert [outputs async for outputs in scheduler.map([])] == []

    run_virtual(main)


def test_the_first_error_of_a_request_is_raised_and_the_rest_cancelled(tmp_path: Path) -> None:
    """A missed deadline ends the iteration, and no request is left in the scheduler."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, batch=1), set_size=1) as scheduler:
            taken = 0
            with pytest.raises(DeadlineExceededError):
                async for _ in scheduler.map([rows(1)] * 10, timeout_s=0.015):
                    taken += 1
            assert taken == 1
            statistics = scheduler.statistics()
            assert statistics.queued == statistics.waiting == 0

    run_virtual(main)


def test_an_error_of_the_stream_comes_after_its_outputs(tmp_path: Path) -> None:
    """Invalid inputs, or an exception of the stream itself, are raised at their place."""

    def stream() -> Iterator[dict[str, np.ndarray]]:
        yield rows(1)
        yield rows(2)
        yield {}

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            taken = []
            with pytest.raises(InputError, match="missing"):
                async for outputs in scheduler.map(stream()):
                    taken.append(len(outputs["mean"]))  # noqa: PERF401
            assert taken == [1, 2]

    run_virtual(main)


def test_a_second_error_leaves_no_warning(
    tmp_path: Path,
) -> None:
    """The first error is raised; the second causes no "never retrieved" warning."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, batch=1), set_size=1) as scheduler:
            with pytest.raises(DeadlineExceededError):
                async for _ in scheduler.map([rows(1), {}], timeout_s=0.005):
                    pass

    run_virtual(main)


def test_an_error_of_an_asynchronous_stream_comes_after_its_outputs(tmp_path: Path) -> None:
    """An error of an asynchronous stream is raised at its place, too."""

    async def stream() -> AsyncIterator[dict[str, np.ndarray]]:
        yield rows(1)
        await asyncio.sleep(1.0)
        yield rows(2)
        raise OSError("the disk is gone")

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            taken = []
            with pytest.raises(OSError, match="the disk is gone"):
                async for outputs in scheduler.map(stream(), ordered=False):
                    taken.append(len(outputs["mean"]))  # noqa: PERF401
            assert taken == [1, 2]

    run_virtual(main)


def test_the_stream_is_read_ahead_of_the_consumer(tmp_path: Path) -> None:
    """A slow consumer does not let the devices idle."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Scheduler(host(tmp_path), set_size=1) as scheduler:
            most = scheduler.samples_to_keep_busy // 8
            async for _ in scheduler.map([rows(8)] * (2 * most + 1)):
                await asyncio.sleep(0.010)
            assert loop.time() == pytest.approx(0.010 + (2 * most + 1) * 0.010)

    run_virtual(main)


def test_leaving_early_cancels_what_is_outstanding(tmp_path: Path) -> None:
    """If the consumer stops early, the scheduler is empty and usable."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, batch=1)) as scheduler:
            async with aclosing(scheduler.map([rows(1)] * 100)) as answers:
                async for _ in answers:
                    break
            statistics = scheduler.statistics()
            assert statistics.waiting == statistics.queued == statistics.in_flight == 0
            await scheduler.run(rows(1))

    run_virtual(main)


# Whatever ends a stream


class Ending:
    """A stream of two elements that ends with an error: for `for` and for `async for`."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def read(self) -> AsyncIterator[dict[str, np.ndarray]]:
        """Yield and raise as an asynchronous stream."""
        for each in (1, 2):
            await asyncio.sleep(0)
            yield rows(each)
        raise self._error

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        yield from (rows(1), rows(2))
        raise self._error


ENDS: list[BaseException] = [
    asyncio.CancelledError("gone"),
    GeneratorExit(),
    ValueError("broken"),
    TimeoutError(),
]
INTERRUPTS: list[BaseException] = [KeyboardInterrupt(), SystemExit(3)]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("error", [*ENDS, *INTERRUPTS], ids=repr)
def test_whatever_a_stream_raises_is_raised_to_the_consumer(
    tmp_path: Path, error: BaseException, is_async: bool, ordered: bool
) -> None:
    """After the outputs of what came before; an interrupt waits for one at most."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            taken = []
            stream = Ending(error).read() if is_async else Ending(error)
            with pytest.raises(type(error)) as caught:
                async for outputs in scheduler.map(stream, ordered=ordered):
                    taken.append(len(outputs["mean"]))  # noqa: PERF401
            assert caught.value is error
            assert taken == [1, 2] or (error in INTERRUPTS and len(taken) < 2)
            statistics = scheduler.statistics()
            assert statistics.queued == statistics.waiting == 0
            assert (await scheduler.run(rows(1)))["mean"].shape == (1, 2)

    run_virtual(main)


def test_an_element_that_raises_the_end_of_an_iterator_does_not_end_the_stream() -> None:
    """It is an error of that element, not the end of the stream."""

    def submit(_: object) -> Any:
        raise StopIteration

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            async for _ in map_requests(submit, [rows(1)], lambda: 8, ordered=True):
                pass

    run_virtual(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_consumer_that_is_cancelled_cancels_the_stream(tmp_path: Path, ordered: bool) -> None:
    """The stream sees the cancellation, and the consumer gets its own."""
    ended: list[type[BaseException]] = []

    async def stream() -> AsyncIterator[dict[str, np.ndarray]]:
        try:
            yield rows(1)
            await asyncio.sleep(1000)
        except BaseException as error:
            ended.append(type(error))
            raise

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:

            async def consume() -> None:
                async for _ in scheduler.map(stream(), ordered=ordered):
                    pass

            task = asyncio.ensure_future(consume())
            await asyncio.sleep(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended == [asyncio.CancelledError]
            assert asyncio.get_running_loop().time() == 1

    run_virtual(main)


def test_a_stream_that_suppresses_its_cancellation_is_read_no_further(tmp_path: Path) -> None:
    """Once the consumer has left, nothing is submitted any more."""
    read = 0

    async def stream() -> AsyncIterator[dict[str, np.ndarray]]:
        nonlocal read
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1)
            read += 1
            yield rows(1)

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            async with aclosing(scheduler.map(stream())) as answers:
                async for _ in answers:
                    break
            assert read == 2
            assert scheduler.statistics().accepted == 1

    run_virtual(main)


def test_an_error_of_a_stream_that_is_left_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not replace the consumer's own reason to leave."""

    async def stream() -> AsyncIterator[dict[str, np.ndarray]]:
        try:
            yield rows(1)
            await asyncio.sleep(1000)
        finally:
            raise OSError("the file was not closed")

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            with pytest.raises(ZeroDivisionError):
                async with aclosing(scheduler.map(stream())) as answers:
                    async for _ in answers:
                        raise ZeroDivisionError

    run_virtual(main)
    assert "the stream failed while it was left: OSError('the file was not closed')" in caplog.text
