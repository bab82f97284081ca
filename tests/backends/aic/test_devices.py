"""Finding devices and their state, on the stand-in's devices."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from qaic_sched.backends.aic import devices as aic_devices
from qaic_sched.backends.base import DeviceInfo
from qaic_sched.errors import ConfigError, NoDeviceError
from tests.backends.aic.aic_cards import backend
from tests.standin import control

if TYPE_CHECKING:
    pass


def find() -> list[DeviceInfo]:
    """The stand-in's devices, as the backend finds them."""
    return asyncio.run(backend("-").find())


def test_a_device_is_described(cards: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sensors come from the kernel, everything else about a device from the runtime."""
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
    """The state of a device that answers is the one that it reports."""
    cards[1].dev_status = dev_status
    assert [each.state for each in find()] == ["ready", state]


@pytest.mark.parametrize(
    ("answer", "state"),
    [("QS_AGAIN", "initializing"), ("QS_NODEV", "error"), (RuntimeError("broken"), "error")],
)
def test_a_device_that_cannot_be_queried(cards: Any, answer: Any, state: str) -> None:
    """A device that reloads or is in trouble is still listed, with nothing free."""
    cards[0].answer_next("getDeviceInfo", answer)
    assert find()[0] == DeviceInfo(0, "aic", state, 0, 0)


def test_an_unexpected_error_is_logged(cards: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error of a query is logged."""
    cards[0].answer_next("getDeviceInfo", RuntimeError("broken"))
    find()
    assert "aic device 0 cannot be queried: RuntimeError('broken')" in caplog.text


def test_resources_come_with_the_device_if_need_be(cards: Any) -> None:
    """If the query for resources fails, those in the description of the device count."""
    cards[0].answer_next("getResourceInfo", "QS_UNSUPPORTED")
    assert find()[0].cores == 16


def test_what_the_binding_does_not_report_is_none(
    cards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serial, PCI address and SKU are optional: another SDK may not report them."""
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
    """A query that hangs ends at its time limit and does not affect other devices."""
    monkeypatch.setattr(aic_devices, "QUERY_LIMIT_S", 0.05)
    cards[0].queries_may_go_on.clear()
    assert [(each.device_id, each.state) for each in find()] == [(0, "unknown"), (1, "ready")]


def test_a_driver_that_does_not_answer(cards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that does not list its devices is an error that names the remedy."""
    monkeypatch.setattr(aic_devices, "QUERY_LIMIT_S", 0.02)
    control.listing_may_go_on.clear()
    with pytest.raises(NoDeviceError, match=r"not listed its devices within 0\.02 s.*qaic-util -s"):
        find()


def test_a_driver_that_refuses(cards: Any) -> None:
    """The error of a failed listing names the status."""
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
    """QAIC_VISIBLE_DEVICES hides other devices; ids that do not exist cause a warning."""
    monkeypatch.setenv("QAIC_VISIBLE_DEVICES", visible)
    assert [each.device_id for each in find()] == ids
    assert ("does not have: [7]" in caplog.text) == ("7" in visible)


@pytest.mark.parametrize("visible", ["all", "1,", "-1", "1;2"])
def test_visible_devices_that_are_no_list(
    cards: Any, visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text that is not a list of ids is a `ConfigError`."""
    monkeypatch.setenv("QAIC_VISIBLE_DEVICES", visible)
    with pytest.raises(
        ConfigError, match=r"QAIC_VISIBLE_DEVICES: got .*; wanted device ids with commas"
    ):
        find()


def test_queries_keep_no_log(cards: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Finding devices that are ready logs nothing."""
    with caplog.at_level(logging.INFO, logger="qaic_sched"):
        find()
    assert not caplog.records
