"""Tests of `qaic-sched bench`."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from asyncio import CancelledError
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from qaic_sched.cli import main
from qaic_sched.session import Session
from tests.cli.command_line import cards, config_of, start, two_models
from tests.models import linear_model

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path


def test_every_device_is_benchmarked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each device runs 40 inferences by default, and the last line is the total."""
    assert main(["bench", str(cards(tmp_path))]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["device", "inferences", "inferences/s", "samples/s", "seconds"]
    assert [line.split()[:2] for line in lines] == [["0", "40"], ["1", "40"], ["total", "80"]]


def test_json_has_devices_and_total(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` has rates per device, and the sum of counts over the longest time as total."""
    assert main(["bench", str(cards(tmp_path)), "--num-inferences", "8", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    devices, total = result["devices"], result["total"]
    assert set(devices) == {"0", "1"}
    for device in devices.values():
        assert device["inferences"] == 8
        assert device["samples_per_s"] == pytest.approx(4 * device["inferences_per_s"])
    assert total["inferences"] == 16
    assert total["seconds"] == max(device["seconds"] for device in devices.values())


def test_a_benchmark_may_run_for_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--time` runs for the given number of seconds."""
    config = str(cards(tmp_path))

    def seconds() -> float:
        assert main(["bench", config, "--time", "0.05", "--json"]) == 0
        return float(json.loads(capsys.readouterr().out)["total"]["seconds"])

    assert any(seconds() >= 0.05 for _ in range(5))


def test_a_number_and_a_time_exclude_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A number of inferences and a time together are rejected with status 2."""
    extents = ["--time", "1", "--num-inferences", "5"]
    assert main(["bench", str(cards(tmp_path)), *extents]) == 2
    assert "--num-inferences and --time" in capsys.readouterr().err


def test_a_warning_about_the_configuration_is_printed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A warning about the configuration is not repeated for each device."""
    config = cards(tmp_path)
    config.write_text(config.read_text() + "aic_wings: 2\n")
    assert main(["bench", str(config), "--num-inferences", "2"]) == 0
    assert capsys.readouterr().err.count("aic_wings") == 1


def test_a_device_that_fails_is_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed inference ends the benchmark without a result."""
    config = cards(tmp_path, faults=[{"kind": "error", "probability": 1.0}])
    assert main(["bench", str(config)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "qaic-sched: sim device" in captured.err


def begun(folder: Path, *arguments: str, service_time_s: float) -> subprocess.Popen[str]:
    """Start the command on two cards and wait until it is running inferences."""
    config = cards(folder, service_time_s=service_time_s)
    config.write_text(config.read_text() + "aic_wings: 2\n")
    process = start("bench", config, *arguments)
    assert process.stderr is not None
    assert "aic_wings" in process.stderr.readline()  # printed once the configuration is read
    time.sleep(0.5)
    return process


@pytest.mark.slow
def test_ctrl_c_prints_the_results_so_far(tmp_path: Path) -> None:
    """SIGINT drains a long benchmark, prints the rates so far and exits with status 130."""
    process = begun(tmp_path, "--time", "3600", "--json", service_time_s=0.001)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == (
        "qaic-sched: Ctrl-C: finishing inferences in flight; press again to stop at once\n"
    )
    devices = json.loads(stdout)["devices"]
    assert all(devices[device_id]["inferences"] > 0 for device_id in ("0", "1"))


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    """A second SIGINT abandons running inferences: status 130, and nothing is printed."""
    process = begun(tmp_path, service_time_s=3600)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "finishing" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "")


def test_ctrl_c_while_loading_measures_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C before the first inference leaves all counts at 0."""
    setup = Session.setup

    def press_and_set_up(session: Session) -> None:
        if session.backend_options["dev_id"] == 0:
            signal.raise_signal(signal.SIGINT)  # handled by the main thread's loop
        setup(session)

    monkeypatch.setattr(Session, "setup", press_and_set_up)
    assert main(["bench", str(cards(tmp_path)), "--json"]) == 130
    total = json.loads(capsys.readouterr().out)["total"]
    assert (total["inferences"], total["seconds"]) == (0, 0)


def test_a_cancelled_benchmark_prints_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A benchmark cancelled by a second Ctrl-C exits with status 130."""

    def run_and_cancel(main: Coroutine[Any, Any, Any]) -> None:
        main.close()
        raise CancelledError

    monkeypatch.setattr(import_module("qaic_sched.cli.bench"), "run_async", run_and_cancel)
    assert main(["bench", str(cards(tmp_path))]) == 130
    assert capsys.readouterr().out == ""


def test_cpu_devices_divide_the_cores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`devices: 2` on the CPU runs each device on half of the cores."""
    pinned: list[list[int]] = []
    monkeypatch.setattr("qaic_sched.backends.cpu.backend.usable_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr("qaic_sched.backends.cpu.executable.pin_to", pinned.append)
    model = linear_model(tmp_path / "m.onnx")
    config = config_of(tmp_path, model=model, devices=2, onnx_define_symbol={"N": 4})
    assert main(["bench", str(config), "--json"]) == 0
    assert sorted(pinned) == [[0, 1], [2, 3]]
    assert json.loads(capsys.readouterr().out)["total"]["inferences"] == 80


def test_each_of_several_models_is_benchmarked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several models run one after another; the table and the JSON name each."""
    config = two_models(tmp_path)
    assert main(["bench", str(config), "--num-inferences", "4"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[:2] == ["model", "device"]
    wanted = [[name, device] for name in "ab" for device in ("0", "1", "total")]
    assert [line.split()[:2] for line in lines] == wanted
    assert main(["bench", str(config), "--num-inferences", "4", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["models"]
    assert {name: each["total"]["inferences"] for name, each in result.items()} == {"a": 8, "b": 8}
