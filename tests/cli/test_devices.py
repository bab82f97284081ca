"""Tests of `qaic-sched devices`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from qaic_sched.backends.aic import sdk
from qaic_sched.backends.base import DeviceInfo
from qaic_sched.cli import devices, main
from tests.cli.command_line import cards as configuration
from tests.cli.command_line import two_models
from tests.standin import control

if TYPE_CHECKING:
    from pathlib import Path

    from tests.standin.control import Device


@pytest.fixture
def is_a_host_with_cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A device's node is there, whatever this machine has."""
    (tmp_path / "accel0").touch()
    monkeypatch.setattr(sdk, "DEVICE_NODES", ((str(tmp_path), "accel*"),))


def test_without_a_configuration_it_is_this_host(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU is what there is on every host."""
    monkeypatch.setattr(sdk, "DEVICE_NODES", ())
    assert main(["devices", "--json"]) == 0
    (device,) = json.loads(capsys.readouterr().out)
    assert device["kind"] == "cpu"
    assert device["cores"] >= 1


@pytest.mark.usefixtures("is_a_host_with_cards")
def test_cards_of_this_host_are_listed_too(
    cards: dict[int, Device], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where binding and cards are, a row for each comes behind the CPU."""
    cards[1].dev_status = 2
    assert main(["devices"]) == 0
    heading, *lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert (heading[1], heading[-1]) == ("kind", "sku")
    assert [(*line[:3], line[-1]) for line in lines] == [
        ("0", "cpu", "ready", "-"),
        ("0", "aic", "ready", "STANDIN_SKU"),
        ("1", "aic", "error", "STANDIN_SKU"),
    ]


@pytest.mark.usefixtures("is_a_host_with_cards")
def test_a_driver_that_lists_nothing_is_status_1(
    cards: dict[int, Device],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A driver that hangs is said in one sentence, after a bounded time."""
    monkeypatch.setattr("qaic_sched.backends.aic.devices.QUERY_LIMIT_S", 0.02)
    control.listing_may_go_on.clear()
    assert main(["devices"]) == 1
    assert "the aic driver has not listed its devices" in capsys.readouterr().err


def test_a_configuration_or_a_model_has_the_devices_of_its_backend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same two cards are listed for the configuration and for the model that it names."""
    config = configuration(tmp_path, cores=14)
    assert main(["devices", str(config)]) == 0
    listed = capsys.readouterr().out
    heading, *lines = listed.splitlines()
    assert heading.split()[:3] == ["id", "kind", "state"]
    assert [line.split()[:4] for line in lines] == [
        ["0", "sim", "ready", "14/14"],
        ["1", "sim", "ready", "14/14"],
    ]
    assert main(["devices", str(tmp_path / "cards.sim.yaml")]) == 0
    assert capsys.readouterr().out == listed


def test_a_model_of_a_package_is_no_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    """A `pkg://` address is looked up in its package, whatever its suffix."""
    assert main(["devices", "pkg://no_such_package/model.yaml"]) == 2
    assert "needs the package no_such_package" in capsys.readouterr().err


def test_all_that_a_device_tells_is_shown() -> None:
    """Memory is free/all in GiB, temperature in °C and power in watts; `-` where it is unknown."""
    card = DeviceInfo(3, "aic", "ready", 16, 4, 2**34, 2**33, 41.6, 22.25, sku="PCIE_STD")
    assert devices._row(card) == (
        *("3", "aic", "ready", "4/16"),
        *("8.0/16.0 GiB", "42 °C", "22.2 W", "PCIE_STD"),
    )
    assert devices._row(DeviceInfo(0, "sim", "ready", 1, 1))[4:] == ("-", "-", "-", "-")


def test_several_models_have_the_same_devices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is listed once."""
    assert main(["devices", str(two_models(tmp_path)), "--json"]) == 0
    assert [device["device_id"] for device in json.loads(capsys.readouterr().out)] == [0, 1]
