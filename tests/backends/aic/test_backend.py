"""The backend of cards: which devices are meant, what fits on them, and the model."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qaic_sched.errors import ConfigError, DeviceError, NoDeviceError
from tests.backends.aic.aic_cards import backend, until
from tests.standin import control
from tests.standin.qpc import write_qpc

if TYPE_CHECKING:
    from pathlib import Path

    from qaic_sched.backends.aic.executable import AicExecutable


def load(path: str, num_activations: int, **options: Any) -> None:
    """Load the program on device 0, and close it."""

    async def main() -> None:
        executable: AicExecutable = await backend(path, **options).load(0, num_activations, 1)
        await executable.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("devices", "ids"), [("all", [0, 2]), (2, [0, 2]), (1, [0]), ([1], [1]), ([2, 0], [2, 0])]
)
def test_all_means_ready(
    cards: Any, devices: Any, ids: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """`all` and counts skip devices that are not ready, with a warning; a list skips none."""
    control.reset(num_devices=3)
    cards[1].dev_status = 2
    assert asyncio.run(backend("-").select(devices)) == ids
    assert ("left out because they are not ready: 1 is error" in caplog.text) == (
        not isinstance(devices, list)
    )


def test_all_devices_are_ready(cards: Any, caplog: pytest.LogCaptureFixture) -> None:
    """If every device is ready, nothing is logged."""
    assert asyncio.run(backend("-").select("all")) == [0, 1]
    assert not caplog.records


@pytest.mark.parametrize(
    ("num_devices", "devices", "problem"),
    [
        (0, "all", "no aic device on this host is ready: there is none"),
        (0, [0], "no aic device on this host is ready: there is none"),
        (1, "all", "no aic device on this host is ready: 0 is error"),
    ],
)
def test_no_device_is_ready(cards: Any, num_devices: int, devices: Any, problem: str) -> None:
    """If no device is ready, the error names the state of each."""
    control.reset(num_devices)
    for device in cards.values():
        device.dev_status = 2
    with pytest.raises(NoDeviceError, match=problem):
        asyncio.run(backend("-").select(devices))


def test_a_device_that_is_not_there(cards: Any) -> None:
    """The error names an id that the host does not have."""
    with pytest.raises(ConfigError, match=r"devices: \[5\] not on this host"):
        asyncio.run(backend("-").select([0, 5]))


@pytest.mark.parametrize(
    ("cores_free", "num_activations", "options", "problem"),
    [
        (14, 4, {"aic_num_cores": 4}, r"4 of 4 cores.*has 14 of 16 cores free.*; 3 would fit"),
        (2, 3, {}, r"3 of 1 cores.*2 would fit"),
        (0, 1, {}, r"0 would fit"),
        (64, 17, {}, r"room for 16 activations at most; 16 would fit"),
    ],
)
def test_more_than_fits(
    qpc: str, cards: Any, cores_free: int, num_activations: int, options: Any, problem: str
) -> None:
    """More activations than free cores or channels are refused; the error says how many fit."""
    cards[0].cores_free = cores_free
    with pytest.raises(ConfigError, match=problem):
        load(qpc, num_activations, **options)


def test_what_just_fits(qpc: str, cards: Any) -> None:
    """Activations may use every free core."""
    cards[0].cores_free = 14
    load(qpc, 3, aic_num_cores=4)
    assert cards[0].dev_status == 1


@pytest.mark.parametrize(("dev_status", "kind"), [(0, "restarted"), (2, "lost")])
def test_a_device_that_is_not_ready(qpc: str, cards: Any, dev_status: int, kind: str) -> None:
    """A device that boots is `restarted`; one in error is `lost`."""
    cards[0].dev_status = dev_status
    with pytest.raises(DeviceError, match=r"aic device 0 is not ready, it is") as caught:
        load(qpc, 1)
    assert caught.value.kind == kind


def test_the_model_is_read_once(qpc: str) -> None:
    """A second `describe` returns the first description, even if the file is gone."""
    model = backend(qpc)
    first = asyncio.run(model.describe())
    Path(qpc).unlink()
    assert asyncio.run(model.describe()) is first


def test_a_model_that_is_not_compiled_is_compiled(
    tmp_path: Path, cards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ONNX model is compiled with the backend's options."""
    calls: list[Any] = []

    async def compile_model(path: str, compiler: Any, options: Any) -> str:
        calls.append((path, compiler.kind, options.aic_num_cores))
        return write_qpc(tmp_path / "compiled")

    monkeypatch.setattr("qaic_sched.backends.aic.backend.compile_model", compile_model)
    source = tmp_path / "model.onnx"
    source.write_bytes(b"")
    program = asyncio.run(backend(str(source), aic_num_cores=2).describe())
    assert calls == [(str(source), "aic", 2)]
    assert program.batch_sizes == (8,)


def test_cards_run_nothing_uncompiled(tmp_path: Path, cards: Any) -> None:
    """Cards refuse `compile: false`: an ONNX model cannot run on them uncompiled."""
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ConfigError, match="compile: false: cards run compiled models only"):
        asyncio.run(backend(str(tmp_path / "model.onnx"), compile=False).describe())


def test_libraries_that_do_not_load(cards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the SDK has a time limit too."""
    monkeypatch.setattr("qaic_sched.backends.aic.backend.CALL_LIMIT_S", 0.01)
    monkeypatch.setattr("qaic_sched.backends.aic.backend.import_sdk", lambda: time.sleep(0.1))
    with pytest.raises(DeviceError, match=r"loading the SDK has not ended within 0\.01 s"):
        asyncio.run(backend("-").find())


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_an_abandoned_load_releases_the_device(
    qpc: str, cards: Any, is_cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load that is cancelled or too slow leaves nothing on the device once it ends."""
    monkeypatch.setattr("qaic_sched.backends.aic.backend.LOAD_LIMIT_S", 0.02)
    cards[0].loads_may_go_on.clear()

    async def main() -> None:
        loading = asyncio.ensure_future(backend(qpc).load(0, 1, 2))
        if is_cancelled:
            await asyncio.sleep(0.01)
            loading.cancel()
        await loading

    if is_cancelled:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(main())
    else:
        with pytest.raises(DeviceError, match=r"loading on device 0 has not ended") as caught:
            asyncio.run(main())
        assert caught.value.kind == "stuck"
    cards[0].loads_may_go_on.set()
    until(lambda: cards[0].cores_free == 16)
