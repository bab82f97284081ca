"""Tests of the CPU backend, on the real ONNX Runtime and the real Magika model."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
import weakref
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest

from qaic_sched.backends.base import CoreDemand
from qaic_sched.backends.choose import find_model
from qaic_sched.backends.cpu import CpuBackend, cores
from qaic_sched.backends.cpu import executable as cpu_executable
from qaic_sched.backends.cpu.executable import Activation, CpuExecutable
from qaic_sched.backends.cpu.onnx_model import open_model
from qaic_sched.config.keys import ModelOptions
from qaic_sched.errors import ConfigError, DeviceError, SchedulerClosedError
from tests.models import gather_model, identity_model, linear, linear_inputs, linear_model

if TYPE_CHECKING:
    from pathlib import Path


def backend(path: str, **options: Any) -> CpuBackend:
    """A backend for the model with these options."""
    return CpuBackend(path, ModelOptions(**options))


def load(model: CpuBackend, num_activations: int = 1, devices: Any = "all") -> CpuExecutable:
    """The model, loaded on the first of the devices."""

    async def main() -> CpuExecutable:
        [first, *_] = await model.select(devices)
        return await model.load(first, num_activations, 2)

    return asyncio.run(main())


def close(executable: CpuExecutable) -> None:
    """Close from a loop of its own, as the blocking Session may."""
    asyncio.run(executable.aclose())


def infer(executable: CpuExecutable, inputs: Any, activation: int = 0) -> Any:
    """The answer to one inference: outputs, or a `DeviceError`."""
    answers: SimpleQueue[Any] = SimpleQueue()
    executable.submit(activation, inputs, lambda answer, completed_at: answers.put(answer))
    return answers.get(timeout=10)


def cpu_threads() -> list[threading.Thread]:
    """The threads of activations that are alive."""
    return [thread for thread in threading.enumerate() if isinstance(thread, Activation)]


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """Where a test's model goes."""
    return tmp_path / "model.onnx"


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Any:
    """No test, also of a load that failed or was cancelled, leaves an activation behind."""
    yield
    for thread in cpu_threads():
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def seven_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where this process may use cores 0 to 6."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)), raising=False)


# Options and the description


def test_the_model_is_read_once(model_file: Path) -> None:
    """A second description is the first one, even when the file is gone."""
    model = backend(linear_model(model_file), onnx_define_symbol={"N": 4})
    first = asyncio.run(model.describe())
    model_file.unlink()
    assert asyncio.run(model.describe()) is first


def test_unused_options_are_named_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """What only a card's compiler would use is named once, together."""
    with caplog.at_level(logging.INFO, logger="qaic_sched"):
        backend("m.onnx")
        backend("m.onnx", aic_num_cores=4, convert_to_fp16=True, compiler={"mos": 1, "ols": 2})
    [record] = caplog.records
    assert record.getMessage().endswith(": aic_num_cores, convert_to_fp16, mos, ols")


# Devices


def test_the_machine_is_one_device() -> None:
    """`find` tells of one device with every core that this process may use."""
    [device] = asyncio.run(backend("m.onnx").find())
    assert (device.device_id, device.kind, device.state) == (0, "cpu", "ready")
    assert device.cores == device.cores_free == len(cores.usable_cores())
    assert device.memory_bytes is not None
    assert device.memory_bytes > 2**20


# Loading and running


@pytest.mark.parametrize("num_activations", [1, 2])
def test_outputs_are_the_models(model_file: Path, num_activations: int) -> None:
    """Each activation computes what the model says, in C-contiguous arrays of the right shape."""
    model = backend(linear_model(model_file), onnx_define_symbol={"N": 4})
    executable = load(model, num_activations)
    assert (executable.device_id, executable.num_activations) == (0, num_activations)
    assert executable.program is asyncio.run(model.describe())
    for activation in range(num_activations):
        inputs = linear_inputs(4, seed=activation)
        answer = infer(executable, inputs, activation)
        np.testing.assert_array_equal(answer["y"], linear(**inputs))
        assert answer["y"].flags.c_contiguous
        assert answer["y"].dtype == np.float32
    close(executable)


def test_the_real_model_answers_as_a_plain_session_does() -> None:
    """Magika, loaded, gives what ONNX Runtime gives without us."""
    path = find_model("pkg://magika/models/standard_v3_3/model.onnx")
    executable = load(backend(path, onnx_define_symbol={"unk__214": 8}))
    inputs = {"bytes": np.random.default_rng(1).integers(0, 257, (8, 2048)).astype(np.int32)}
    answer = infer(executable, inputs)
    plain = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(answer["target_label"], plain.run(None, inputs)[0], atol=1e-6)
    close(executable)


def test_answers_come_in_order_with_the_time(model_file: Path) -> None:
    """One activation answers in the order of submits, with the monotonic time of each."""
    executable = load(backend(linear_model(model_file, batch=2)))
    answers: SimpleQueue[Any] = SimpleQueue()
    started = time.monotonic()
    for number in range(20):
        executable.submit(0, linear_inputs(2, number), lambda *answer: answers.put(answer))
    close(executable)
    outputs, times = zip(*(answers.get(timeout=10) for _ in range(20)), strict=True)
    for number, output in enumerate(outputs):
        np.testing.assert_array_equal(output["y"], linear(**linear_inputs(2, number)))
    times = (started, *times, time.monotonic())
    assert list(times) == sorted(times)


def test_outputs_are_the_receivers_own(model_file: Path) -> None:
    """Outputs share memory with no input and no other output."""
    executable = load(backend(identity_model(model_file, [2], [2])))
    inputs = {"x": np.ones(2, np.float32)}
    first, second = infer(executable, inputs), infer(executable, inputs)
    first["y"][:] = 7
    assert inputs["x"].tolist() == second["y"].tolist() == [1, 1]
    close(executable)


def test_a_failed_inference_is_a_device_error(
    model_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An inference that ONNX Runtime refuses names the device, keeps the cause, prints nothing."""
    executable = load(backend(gather_model(model_file)))
    error = infer(executable, {"x": np.array([1, 9])})
    assert isinstance(error, DeviceError)
    assert error.device_id == 0
    assert str(error).startswith("cpu device 0, activation 0: an inference failed: ")
    assert "out of data bounds" in str(error.__cause__)
    answer = infer(executable, {"x": np.array([1, 3])})
    assert answer["y"].tolist() == [1, 3]
    close(executable)
    assert capfd.readouterr().err == ""


def test_a_failing_receiver_stops_nothing(
    model_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A `done` that raises is logged, and the activation goes on."""
    executable = load(backend(linear_model(model_file, batch=2)))

    def fail(*_: Any) -> None:
        raise RuntimeError("receiver")

    executable.submit(0, linear_inputs(2), fail)
    assert isinstance(infer(executable, linear_inputs(2)), dict)
    [record] = caplog.records
    assert record.getMessage().startswith("qaic-cpu-0-0: the receiver")
    close(executable)


@pytest.mark.parametrize("bad", [False, True])
def test_an_idle_activation_keeps_no_arrays(model_file: Path, bad: bool) -> None:
    """Once answered, neither inputs nor receiver of an inference are held, failed or not."""
    executable = load(backend(gather_model(model_file)))
    inputs = {"x": np.array([1, 9 if bad else 2])}
    alive = weakref.ref(inputs["x"])
    gc.disable()  # no help from the collector: nothing may hang in a cycle
    try:
        answer = infer(executable, inputs)
        assert isinstance(answer, DeviceError) is bad
        del inputs
        close(executable)
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the OS pins no threads")
def test_activations_are_pinned_and_named(model_file: Path) -> None:
    """An activation's thread runs on its device's cores only, under the device's name."""
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


@pytest.mark.parametrize(("num_activations", "num_threads"), [(1, 7), (2, 3), (7, 1), (9, 1)])
@pytest.mark.usefixtures("seven_cores")
def test_activations_divide_the_threads(
    model_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    num_activations: int,
    num_threads: int,
) -> None:
    """An activation has its part of the device's cores as threads; too many warn in one line."""
    asked: SimpleQueue[int] = SimpleQueue()

    def count_threads(path: str, num_threads: int, sizes: Any) -> Any:
        asked.put(num_threads)
        return open_model(path, num_threads, sizes)

    monkeypatch.setattr("qaic_sched.backends.cpu.backend.open_model", count_threads)
    executable = load(backend(linear_model(model_file, batch=2)), num_activations)
    close(executable)
    assert [asked.get() for _ in range(num_activations)] == [num_threads] * num_activations
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == ["cpu device 0: 9 activations, 7 core(s)"] * (num_activations > 7)


@pytest.mark.usefixtures("seven_cores")
def test_activations_of_other_models_have_their_threads_too(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All activations of a device divide its threads; whose models they are makes no difference."""
    asked: SimpleQueue[int] = SimpleQueue()

    def count_threads(path: str, num_threads: int, sizes: Any) -> Any:
        asked.put(num_threads)
        return open_model(path, num_threads, sizes)

    monkeypatch.setattr("qaic_sched.backends.cpu.backend.open_model", count_threads)
    model = backend(linear_model(model_file, batch=2))
    model.expect_other("bert", CoreDemand(2))
    close(load(model))
    model.expect_other("yolo", CoreDemand(1))
    model.expect_other("bert", CoreDemand(7))
    close(load(model))
    assert [asked.get(), asked.get()] == [2, 1]
    assert caplog.messages == []


def test_a_device_must_be_selected_first(model_file: Path) -> None:
    """Loading on a device that `select` did not give is refused."""
    with pytest.raises(ConfigError, match="cpu device 0 was not selected"):
        asyncio.run(backend(linear_model(model_file, batch=2)).load(0, 1, 2))


@pytest.mark.parametrize("num_failing", [1, 3])
def test_a_failed_load_stops_the_other_activations(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, num_failing: int
) -> None:
    """If some activations cannot be loaded the load is a `DeviceError`, and no thread stays."""
    failures = iter([RuntimeError("no memory")] * num_failing)

    def fail_at_first(*arguments: Any) -> Any:
        if failure := next(failures, None):
            raise failure
        return open_model(*arguments)

    monkeypatch.setattr("qaic_sched.backends.cpu.backend.open_model", fail_at_first)
    with pytest.raises(DeviceError, match="loading failed: no memory") as raised:
        load(backend(linear_model(model_file, batch=2)), 3)
    assert raised.value.device_id == 0
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_a_hanging_load_can_be_cancelled(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled load returns while a session is still being made; its thread ends later."""
    is_loading, go_on = threading.Event(), threading.Event()

    def hang(*arguments: Any) -> Any:
        is_loading.set()
        go_on.wait(10)
        return open_model(*arguments)

    async def main() -> None:
        model = backend(linear_model(model_file, batch=2))
        await model.select("all")
        task = asyncio.create_task(model.load(0, 1, 2))
        await asyncio.to_thread(is_loading.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not go_on.is_set()
        assert len(cpu_threads()) == 1
        go_on.set()

    monkeypatch.setattr("qaic_sched.backends.cpu.backend.open_model", hang)
    asyncio.run(main())


# Closing


def test_close_finishes_what_is_held_and_takes_no_more(model_file: Path) -> None:
    """Inferences submitted before the close are answered, later ones refused; closing repeats."""
    executable = load(backend(linear_model(model_file, batch=2)), 2)
    answers: SimpleQueue[Any] = SimpleQueue()
    for number in range(10):
        executable.submit(number % 2, linear_inputs(2), lambda answer, _: answers.put(answer))
    close(executable)
    assert [set(answers.get_nowait()) for _ in range(10)] == [{"y"}] * 10
    assert not cpu_threads()
    close(executable)
    with pytest.raises(SchedulerClosedError, match="cpu device 0 was closed"):
        executable.submit(0, linear_inputs(2), lambda *_: None)


class HangingSession:
    """A session whose inferences end when they may; it counts them."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.num_run = 0

    def get_outputs(self) -> list[Any]:
        return []

    def run(self, names: list[str], inputs: Any) -> list[Any]:
        self.may_end.wait(10)
        self.num_run += 1
        return []


def test_close_answers_what_hangs(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a bounded wait all is answered with an error, once; what was queued is not run."""
    session = HangingSession()
    monkeypatch.setattr(cpu_executable, "CLOSE_LIMIT_S", 0.01)
    monkeypatch.setattr("qaic_sched.backends.cpu.backend.open_model", lambda *_: session)
    executable = load(backend(linear_model(model_file, batch=2), compile=False))
    answers: list[Any] = []
    for _ in range(2):
        executable.submit(0, linear_inputs(2), lambda answer, _: answers.append(answer))
    close(executable)
    assert [error.kind for error in answers] == ["stuck", "stuck"]
    assert str(answers[0]) == "cpu device 0 was closed with this inference in flight"
    [record] = caplog.records
    assert record.getMessage() == "cpu device 0 was still busy when it was closed"
    session.may_end.set()
    [activation] = cpu_threads()
    activation.join(10)
    assert (len(answers), session.num_run) == (2, 1)


@pytest.mark.usefixtures("seven_cores")
def test_activations_come_and_go(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New sessions have their part of the cores; those that are given back end their threads."""
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
    """The error says why, and nothing has changed."""
    executable = load(backend(linear_model(model_file, batch=2)))

    def fail(*_: object) -> None:
        raise MemoryError("none left")

    monkeypatch.setattr("qaic_sched.backends.cpu.backend.open_model", fail)
    with pytest.raises(DeviceError, match="loading failed: none left"):
        asyncio.run(executable.load_more(1, 2))

    assert (executable.num_activations, len(cpu_threads())) == (1, 1)
    assert not isinstance(infer(executable, linear_inputs(2)), DeviceError)
    close(executable)
