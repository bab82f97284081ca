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
    """Make this machine look like a host with a card."""
    (tmp_path / "accel0").touch()
    monkeypatch.setattr(sdk, "DEVICE_NODES", ((str(tmp_path), "accel*"),))


def test_without_a_configuration_this_host_is_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a configuration, the CPU of this host is listed."""
    monkeypatch.setattr(sdk, "DEVICE_NODES", ())
    assert main(["devices", "--json"]) == 0
    (device,) = json.loads(capsys.readouterr().out)
    assert device["kind"] == "cpu"
    assert device["cores"] >= 1


@pytest.mark.usefixtures("is_a_host_with_cards")
def test_cards_of_this_host_are_listed(
    cards: dict[int, Device], capsys: pytest.CaptureFixture[str]
) -> None:
    """With a binding and cards, each device has a line after the CPU."""
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
    """A driver that hangs is reported in one sentence, after a time limit."""
    monkeypatch.setattr("qaic_sched.backends.aic.devices.QUERY_LIMIT_S", 0.02)
    control.listing_may_go_on.clear()
    assert main(["devices"]) == 1
    assert "the aic driver has not listed its devices" in capsys.readouterr().err


def test_devices_of_a_configuration_or_a_model_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A configuration and its model list the devices of the same backend."""
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


def test_a_package_model_is_not_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    """A `pkg://` path is a model, whatever its suffix."""
    assert main(["devices", "pkg://no_such_package/model.yaml"]) == 2
    assert "needs the package no_such_package" in capsys.readouterr().err


def test_every_property_of_a_device_is_shown() -> None:
    """Memory is free/all in GiB, temperature in °C, power in watts; `-` means unknown."""
    card = DeviceInfo(3, "aic", "ready", 16, 4, 2**34, 2**33, 41.6, 22.25, sku="PCIE_STD")
    assert devices._row(card) == (
        *("3", "aic", "ready", "4/16"),
        *("8.0/16.0 GiB", "42 °C", "22.2 W", "PCIE_STD"),
    )
    assert devices._row(DeviceInfo(0, "sim", "ready", 1, 1))[4:] == ("-", "-", "-", "-")


def test_devices_of_several_models_are_listed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Models share their devices, so each device is listed once."""
    assert main(["devices", str(two_models(tmp_path)), "--json"]) == 0
    assert [device["device_id"] for device in json.loads(capsys.readouterr().out)] == [0, 1]
