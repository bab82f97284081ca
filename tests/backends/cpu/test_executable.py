"""Programs on CPU devices: outputs, failures, activations and closing."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from queue import SimpleQueue
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import helper

from qaic_sched.backends.cpu import executable as cpu_executable
from qaic_sched.backends.cpu.cores import usable_cores
from qaic_sched.backends.cpu.executable import CpuActivation, CpuInference
from qaic_sched.backends.cpu.onnx_model import open_model
from qaic_sched.errors import DeviceError, SchedulerClosedError
from tests.backends.cpu.cpu_device import backend, close, cpu_threads, infer, load
from tests.models import (
    gather_model,
    identity_model,
    linear,
    linear_inputs,
    linear_model,
    save_model,
    tensor,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("num_activations", [1, 2])
def test_outputs_are_those_of_the_model(model_file: Path, num_activations: int) -> None:
    """Each activation computes the model, in C-contiguous arrays of the right dtype."""
    model = backend(linear_model(model_file), onnx_define_symbol={"N": 4})
    executable = load(model, num_activations)
    assert (executable.device_id, executable.num_activations) == (0, num_activations)
    assert executable.program is asyncio.run(model.describe())
    for activation in range(num_activations):
        inputs = linear_inputs(4, seed=activation)
        result = infer(executable, inputs, activation)
        np.testing.assert_array_equal(result["y"], linear(**inputs))
        assert result["y"].flags.c_contiguous
        assert result["y"].dtype == np.float32
    close(executable)


def test_inferences_complete_in_order_with_the_time(model_file: Path) -> None:
    """An activation completes inferences in the order of `submit`, with monotonic times."""
    executable = load(backend(linear_model(model_file, batch=2)))
    results: SimpleQueue[Any] = SimpleQueue()
    started = time.monotonic()
    for number in range(20):
        executable.submit(0, linear_inputs(2, number), lambda *result: results.put(result))
    close(executable)
    outputs, times = zip(*(results.get(timeout=10) for _ in range(20)), strict=True)
    for number, output in enumerate(outputs):
        np.testing.assert_array_equal(output["y"], linear(**linear_inputs(2, number)))
    times = (started, *times, time.monotonic())
    assert list(times) == sorted(times)


def test_outputs_belong_to_the_receiver(model_file: Path) -> None:
    """Outputs share memory with no input and no other output."""
    executable = load(backend(identity_model(model_file, [2], [2])))
    inputs = {"x": np.ones(2, np.float32)}
    first, second = infer(executable, inputs), infer(executable, inputs)
    first["y"][:] = 7
    assert inputs["x"].tolist() == second["y"].tolist() == [1, 1]
    close(executable)


def test_an_output_that_is_an_input_has_memory_of_its_own(model_file: Path) -> None:
    """ONNX Runtime 1.19 to 1.31 returns the caller's own array."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    values = [tensor("x", [2]), tensor("y", [2])]
    executable = load(backend(save_model(model_file, nodes, values[:1], values)))
    for _ in range(2):
        inputs = {"x": np.ones(2, np.float32)}
        outputs = infer(executable, inputs)
        inputs["x"][:] = 7
        assert outputs["x"].tolist() == [1, 1]
    close(executable)


class Sharing:
    """A session of ONNX Runtime, of whose outputs two are views of the first input."""

    def get_outputs(self) -> list[Any]:
        """Describe the outputs."""
        return [SimpleNamespace(name=name) for name in ("a", "view", "new")]

    def run(self, _: list[str], inputs: dict[str, Any]) -> list[Any]:
        """Return the input itself, a view of it, and an array of its own."""
        self.new = inputs["a"] + 1
        return [inputs["a"], inputs["a"].reshape(-1)[1:], self.new]


def test_views_of_inputs_are_copied_and_nothing_else() -> None:
    """Whatever a runtime shares; an inference without elements tells nothing of the others."""
    session = Sharing()
    activation = CpuActivation(0, 0, [next(iter(usable_cores()))], lambda: session)
    answers: SimpleQueue[Any] = SimpleQueue()
    for rows in (0, 2, 3):
        inputs = {"b": np.ones(3), "a": np.ones((rows, 2), np.float32)}
        activation.take(CpuInference(inputs, lambda *answer: answers.put(answer)))
        outputs, _ = answers.get(timeout=10)
        inputs["a"][:] = 7
        np.testing.assert_array_equal(outputs["a"], np.ones((rows, 2)))
        np.testing.assert_array_equal(outputs["view"], np.ones(max(2 * rows - 1, 0)))
        assert outputs["new"] is session.new
    activation.queue.put(None)
    activation.join(10)


def test_a_failed_inference_is_a_device_error(
    model_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The error of a failed inference names the device, keeps the cause and prints nothing."""
    executable = load(backend(gather_model(model_file)))
    error = infer(executable, {"x": np.array([1, 9])})
    assert isinstance(error, DeviceError)
    assert (error.device_id, error.kind) == (0, "input")
    assert str(error).startswith("cpu device 0, activation 0: an inference failed: ")
    assert "out of data bounds" in str(error.__cause__)
    result = infer(executable, {"x": np.array([1, 3])})
    assert result["y"].tolist() == [1, 3]
    close(executable)
    assert capfd.readouterr().err == ""


def test_a_callback_that_raises_is_logged(
    model_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of `on_completed` is logged, and the activation goes on."""
    executable = load(backend(linear_model(model_file, batch=2)))

    def fail(*_: Any) -> None:
        raise RuntimeError("callback")

    executable.submit(0, linear_inputs(2), fail)
    assert isinstance(infer(executable, linear_inputs(2)), dict)
    [record] = caplog.records
    assert record.getMessage().startswith("qaic-cpu-0-0: the callback")
    close(executable)


@pytest.mark.parametrize("bad", [False, True])
def test_an_idle_activation_keeps_no_arrays(model_file: Path, bad: bool) -> None:
    """After completion, failed or not, an activation holds no inputs."""
    executable = load(backend(gather_model(model_file)))
    inputs = {"x": np.array([1, 9 if bad else 2])}
    alive = weakref.ref(inputs["x"])
    gc.disable()  # without help from the collector: no reference cycle may keep them
    try:
        result = infer(executable, inputs)
        assert isinstance(result, DeviceError) is bad
        del inputs
        close(executable)
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the OS pins no threads")
def test_activations_are_pinned_and_named(model_file: Path) -> None:
    """The thread of an activation is pinned to the cores of its device and named after it."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core cannot be shared out")
    executable = load(backend(linear_model(model_file, batch=2)), devices=2)
    seen: SimpleQueue[Any] = SimpleQueue()
    executable.submit(
        0,
        linear_inputs(2),
        lambda *_: seen.put((threading.current_thread().name, os.sched_getaffinity(0))),
    )
    name, cores = seen.get(timeout=10)
    assert name == "qaic-cpu-0-0"
    assert 0 < len(cores) < len(os.sched_getaffinity(0))
    close(executable)


def test_close_finishes_held_inferences_and_refuses_new_ones(model_file: Path) -> None:
    """Inferences submitted before `aclose` complete, later ones are refused; it may repeat."""
    executable = load(backend(linear_model(model_file, batch=2)), 2)
    results: SimpleQueue[Any] = SimpleQueue()
    for number in range(10):
        executable.submit(number % 2, linear_inputs(2), lambda result, _: results.put(result))
    close(executable)
    assert [set(results.get_nowait()) for _ in range(10)] == [{"y"}] * 10
    assert not cpu_threads()
    close(executable)
    with pytest.raises(SchedulerClosedError, match="cpu device 0 was closed"):
        executable.submit(0, linear_inputs(2), lambda *_: None)


class HangingSession:
    """A session that counts inferences, which end once `may_end` is set."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.num_run = 0

    def get_outputs(self) -> list[Any]:
        return []

    def run(self, names: list[str], inputs: Any) -> list[Any]:
        self.may_end.wait(10)
        self.num_run += 1
        return []


def test_close_fails_what_hangs(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a bounded wait every inference fails, once; a queued one never runs."""
    session = HangingSession()
    monkeypatch.setattr(cpu_executable, "CLOSE_LIMIT_S", 0.01)
    monkeypatch.setattr("qaic_sched.backends.cpu.backend.open_model", lambda *_: session)
    executable = load(backend(linear_model(model_file, batch=2), compile=False))
    results: list[Any] = []
    for _ in range(2):
        executable.submit(0, linear_inputs(2), lambda result, _: results.append(result))
    close(executable)
    assert [error.kind for error in results] == ["stuck", "stuck"]
    assert str(results[0]) == "cpu device 0 was closed with this inference in flight"
    [record] = caplog.records
    assert record.getMessage() == "cpu device 0 was still busy when it was closed"
    session.may_end.set()
    [activation] = cpu_threads()
    activation.join(10)
    assert (len(results), session.num_run) == (2, 1)


@pytest.mark.usefixtures("seven_cores")
def test_activations_come_and_go(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New activations get their share of the cores; unloading ends their threads."""
    asked: SimpleQueue[int] = SimpleQueue()

    def count_threads(path: str, num_threads: int, sizes: Any) -> Any:
        asked.put(num_threads)
        return open_model(path, num_threads, sizes)

    monkeypatch.setattr("qaic_sched.backends.cpu.backend.open_model", count_threads)
    executable = load(backend(linear_model(model_file, batch=2)))
    assert asyncio.run(executable.load_more(2, 2)) == [1, 2]
    assert [asked.get() for _ in range(3)] == [7, 2, 2]
    first, second = (infer(executable, linear_inputs(2), index) for index in (0, 2))
    assert all((first[name] == second[name]).all() for name in first)

    asyncio.run(executable.unload([0, 1]))
    assert (executable.num_activations, len(cpu_threads())) == (1, 1)
    assert not isinstance(infer(executable, linear_inputs(2), 2), DeviceError)
    close(executable)
    with pytest.raises(SchedulerClosedError):
        asyncio.run(executable.load_more(1, 2))
    assert cpu_threads() == []


def test_sessions_that_cannot_be_opened_leave_the_others(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed `load_more` says why and changes nothing."""
    executable = load(backend(linear_model(model_file, batch=2)))

    def fail(*_: object) -> None:
        raise MemoryError("none left")

    monkeypatch.setattr("qaic_sched.backends.cpu.backend.open_model", fail)
    with pytest.raises(DeviceError, match="loading failed: none left"):
        asyncio.run(executable.load_more(1, 2))

    assert (executable.num_activations, len(cpu_threads())) == (1, 1)
    assert not isinstance(infer(executable, linear_inputs(2)), DeviceError)
    close(executable)
