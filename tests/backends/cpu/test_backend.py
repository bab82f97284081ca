"""The CPU backend, on the real ONNX Runtime and the real Magika model."""

from __future__ import annotations

import asyncio
import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest

from qaic_sched.backends.base import CoreDemand
from qaic_sched.backends.choose import find_model
from qaic_sched.backends.cpu import cores
from qaic_sched.backends.cpu.onnx_model import open_model
from qaic_sched.errors import ConfigError, DeviceError
from tests.backends.cpu.cpu_device import backend, close, cpu_threads, infer, load
from tests.models import linear_model

if TYPE_CHECKING:
    from pathlib import Path


def test_the_model_is_read_once(model_file: Path) -> None:
    """A second `describe` returns the first description, even if the file is gone."""
    model = backend(linear_model(model_file), onnx_define_symbol={"N": 4})
    first = asyncio.run(model.describe())
    model_file.unlink()
    assert asyncio.run(model.describe()) is first


def test_unused_options_are_named_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Options that only the compiler for cards uses are named once, in one line."""
    with caplog.at_level(logging.INFO, logger="qaic_sched"):
        backend("m.onnx")
        backend("m.onnx", aic_num_cores=4, convert_to_fp16=True, compiler={"mos": 1, "ols": 2})
    [record] = caplog.records
    assert record.getMessage().endswith(": aic_num_cores, convert_to_fp16, mos, ols")


def test_the_host_is_one_device() -> None:
    """`find` returns one device with every core that this process may use."""
    [device] = asyncio.run(backend("m.onnx").find())
    assert (device.device_id, device.kind, device.state) == (0, "cpu", "ready")
    assert device.cores == device.cores_free == len(cores.usable_cores())
    assert device.memory_bytes is not None
    assert device.memory_bytes > 2**20


def test_the_real_model_computes_what_a_plain_session_does() -> None:
    """Magika gives the outputs that ONNX Runtime gives by itself."""
    path = find_model("pkg://magika/models/standard_v3_3/model.onnx")
    executable = load(backend(path, onnx_define_symbol={"unk__214": 8}))
    inputs = {"bytes": np.random.default_rng(1).integers(0, 257, (8, 2048)).astype(np.int32)}
    outputs = infer(executable, inputs)
    plain = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(outputs["target_label"], plain.run(None, inputs)[0], atol=1e-6)
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
    """An activation gets its share of the cores as threads; too many activations warn once."""
    asked: SimpleQueue[int] = SimpleQueue()

    def count_threads(path: str, num_threads: int, sizes: Any) -> Any:
        asked.put(num_threads)
        return open_model(path, num_threads, sizes)

    monkeypatch.setattr("qaic_sched.backends.cpu.backend.open_model", count_threads)
    executable = load(backend(linear_model(model_file, batch=2)), num_activations)
    close(executable)
    assert [asked.get() for _ in range(num_activations)] == [num_threads] * num_activations
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == ["cpu device 0: 9 activations share 7 core(s): use fewer activations"] * (
        num_activations > 7
    )


@pytest.mark.usefixtures("seven_cores")
def test_activations_of_other_models_get_threads_too(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The activations of all models on a device divide its cores."""
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
    """Loading on a device that was not selected is refused."""
    with pytest.raises(ConfigError, match="cpu device 0 was not selected"):
        asyncio.run(backend(linear_model(model_file, batch=2)).load(0, 1, 2))


@pytest.mark.parametrize("num_failing", [1, 3])
def test_a_failed_load_stops_the_other_activations(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, num_failing: int
) -> None:
    """If an activation cannot be loaded, the load raises `DeviceError` and leaves no thread."""
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
    """A cancelled load returns while a session still opens; its thread ends later."""
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
