"""Tests of `qaic-sched check`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx
import pytest

from qaic_sched.cli import main
from qaic_sched.cli.check import examine
from tests.cli.command_line import cards as configuration
from tests.cli.command_line import config_of, two_models
from tests.models import linear_model, save_model, tensor, unbatched_model
from tests.standin.qpc import write_qpc

if TYPE_CHECKING:
    from pathlib import Path


def check(config: Path, *options: str) -> int:
    """The exit status of the command."""
    return main(["check", str(config), *options])


def test_a_configuration_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every key has its value and meaning, followed by backend, batch sizes and slots."""
    config = configuration(tmp_path)
    assert check(config) == 0
    shown = capsys.readouterr().out
    lines = [line.split(maxsplit=2) for line in shown.splitlines()]
    assert [
        "set_size",
        "2",
        "inferences that an activation may hold, including the running one",
    ] in lines
    assert ["runs", "on", "sim"] in lines
    assert ["batch", "sizes", "1, 4"] in lines
    assert ["slots", "4", "= 2 devices × 1 activations × 2 (set_size)"] in lines
    assert shown.endswith(f"{config}: no problems found\n")


def test_json_has_the_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` has the configuration, what follows from it, and the warnings."""
    config = configuration(tmp_path)
    config.write_text(config.read_text() + "aic_wings: 2\nset_size: 3\n")
    assert check(config, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["config"]["set_size"] == 3
    assert result["model_file"] == str(tmp_path / "cards.sim.yaml")
    assert result["backend"] == "sim"
    assert result["inputs"] == {"data": {"shape": [4, 3], "dtype": "float32"}}
    assert result["batch_sizes"] == [1, 4]
    assert (result["devices"], result["slots"]) == ([0, 1], 6)
    assert "aic_wings" in result["warnings"][0]
    assert result["errors"] == []


def test_a_wrong_key_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid configuration prints its error and nothing else."""
    config = config_of(tmp_path, model="x.onnx", set_size=0)
    assert check(config) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(f"qaic-sched: {config}: set_size: ")


def test_a_missing_model_is_status_2_after_the_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The keys are printed although the model is missing."""
    assert check(config_of(tmp_path, model="none.onnx")) == 2
    captured = capsys.readouterr()
    assert "max_samples" in captured.out
    assert "no problems" not in captured.out
    assert "there is no file" in captured.err


def test_errors_are_in_the_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` prints the errors with the findings, and the status is still 2."""
    assert check(config_of(tmp_path, model="none.onnx"), "--json") == 2
    result = json.loads(capsys.readouterr().out)
    assert "there is no file" in result["errors"][0]
    assert result["backend"] is result["inputs"] is result["slots"] is None


def test_model_and_devices_can_both_be_wrong(tmp_path: Path) -> None:
    """An error in the model does not hide an error in the devices."""
    pytest.importorskip("onnxruntime")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    config = config_of(tmp_path, model="bad.onnx", backend="cpu", devices=100_000)
    of_model, of_devices = examine(config).errors
    assert "bad.onnx" in of_model
    assert of_devices.startswith("devices: got 100000")


def test_a_model_without_batch_axis_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The batch sizes say that requests cannot share an inference; CPU activations share cores."""
    pytest.importorskip("onnxruntime")
    unbatched_model(tmp_path / "model.onnx")
    config = config_of(
        tmp_path, model="model.onnx", backend="cpu", devices=1, num_activations=100_000
    )
    assert check(config) == 0
    assert "batch sizes  none: one request per inference" in capsys.readouterr().out


def test_nothing_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU model is described without being compiled; the cache keeps what its trial found."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    linear_model(tmp_path / "model.onnx")
    config = config_of(
        tmp_path, model="model.onnx", backend="cpu", onnx_define_symbol={"N": 4}, output_dir="out"
    )
    findings = examine(config)
    assert findings.errors == []
    assert findings.program is not None
    assert findings.program.batch_sizes == (4,)
    assert findings.config is not None
    assert findings.config.options.compile
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == ["cache", "config.yaml", "model.onnx"]
    assert [path.name for path in (tmp_path / "cache" / "qaic_sched").iterdir()] == ["rows"]


@pytest.mark.usefixtures("cards")
def test_inputs_of_a_model_for_cards_are_known_after_compiling(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table and JSON report that the model needs compiling; `compile: false` is an error."""
    linear_model(tmp_path / "model.onnx")
    config = config_of(tmp_path, model="model.onnx", backend="aic")
    assert check(config) == 0
    assert "known after compiling: qaic-sched compile" in capsys.readouterr().out
    assert check(config, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["needs_compiling"], result["inputs"], result["slots"]) == (True, None, 4)
    config = config_of(tmp_path, model="model.onnx", backend="aic", compile=False)
    (error,) = examine(config).errors
    assert error.startswith("compile: false: cards run compiled models only")


def test_a_missing_binding_is_reported_once(tmp_path: Path) -> None:
    """The program and the devices both need the binding, but the error appears once."""
    write_qpc(tmp_path / "qpc")
    (error,) = examine(config_of(tmp_path, model="qpc")).errors
    assert "backend: aic needs qaicrt of the vendor's Python binding" in error


def test_activations_must_fit_on_their_devices(tmp_path: Path) -> None:
    """Too many cores are an error that names the number of activations that fit."""
    configuration(tmp_path, cores=10)
    config = config_of(
        tmp_path, model="cards.sim.yaml", devices=[1], num_activations=3, aic_num_cores=4
    )
    (error,) = examine(config).errors
    assert "num_activations: 3 of 4 cores" in error
    assert "device 1, which has 10 of 10 cores free; 2 would fit" in error


def test_each_of_several_models_has_a_section(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table has a section per model with its own keys; the JSON has them by name."""
    config = two_models(tmp_path, set_size=3)
    assert check(config) == 0
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    assert lines.index(["model", "a"]) < lines.index(["model", "b"])
    assert [line[1] for line in lines if line[:1] == ["slots"]] == ["6", "12"]
    assert shown.endswith(f"\n\n{config}: no problems found\n")
    assert check(config, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert {name: each["slots"] for name, each in result["models"].items()} == {"a": 6, "b": 12}
    assert (result["devices"], result["errors"]) == ([0, 1], [])


def test_an_error_of_one_of_several_models_names_it(tmp_path: Path) -> None:
    """Each model is examined, whatever errors the others have."""
    cards = configuration(tmp_path).with_name("cards.sim.yaml").name
    models = {"a": "none.onnx", "b": cards, "c": {"model": cards, "aic_num_cores": 17}}
    findings = examine(config_of(tmp_path, models=models, devices=1))
    of_a, of_c = findings.errors
    assert of_a.startswith("models.a: ")
    assert of_c.startswith("models.c: num_activations: 1 of 17 cores")
    assert findings.models["b"].errors == []


def test_models_must_fit_on_their_devices_together(tmp_path: Path) -> None:
    """Models that fit only separately are an error that names the cores of each."""
    (error,) = examine(two_models(tmp_path, aic_num_cores=6)).errors
    assert "the models want 18 cores together: a 6 (1 activations of 6), b 12 (2" in error
    pytest.importorskip("onnxruntime")
    linear_model(tmp_path / "model.onnx", batch=4)
    mixed = config_of(tmp_path, models={"a": "cards.sim.yaml", "b": "model.onnx"})
    (error,) = examine(mixed).errors
    assert "one kind of device, not a on sim, b on cpu" in error


def test_what_may_share_an_inference_is_found_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model for the CPU is tried; the reason names the output and the difference."""
    pytest.importorskip("onnxruntime")
    nodes = [onnx.helper.make_node("Softmax", ["x"], ["y"], axis=0)]
    values = [tensor(name, ["N", 2]) for name in "xy"]
    save_model(tmp_path / "model.onnx", nodes, values[:1], values[1:])
    config = config_of(tmp_path, model="model.onnx", backend="cpu", onnx_define_symbol={"N": 4})
    assert check(config) == 0
    printed = capsys.readouterr().out
    assert "any (a request has 1 or more)" in printed
    assert "a row of output 'y' differs by" in printed
    assert check(config, "--json") == 0
    assert json.loads(capsys.readouterr().out)["batch_axis"]["mode"] == "any"


@pytest.mark.usefixtures("cards")
def test_what_only_a_card_can_tell_is_unknown(
    qpc: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is loaded for it."""
    config = config_of(tmp_path, model=qpc, backend="aic")
    assert check(config, "--json") == 0
    report = json.loads(capsys.readouterr().out)["batch_axis"]
    assert (report["mode"], report["row_counts"]) == ("unknown", "1 or more")
    assert "when the scheduler opens" in report["reason"]
