"""The blocking front, on its real thread and loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from qaic_sched.errors import ConfigError, InputError, SchedulerClosedError
from qaic_sched.scheduler.blocking import blocking
from qaic_sched.scheduler.front import Scheduler
from tests.hosts import expected, host, rows

pytestmark = pytest.mark.slow


def test_64_threads_share_it(tmp_path: Path) -> None:
    """Each thread gets its own outputs, and requests of several threads share batches."""
    model = host(tmp_path, devices=2, service_time_s=0.002)
    with (
        blocking(Scheduler(model, batching={"max_queue_delay_s": 0.005})) as scheduler,
        ThreadPoolExecutor(64) as threads,
    ):
        several = [rows(1 + seed % 11, seed) for seed in range(256)]
        answers = list(threads.map(scheduler.run, several))

        for inputs, outputs in zip(several, answers, strict=True):
            np.testing.assert_array_equal(outputs["mean"], expected(inputs))
        assert scheduler.get_metrics()["num_of_inferences"] < 256
        assert scheduler.statistics().done == 256


@pytest.mark.parametrize("ordered", [True, False])
def test_maps_a_stream_read_by_the_calling_thread(tmp_path: Path, ordered: bool) -> None:
    """All outputs come, in order if `ordered`, and the iterating thread reads the stream."""
    threads = set()

    def stream() -> Iterator[dict[str, np.ndarray]]:
        for seed in range(100):
            threads.add(threading.current_thread())
            yield rows(3, seed)

    with blocking(Scheduler(host(tmp_path, service_time_s=0))) as scheduler:
        answers = [outputs["mean"] for outputs in scheduler.map(stream(), ordered=ordered)]

    wanted = [expected(rows(3, seed)) for seed in range(100)]
    if not ordered:
        answers.sort(key=lambda each: float(each[0, 0]))
        wanted.sort(key=lambda each: float(each[0, 0]))
    np.testing.assert_array_equal(answers, wanted)
    assert threads == {threading.current_thread()}


def test_an_error_in_map_cancels_the_rest(tmp_path: Path) -> None:
    """Invalid inputs raise an error at their place, and no request is left in the scheduler."""
    with blocking(Scheduler(host(tmp_path))) as scheduler:
        with pytest.raises(InputError):
            list(scheduler.map([rows(1), rows(1), {}]))
        scheduler.drain()
        statistics = scheduler.statistics()
        assert statistics.queued == statistics.in_flight == 0


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    "error", [ValueError("broken"), asyncio.CancelledError(), CancelledError(), GeneratorExit()]
)
def test_an_error_of_a_stream_comes_after_its_outputs(
    tmp_path: Path, error: BaseException, ordered: bool
) -> None:
    """As with `Scheduler.map`: whatever the stream raises is raised at its place."""

    def stream() -> Iterator[dict[str, np.ndarray]]:
        yield from (rows(1), rows(2))
        raise error

    taken = []
    with blocking(Scheduler(host(tmp_path))) as scheduler:
        with pytest.raises(type(error)) as caught:
            for outputs in scheduler.map(stream(), ordered=ordered):
                taken.append(len(outputs["mean"]))  # noqa: PERF401
        assert caught.value is error
    assert taken == [1, 2]


@pytest.mark.parametrize("error", [ValueError("odd"), asyncio.CancelledError("odd")])
def test_inputs_that_raise_end_the_call(tmp_path: Path, error: BaseException) -> None:
    """Whatever they raise, no thread waits for ever, and others are served."""

    class Inputs(Mapping[str, np.ndarray]):
        def __getitem__(self, name: str) -> np.ndarray:
            raise error

        def __iter__(self) -> Iterator[str]:
            return iter(["data"])

        def __len__(self) -> int:
            return 1

    with blocking(Scheduler(host(tmp_path))) as scheduler:
        with pytest.raises((InputError, asyncio.CancelledError)):
            scheduler.run(Inputs())
        np.testing.assert_array_equal(scheduler.run(rows(2))["mean"], expected(rows(2)))


def test_a_future_can_be_cancelled(tmp_path: Path) -> None:
    """Cancelling the future of `submit` cancels its request."""
    with blocking(Scheduler(host(tmp_path, service_time_s=0.05))) as scheduler:
        future = scheduler.submit(rows(1))
        scheduler.statistics()
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result()
        scheduler.drain()
        assert scheduler.statistics().cancelled == 1


def test_errors_come_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Invalid inputs, invalid options and use after closing raise the scheduler's errors."""
    with pytest.raises(ConfigError), blocking(Scheduler(host(tmp_path), devices=9)):
        raise AssertionError("it opened")
    unopened = blocking(Scheduler(host(tmp_path)))
    with pytest.raises(SchedulerClosedError, match="not open"):
        unopened.run(rows(1))
    with unopened as scheduler:
        with pytest.raises(InputError):
            scheduler.run({})
        scheduler.run(rows(1))
        scheduler.print_metrics()
        scheduler.close()
        with pytest.raises(SchedulerClosedError, match="closed"):
            scheduler.run(rows(1))
    with pytest.raises(SchedulerClosedError):
        scheduler.get_metrics()
    assert "ready" in capsys.readouterr().out


def test_closing_ends_waiting_calls(tmp_path: Path) -> None:
    """A thread that waits for outputs gets `SchedulerClosedError`."""
    with blocking(Scheduler(host(tmp_path, service_time_s=30.0))) as scheduler:
        future = scheduler.submit(rows(1))
        scheduler.statistics()
        scheduler.close()
        with pytest.raises(SchedulerClosedError):
            future.result()


def test_leaves_no_thread_behind(tmp_path: Path) -> None:
    """After the `with` block the event loop's thread has ended."""
    before = threading.active_count()
    for _ in range(5):
        with blocking(Scheduler(host(tmp_path))) as scheduler:
            scheduler.run(rows(1))
    assert threading.active_count() == before


def test_live_changes_block_until_they_are_in_effect(tmp_path: Path) -> None:
    """`update_backend_options` returns when the change is in effect."""
    with blocking(Scheduler(host(tmp_path, cores=4, load_time_s=0.001))) as scheduler:
        scheduler.update_backend_options(num_activations=3)
        assert scheduler.get_metrics()["devices"][0]["activations"] == 3
