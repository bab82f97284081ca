"""Session: inferences on a scripted device, a simulated card and the CPU."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qaic_sched.errors import DeviceError
from qaic_sched.session import Session
from tests.models import linear, linear_inputs, linear_model, unbatched_model
from tests.session.scripted_device import (
    PATIENCE_S,
    ScriptedBackend,
    rows,
    session_threads,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_model_runs_on_the_cpu(tmp_path: Path) -> None:
    """Outputs of an ONNX model are shaped, contiguous and belong to the caller."""
    inputs = linear_inputs(4)
    with Session(linear_model(tmp_path / "m.onnx"), onnx_define_symbol={"N": 4}) as session:
        first, second = session.run(inputs)["y"], session.run(inputs)["y"]
    np.testing.assert_array_equal(first, linear(**inputs))
    np.testing.assert_array_equal(second, first)
    assert first.flags.c_contiguous
    assert not np.shares_memory(first, second)
    assert np.frombuffer(first, first.dtype).tolist() == first.ravel().tolist()


def test_a_model_without_a_batch_axis_runs(tmp_path: Path) -> None:
    """A model without a batch axis runs; a benchmark counts one sample per inference."""
    x, w = np.ones((2, 3), np.float32), np.arange(3, dtype=np.float32)
    with Session(unbatched_model(tmp_path / "m.onnx")) as session:
        assert session.run({"x": x, "w": w})["y"].tolist() == [[0, 1, 2], [0, 1, 2]]
        assert session.run_benchmark(num_inferences=3).batch_size == 1


def test_shapes_are_known_before_setup(tmp_path: Path) -> None:
    """The shape dictionaries work as properties and as methods, and load nothing."""
    session = Session(linear_model(tmp_path / "m.onnx"), onnx_define_symbol={"N": 4})
    shape, dtype = session.model_input_shape_dict["a"]
    assert (shape, str(dtype)) == ((4, 3), "float32")
    assert np.zeros(shape, dtype).shape == (4, 3)
    assert session.model_output_shape_dict() == {"y": ((4, 4), np.dtype("f4"))}
    assert not session_threads()


def test_the_model_is_described_once(on_device: Any) -> None:
    """A model, which may take long to compile, is described once; a load suffices."""
    session, backend = on_device()
    assert list(session.model_input_shape_dict) == ["x"]
    assert list(session.model_output_shape_dict) == ["y"]
    assert backend.num_described == 1
    loaded_first, backend = on_device()
    with loaded_first:
        loaded_first.setup()
        assert list(loaded_first.model_input_shape_dict) == ["x"]
        assert backend.num_described == 0


def test_many_threads_share_one_session(on_device: Any) -> None:
    """64 threads on 4 slots get their results, and no activation exceeds its `set_size`."""
    session, backend = on_device(ScriptedBackend(completes_at_once=False), num_activations=2)
    with ThreadPoolExecutor(64) as threads:
        runs = [threads.submit(session.run, rows(value)) for value in range(64)]
        until(lambda: backend.executables)
        device = backend.executables[0]
        held = [device.next() for _ in range(4)]
        assert sorted(each.activation for each in held) == [0, 0, 1, 1]
        assert device.submitted.empty()
        for completed in range(64):
            held.pop(0).complete()
            if completed < 60:
                held.append(device.next())
        for value, run in enumerate(runs):
            assert run.result(PATIENCE_S)["y"].tolist() == [value]
    assert session.get_metrics()["num_of_inferences"] == 64
    session.reset()


def test_a_pooled_device_holds_all_slots_on_one_activation(on_device: Any) -> None:
    """If the device distributes inferences itself, all slots are one pool."""
    backend = ScriptedBackend(completes_at_once=False, selects_activation=False)
    session, _ = on_device(backend, num_activations=2, set_size=2)
    with ThreadPoolExecutor(5) as threads:
        runs = [threads.submit(session.run, rows(1)) for _ in range(5)]
        until(lambda: backend.executables)
        held = [backend.executables[0].next() for _ in range(4)]
        assert {each.activation for each in held} == {0}
        assert backend.executables[0].submitted.empty()
        for each in held:
            each.complete()
        backend.executables[0].next().complete()
        for run in runs:
            run.result(PATIENCE_S)
    session.reset()


def test_callers_get_device_errors_with_separate_tracebacks(on_device: Any) -> None:
    """Two callers get copies of one error of the device, which stays usable."""
    session, backend = on_device()
    backend.error = DeviceError("device 0 is lost", 0)
    backend.error.kind = "lost"
    caught = []
    for _ in range(2):
        with pytest.raises(DeviceError, match="device 0 is lost") as info:
            session.run(rows(1))
        caught.append(info.value)
    assert caught[0] is not caught[1]
    assert caught[0].__cause__ is caught[1].__cause__ is backend.error
    assert (caught[0].device_id, caught[0].kind) == (0, "lost")
    backend.error = None
    assert session.run(rows(1))["y"].tolist() == [1]
    assert session.get_metrics()["num_of_inferences"] == 1
    session.reset()


def test_a_refused_submit_gives_its_slot_back(on_device: Any) -> None:
    """An exception of `submit` reaches the caller, and no slot is lost."""
    session, backend = on_device(set_size=1)
    backend.refusal = RuntimeError("not now")
    for _ in range(3):
        with pytest.raises(RuntimeError, match="not now"):
            session.run(rows(1))
    backend.refusal = None
    assert session.run(rows(1))["y"].tolist() == [1]
    session.reset()


def test_run_works_inside_a_running_event_loop(write_sim: Callable[[float], str]) -> None:
    """A run inside a coroutine blocks its loop, as the vendor's does, and returns."""

    async def handler() -> list[Any]:
        with Session(write_sim(0)) as session:
            result: list[Any] = session.run({"data": np.full((1, 2), 7.0)})["mean"].tolist()
            return result

    assert asyncio.run(handler()) == [[7, 7, 7]]


def test_metrics_count_runs_with_their_wait_for_a_slot(on_device: Any) -> None:
    """Latencies include the wait for a slot; the keys are the vendor's."""
    session, backend = on_device(ScriptedBackend(completes_at_once=False), set_size=1)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(session.run, rows(1))
        until(lambda: backend.num_submitted)
        second = threads.submit(session.run, rows(2))
        until(lambda: session._loaded.slots._waiting)
        inference = backend.executables[0].next()
        threading.Event().wait(0.02)
        inference.complete()
        first.result(PATIENCE_S)
        backend.executables[0].next().complete()
        second.result(PATIENCE_S)
    metrics = session.get_metrics()
    assert metrics["num_of_inferences"] == 2
    assert metrics["min_latency"] >= 0.02
    assert metrics["total_inference_time"] == pytest.approx(2 * metrics["avg_latency"])
    assert {"P25", "P50", "P75", "P90", "P99", "P999", "max_latency"} < set(metrics)
    session.reset()


def test_metrics_are_printed_in_the_vendors_words(
    on_device: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """`print_metrics` works without `enable_metrics`, and after `reset`."""
    session, _ = on_device()
    for _ in range(3):
        session.run(rows(1))
    session.reset()
    session.print_metrics()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Number of inferences utilized for calculation are 3"
    assert any(line.startswith("P999 / 99.9% of inferences observed latency") for line in lines)


def test_a_simulated_card_serves_a_session(write_sim: Callable[[float], str]) -> None:
    """The timers of a simulated card run on the session's thread, with correct results."""
    with (
        Session(write_sim(0.001), dev_id=1, num_activations=2) as session,
        ThreadPoolExecutor(8) as threads,
    ):
        runs = [threads.submit(session.run, {"data": np.full((2, 2), i)}) for i in range(20)]
        for i, run in enumerate(runs):
            assert run.result(PATIENCE_S)["mean"].tolist() == [[i] * 3] * 2
