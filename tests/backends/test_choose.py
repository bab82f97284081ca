"""The choice of a backend, and finding its model."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from qaic_sched.backends import choose
from qaic_sched.backends.aic import AicBackend
from qaic_sched.backends.choose import backend_for
from qaic_sched.backends.compiling.container import write_cpu_program
from qaic_sched.backends.cpu import CpuBackend
from qaic_sched.config.keys import Config, ModelOptions
from qaic_sched.errors import ConfigError
from tests.models import linear_model
from tests.standin.qpc import write_qpc

SIM_MODEL = """
inputs: {data: {shape: [8, 16], dtype: float32}}
outputs: {prob: {shape: [8, 4], dtype: float32}}
service_time_s: 0.001
devices: 1
"""


@pytest.fixture
def onnx_model(tmp_path: Path) -> str:
    """The path of a model that the CPU can run."""
    return linear_model(tmp_path / "model.onnx")


@pytest.fixture
def sim_model(tmp_path: Path) -> str:
    """The path of a model that describes simulated cards."""
    path = tmp_path / "model.sim.yaml"
    path.write_text(SIM_MODEL)
    return str(path)


def test_auto_means_cpu_and_is_logged(onnx_model: str, caplog: pytest.LogCaptureFixture) -> None:
    """`auto` takes the CPU for an ONNX model, passes its options on, and logs one line."""
    options = ModelOptions(onnx_define_symbol={"N": 4})
    with caplog.at_level(logging.INFO, logger="qaic_sched"):
        backend = backend_for(Config(model=onnx_model, options=options))
    assert isinstance(backend, CpuBackend)
    assert (backend.kind, backend.model_path, backend.options) == ("cpu", onnx_model, options)
    [record] = caplog.records
    assert "auto means cpu" in record.getMessage()


def test_cpu_by_name_is_not_logged(onnx_model: str, caplog: pytest.LogCaptureFixture) -> None:
    """`backend: cpu` logs nothing."""
    with caplog.at_level(logging.INFO, logger="qaic_sched"):
        assert backend_for(Config(model=onnx_model, backend="cpu")).kind == "cpu"
    assert not caplog.records


@pytest.mark.parametrize("backend", ["auto", "sim"])
def test_a_sim_model_means_sim(sim_model: str, backend: Any) -> None:
    """A `.sim.yaml` model runs on simulated cards, with `auto` and with `sim`."""
    chosen = backend_for(Config(model=sim_model, backend=backend))
    assert (chosen.kind, chosen.model_path) == ("sim", sim_model)


@pytest.mark.parametrize("backend", ["cpu", "aic"])
def test_a_sim_model_runs_on_nothing_else(sim_model: str, backend: Any) -> None:
    """A `.sim.yaml` model on another backend is a `ConfigError`."""
    with pytest.raises(ConfigError, match=rf"backend: {backend} cannot run .*simulated cards"):
        backend_for(Config(model=sim_model, backend=backend))


def test_sim_needs_a_sim_model(onnx_model: str) -> None:
    """`backend: sim` refuses an ONNX file."""
    with pytest.raises(ConfigError, match=r"backend: sim needs a model that ends in \.sim\.yaml"):
        backend_for(Config(model=onnx_model, backend="sim"))


def test_auto_means_a_card_where_there_is_one(
    onnx_model: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`auto` takes a card if the host has one, without querying a device."""
    monkeypatch.setattr(choose, "has_card", lambda: True)
    with caplog.at_level(logging.INFO, logger="qaic_sched"):
        backend = backend_for(Config(model=onnx_model))
    assert isinstance(backend, AicBackend)
    [record] = caplog.records
    assert f"auto means aic for {onnx_model}: this host has cards" in record.getMessage()


@pytest.mark.parametrize("backend", ["aic", "auto"])
def test_a_compiled_model_means_what_it_is_compiled_for(tmp_path: Path, backend: Any) -> None:
    """A QPC, given as a file, a folder or a glob, means cards even if the host has none."""
    path = write_qpc(tmp_path / "qpc")
    for model in (path, str(tmp_path / "qpc"), str(tmp_path / "q*" / "*.bin")):
        chosen = backend_for(Config(model=model, backend=backend))
        assert (chosen.kind, chosen.model_path) == ("aic", path)


def test_a_compiled_model_runs_on_nothing_else(tmp_path: Path, onnx_model: str) -> None:
    """A model compiled for one kind of device is refused on another."""
    card, cpu = write_qpc(tmp_path), tmp_path / "cpu.bin"
    write_cpu_program(cpu, Path(onnx_model), {})
    assert backend_for(Config(model=str(cpu))).kind == "cpu"
    for model, backend, compiled_for in ((card, "cpu", "aic"), (str(cpu), "aic", "cpu")):
        problem = f"backend: {backend} cannot run {model}, compiled for {compiled_for}"
        with pytest.raises(ConfigError, match=problem):
            backend_for(Config(model=model, backend=cast("Any", backend)))


def test_aic_without_sdk_is_one_sentence(onnx_model: str) -> None:
    """`backend: aic` without the SDK fails on first use, in one sentence."""
    backend = backend_for(Config(model=onnx_model, backend="aic"))
    with pytest.raises(ConfigError, match=r"backend: aic needs qaicrt.*install the Cloud AI"):
        asyncio.run(backend.describe())


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    """A missing model, or a folder without one, is named with its path."""
    with pytest.raises(ConfigError, match=f"model: there is no file {tmp_path}/none.onnx"):
        backend_for(Config(model=str(tmp_path / "none.onnx")))
    with pytest.raises(ConfigError, match=f"model: the folder {tmp_path} has no programqpc.bin"):
        backend_for(Config(model=str(tmp_path)))


def test_a_packaged_model_is_found_without_importing_the_package() -> None:
    """`pkg://` finds a file in an installed package and imports nothing."""
    imported = "magika" in sys.modules
    backend = backend_for(Config(model="pkg://magika/models/standard_v3_3/model.onnx"))
    assert backend.model_path.endswith("magika/models/standard_v3_3/model.onnx")
    assert ("magika" in sys.modules) == imported


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("pkg://no_such_package/model.onnx", r"not installed: pip install no_such_package$"),
        ("pkg://magika/none.onnx", r"magika has no file none\.onnx.*pip install --upgrade magika$"),
        ("pkg://json/model.onnx", r"package json has no file model\.onnx"),
        ("pkg://base64/model.onnx", r"package base64 has no file model\.onnx"),
        ("pkg://magika", "wanted the form pkg://package/path/in/it.onnx"),
        ("pkg:///model.onnx", "wanted the form"),
    ],
)
def test_a_packaged_model_that_does_not_exist(model: str, problem: str) -> None:
    """A missing package and a missing file in a package are distinct errors with remedies."""
    with pytest.raises(ConfigError, match=problem):
        backend_for(Config(model=model))
