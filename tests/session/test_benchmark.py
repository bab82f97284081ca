"""Benchmarks: their extent, their result, and how they end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from qaic_sched.errors import DeviceError
from qaic_sched.session import Session
from tests.session.scripted_device import (
    PATIENCE_S,
    ScriptedBackend,
    interrupted_when,
    rows,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_benchmark_runs_40_inferences_by_default(on_device: Any) -> None:
    """A benchmark returns the vendor's tuple, and the metrics do not include it."""
    session, backend = on_device(num_activations=2)
    completed, rate, seconds, batch_size = session.run_benchmark()
    assert (completed, batch_size, backend.num_submitted) == (40, 4, 40)
    assert rate == pytest.approx(40 / seconds)
    assert session.get_metrics()["num_of_inferences"] == 0
    assert session.run(rows(1))["y"].tolist() == [1]
    session.reset()


def test_a_benchmark_takes_the_callers_input(on_device: Any) -> None:
    """The result has the number of rows of the input; a wrong input is refused."""
    session, _ = on_device()
    assert session.run_benchmark(num_inferences=5, input_dict=rows(1)).batch_size == 1
    with pytest.raises(ValueError, match="2 rows"):
        session.run_benchmark(input_dict=rows(1, 2))
    session.reset()


def test_a_benchmark_keeps_every_slot_busy(on_device: Any) -> None:
    """Every slot always holds an inference: completing one starts the next there."""
    session, backend = on_device(
        ScriptedBackend(completes_at_once=False), num_activations=2, set_size=2
    )
    with ThreadPoolExecutor(1) as threads:
        benchmark = threads.submit(session.run_benchmark, num_inferences=7)
        until(lambda: backend.num_submitted == 4)
        device = backend.executables[0]
        held = [device.next() for _ in range(4)]
        assert sorted(each.activation for each in held) == [0, 0, 1, 1]
        for first in held[:3]:
            first.complete()  # submits the next one before it returns
            held.append(device.submitted.get_nowait())
            assert held[-1].activation == first.activation
        for last in held[3:]:
            assert not benchmark.done()
            last.complete()
        assert benchmark.result(PATIENCE_S).inf_completed == backend.num_submitted == 7
    session.reset()


def test_a_benchmark_by_time_stops_when_it_is_over(on_device: Any) -> None:
    """With `inf_time` a benchmark runs that long, and at least one inference."""
    session, _ = on_device()
    result = session.run_benchmark(inf_time=0.02)
    assert result.inf_completed > 1
    assert result.inf_time >= 0.01
    assert session.run_benchmark(inf_time=1e-12).inf_completed == 1
    session.reset()


def test_a_benchmark_raises_the_first_error(on_device: Any) -> None:
    """A failed inference ends the benchmark once all have completed; no slot is lost."""
    session, backend = on_device()
    backend.error = DeviceError("device 0 is lost", 0)
    with pytest.raises(DeviceError, match="device 0 is lost"):
        session.run_benchmark()
    assert backend.num_submitted <= 2
    backend.error = None
    assert session.run_benchmark(num_inferences=3).inf_completed == 3
    session.reset()


def test_a_reset_waits_for_a_benchmark(on_device: Any) -> None:
    """During a reset a benchmark gets no further slots, but finishes with those it has."""
    session, backend = on_device(ScriptedBackend(completes_at_once=False), set_size=2)
    with ThreadPoolExecutor(3) as threads:
        run = threads.submit(session.run, rows(1))
        until(lambda: backend.num_submitted == 1)
        held = backend.executables[0].next()
        benchmark = threads.submit(session.run_benchmark, num_inferences=3)
        first = backend.executables[0].next()
        until(lambda: session._loaded.slots._waiting)
        session._loaded.slots.dismiss()
        reset = threads.submit(session.reset)
        until(lambda: not session._loaded.slots.is_open)
        first.complete()
        backend.executables[0].next().complete()
        backend.executables[0].next().complete()
        assert benchmark.result(PATIENCE_S).inf_completed == 3
        held.complete()
        run.result(PATIENCE_S)
        reset.result(PATIENCE_S)
    assert len(backend.loads) == 1


def test_ctrl_c_ends_a_benchmark(on_device: Any) -> None:
    """After an interruption nothing more is submitted, and all slots are released."""
    session, backend = on_device(ScriptedBackend(completes_at_once=False), set_size=1)
    with interrupted_when(lambda: backend.num_submitted):
        session.run_benchmark(inf_time=3600)
    backend.executables[0].next().complete()
    assert backend.num_submitted == 1
    session.reset()


def test_a_benchmark_can_be_stopped(on_device: Any) -> None:
    """A stopped benchmark ends with its result so far once inferences in flight complete."""
    session, backend = on_device(ScriptedBackend(completes_at_once=False), set_size=2)
    benchmark = session.prepare_benchmark(inf_time=3600)
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(benchmark.run)
        until(lambda: backend.num_submitted == 2)
        device = backend.executables[0]
        device.next().complete()
        benchmark.stop()
        assert not result.done()
        device.next().complete()
        device.next().complete()
        assert result.result(PATIENCE_S).inf_completed == backend.num_submitted == 3
    session.reset()


def test_a_benchmark_stopped_before_its_start_runs_nothing(on_device: Any) -> None:
    """The result is all zeros, and the slot is free again."""
    session, backend = on_device(set_size=1)
    benchmark = session.prepare_benchmark(num_inferences=5)
    benchmark.stop()
    assert benchmark.run() == (0, 0.0, 0.0, 4)
    assert backend.num_submitted == 0
    assert session.run(rows(1))["y"].tolist() == [1]
    session.reset()


@pytest.mark.slow
def test_a_benchmark_reaches_the_rate_of_the_card(write_sim: Callable[[float], str]) -> None:
    """4 activations at 2 ms make 2000 per second: not more, and at least 98 % of that.

    The best of a few runs counts, because other load on this host slows some of them.
    """
    with Session(write_sim(0.002), num_activations=4) as session:
        rates = [session.run_benchmark(inf_time=0.5).inf_rate for _ in range(5)]
    assert 0.98 * 2000 <= max(rates) <= 1.01 * 2000
