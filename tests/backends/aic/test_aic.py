"""Tests of the card backend: devices, descriptions and what can be loaded where."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from qaic_sched.backends.aic import devices as aic_devices
from qaic_sched.backends.base import DeviceInfo
from qaic_sched.errors import ConfigError, DeviceError, NoDeviceError
from tests.backends.aic.aic_cards import backend
from tests.standin import control
from tests.standin.qpc import write_qpc

if TYPE_CHECKING:
    from qaic_sched.backends.aic.executable import AicExecutable


def find() -> list[DeviceInfo]:
    """The stand-in's devices as the backend sees them."""
    return asyncio.run(backend("-").find())


def load(path: str, num_activations: int, **options: Any) -> None:
    """Load on device 0 and close again."""

    async def main() -> None:
        executable: AicExecutable = await backend(path, **options).load(0, num_activations, 1)
        await executable.aclose()

    asyncio.run(main())


# Devices


def test_a_device_tells_what_it_is(
    cards: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cores, memory, serial and SKU come from the runtime, what is measured from the kernel."""
    folder = tmp_path / "0000:21:00.0" / "hwmon" / "hwmon3"
    folder.mkdir(parents=True)
    (folder / "temp2_input").write_text("41500\n")
    (folder / "power1_input").write_text("22250000\n")
    monkeypatch.setattr(aic_devices, "PCI_DEVICES", tmp_path)
    cards[0].cores_free = 9
    assert find() == [
        DeviceInfo(
            0, "aic", "ready", 16, 9, 16384 << 20, 16000 << 20, 41.5, 22.25, "S0", "STANDIN_SKU"
        ),
        DeviceInfo(
            1, "aic", "ready", 16, 16, 16384 << 20, 16000 << 20, None, None, "S1", "STANDIN_SKU"
        ),
    ]


@pytest.mark.parametrize(("dev_status", "state"), [(0, "initializing"), (1, "ready"), (2, "error")])
def test_states_are_the_vendors(cards: Any, dev_status: int, state: str) -> None:
    """A device that answers says itself how it is."""
    cards[1].dev_status = dev_status
    assert [each.state for each in find()] == ["ready", state]


@pytest.mark.parametrize(
    ("answer", "state"),
    [("QS_AGAIN", "initializing"), ("QS_NODEV", "error"), (RuntimeError("broken"), "error")],
)
def test_a_device_that_cannot_be_asked(cards: Any, answer: Any, state: str) -> None:
    """One that reloads or is in trouble is listed all the same, with nothing free."""
    cards[0].answer_next("getDeviceInfo", answer)
    assert find()[0] == DeviceInfo(0, "aic", state, 0, 0)


def test_an_unexpected_answer_is_said(cards: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What is wrong with a query is not hidden behind a state."""
    cards[0].answer_next("getDeviceInfo", RuntimeError("broken"))
    find()
    assert "aic device 0 cannot be asked: RuntimeError('broken')" in caplog.text


def test_resources_come_with_the_device_if_need_be(cards: Any) -> None:
    """Where the question for resources fails, what the device told of them counts."""
    cards[0].answer_next("getResourceInfo", "QS_UNSUPPORTED")
    assert find()[0].cores == 16


def test_what_the_binding_does_not_tell_is_none(
    cards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serial, address and SKU are optional: another SDK may not show them."""
    from tests.standin import qaicrt

    resources = qaicrt._resources(cards[0])
    del resources.skuType
    info = SimpleNamespace(devStatus=1, devData=SimpleNamespace())

    class Util(qaicrt.Util):
        def getDeviceInfo(self, devID: int) -> Any:
            return qaicrt.OK, info

        def getResourceInfo(self, devID: int) -> Any:
            return qaicrt.OK, resources

    sdk: Any = SimpleNamespace(runtime=SimpleNamespace(Util=Util, QStatus=qaicrt.QStatus))
    device = asyncio.run(aic_devices.query_card(sdk, 0))
    assert (device.serial, device.sku, device.temperature_c) == (None, None, None)


def test_a_device_that_does_not_answer(cards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that hangs costs its limit, and the others nothing."""
    monkeypatch.setattr(aic_devices, "QUERY_LIMIT_S", 0.05)
    cards[0].queries_may_go_on.clear()
    assert [(each.device_id, each.state) for each in find()] == [(0, "unknown"), (1, "ready")]


def test_a_driver_that_does_not_answer(cards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even the list comes, there are no devices, and what to do is said."""
    monkeypatch.setattr(aic_devices, "QUERY_LIMIT_S", 0.02)
    control.listing_may_go_on.clear()
    with pytest.raises(NoDeviceError, match=r"not listed its devices within 0\.02 s.*qaic-util -s"):
        find()


def test_a_driver_that_refuses(cards: Any) -> None:
    """The status of the listing is named."""
    control.list_status.append("QS_PERM")
    with pytest.raises(NoDeviceError, match=r"does not list its devices \(QS_PERM\)"):
        find()


@pytest.mark.parametrize(
    ("visible", "ids"), [("1", [1]), (" 1 , 0 ", [0, 1]), ("", [0, 1]), ("0,7", [0])]
)
def test_visible_devices(
    cards: Any,
    visible: str,
    ids: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """QAIC_VISIBLE_DEVICES hides the others; ids that are not there are warned about."""
    monkeypatch.setenv("QAIC_VISIBLE_DEVICES", visible)
    assert [each.device_id for each in find()] == ids
    assert ("not there: [7]" in caplog.text) == ("7" in visible)


@pytest.mark.parametrize("visible", ["all", "1,", "-1", "1;2"])
def test_visible_devices_that_are_no_list(
    cards: Any, visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text that is no list of ids is the operator's fault."""
    monkeypatch.setenv("QAIC_VISIBLE_DEVICES", visible)
    with pytest.raises(ConfigError, match=r"QAIC_VISIBLE_DEVICES: device ids with commas"):
        find()


# Which devices are meant


@pytest.mark.parametrize(
    ("devices", "ids"), [("all", [0, 2]), (2, [0, 2]), (1, [0]), ([1], [1]), ([2, 0], [2, 0])]
)
def test_all_means_ready(
    cards: Any, devices: Any, ids: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """`all` and counts leave out, with a warning, what is not ready; a list leaves out nothing."""
    control.reset(num_devices=3)
    cards[1].dev_status = 2
    assert asyncio.run(backend("-").select(devices)) == ids
    assert ("left out: 1 is error" in caplog.text) == (not isinstance(devices, list))


def test_all_devices_are_ready(cards: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing is left out, nothing is said."""
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
    """Where nothing can run, the states are named."""
    control.reset(num_devices)
    for device in cards.values():
        device.dev_status = 2
    with pytest.raises(NoDeviceError, match=problem):
        asyncio.run(backend("-").select(devices))


def test_a_device_that_is_not_there(cards: Any) -> None:
    """An id beyond those of the host is named."""
    with pytest.raises(ConfigError, match=r"devices: \[5\] not on this host"):
        asyncio.run(backend("-").select([0, 5]))


# What fits


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
    """Activations beyond the free cores, or the channels, are refused with how many would fit."""
    cards[0].cores_free = cores_free
    with pytest.raises(ConfigError, match=problem):
        load(qpc, num_activations, **options)


def test_what_just_fits(qpc: str, cards: Any) -> None:
    """All free cores may be used."""
    cards[0].cores_free = 14
    load(qpc, 3, aic_num_cores=4)
    assert cards[0].dev_status == 1


@pytest.mark.parametrize(("dev_status", "kind"), [(0, "restarted"), (2, "lost")])
def test_a_device_that_is_not_ready(qpc: str, cards: Any, dev_status: int, kind: str) -> None:
    """A device that boots is told from one that is gone."""
    cards[0].dev_status = dev_status
    with pytest.raises(DeviceError, match=r"aic device 0 is not ready but") as caught:
        load(qpc, 1)
    assert caught.value.kind == kind


# The model


def test_the_model_is_read_once(qpc: str) -> None:
    """A second description is the first one, even when the file is gone."""
    model = backend(qpc)
    first = asyncio.run(model.describe())
    Path(qpc).unlink()
    assert asyncio.run(model.describe()) is first


def test_a_model_that_is_not_compiled_is_compiled(
    tmp_path: Path, cards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ONNX model goes through the compiler, with the backend's options."""
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
    """`compile: false` is for the CPU: an ONNX model cannot run on a card as it is."""
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ConfigError, match="compile: false: cards run compiled models only"):
        asyncio.run(backend(str(tmp_path / "model.onnx"), compile=False).describe())


def test_libraries_that_do_not_load(cards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that hangs before any device is asked is bounded too."""
    monkeypatch.setattr("qaic_sched.backends.aic.backend.CALL_LIMIT_S", 0.01)
    monkeypatch.setattr("qaic_sched.backends.aic.backend.import_sdk", lambda: time.sleep(0.1))
    with pytest.raises(DeviceError, match=r"loading the SDK has not ended within 0\.01 s"):
        asyncio.run(backend("-").find())


def test_queries_keep_no_log(cards: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Looking for devices that are well says nothing."""
    with caplog.at_level(logging.INFO, logger="qaic_sched"):
        find()
    assert not caplog.records
