"""The `.sim.yaml` file: the meaning of its keys, and its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from qaic_sched.backends.sim.spec import ErrorFault, HangFault, LostFault, StallFault, read_spec
from qaic_sched.errors import ConfigError
from qaic_sched.program import Program, TensorSpec

MINIMAL: dict[str, Any] = {
    "inputs": {"data": {"shape": [8, 16], "dtype": "float32"}},
    "outputs": {"prob": {"shape": [8, 4], "dtype": "float32"}},
    "service_time_s": 0.01,
}


def _write(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "card.sim.yaml"
    keys = {key: value for key, value in {**MINIMAL, **changes}.items() if value != "left out"}
    path.write_text(yaml.safe_dump(keys))
    return path


def test_a_minimal_file_is_one_plain_device(tmp_path: Path) -> None:
    """Tensors and a time suffice: one device of 16 cores, without noise or faults."""
    spec = read_spec(_write(tmp_path))

    assert spec.program() == Program(
        (TensorSpec("data", (8, 16), np.dtype("float32")),),
        (TensorSpec("prob", (8, 4), np.dtype("float32")),),
        (8,),
    )
    assert (spec.devices, spec.cores, spec.load_time_s) == (1, 16, 0.0)
    assert (spec.service_time_cv, spec.host_turnaround_s) == (0.0, 0.0)
    assert spec.faults == []


def test_the_documented_file_is_understood(tmp_path: Path) -> None:
    """Every documented key is read, and `1e-3` is a number."""
    path = tmp_path / "card.sim.yaml"
    path.write_text(
        """
inputs:  {data: {shape: [8, 16], dtype: float32}}
outputs: {prob: {shape: [8, 4], dtype: int64}}
batch_sizes: [8, 1, 2, 4]
service_time_s: {1: 4e-3, 2: 0.005, 4: 0.007, 8: 0.010}
service_time_cv: 0.05
host_turnaround_s: 3e-4
devices: 8
load_time_s: 1
cores: 14
overrides: {3: {speed: 0.5}, 4: {}}
faults:
  - {kind: lost, device: 2, at_s: 1.0, for_s: 5.0}
  - {kind: hang, at_s: 2.0}
  - {kind: error, probability: 1e-3, device: 7}
  - {kind: stall, probability: 0.01, for_s: 0.060}
seed: 3
"""
    )

    spec = read_spec(path)

    assert spec.program().batch_sizes == (1, 2, 4, 8)
    assert (spec.host_turnaround_s, spec.seed, spec.cores) == (3e-4, 3, 14)
    assert spec.execution_times_s(0) == {1: 0.004, 2: 0.005, 4: 0.007, 8: 0.010}
    assert spec.execution_times_s(3) == {1: 0.008, 2: 0.01, 4: 0.014, 8: 0.02}
    assert spec.execution_times_s(4) == spec.execution_times_s(0)
    assert spec.faults == [
        LostFault(device=2, at_s=1.0, for_s=5.0),
        HangFault(at_s=2.0),
        ErrorFault(device=7, probability=0.001),
        StallFault(probability=0.01, for_s=0.06),
    ]


def test_one_service_time_is_for_every_size(tmp_path: Path) -> None:
    """A plain number applies to every compiled batch size; a size listed twice counts once."""
    spec = read_spec(_write(tmp_path, batch_sizes=[2, 2, 8], service_time_s=0))

    assert spec.execution_times_s(0) == {2: 0.0, 8: 0.0}


def test_a_fault_without_device_is_on_all() -> None:
    """A fault without `device` applies to every device."""
    assert ErrorFault(probability=1).is_on(5)
    assert ErrorFault(probability=1, device=5).is_on(5)
    assert not ErrorFault(probability=1, device=4).is_on(5)


def _tensor(shape: list[int], dtype: str = "float32") -> dict[str, object]:
    return {"t": {"shape": shape, "dtype": dtype}}


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "misspelt key": ({"servce_time_s": 1}, "servce_time_s: unknown key; .* service_time_s"),
    "missing key": ({"inputs": "left out"}, "the file: missing key `inputs`"),
    "no inputs": ({"inputs": {}}, "inputs: Expected `mapping` of length >= 1"),
    "inputs no mapping": ({"inputs": 3}, "inputs: must be a mapping of keys, not 3"),
    "name no text": ({"outputs": {3: _tensor([8])["t"]}}, "outputs: a key of it: Expected `str`"),
    "tensor without type": ({"outputs": {"p": {"shape": [8]}}}, "outputs.p: missing key `dtype`"),
    "tensor with more": ({"outputs": {"p": {"shap": [8]}}}, "outputs.p.shap: .* one is shape"),
    "no batch axis": ({"outputs": _tensor([])}, "outputs.t.shape: Expected `list` of length >= 1"),
    "empty axis": ({"outputs": _tensor([8, 0])}, r"outputs.t.shape\[1\]: Expected `int` >= 1"),
    "other batch": ({"outputs": _tensor([4, 2])}, "outputs.t.shape: .* is 4, but 8 in inputs.data"),
    "unknown type": ({"inputs": _tensor([8], "floot32")}, "inputs.t.dtype: .* is float32"),
    "type of no number": ({"inputs": _tensor([8], "object")}, "inputs.t.dtype: unknown type"),
    "largest size": ({"batch_sizes": [1, 4]}, "batch_sizes: the largest is 4, .* with 8"),
    "no size": ({"batch_sizes": []}, "batch_sizes: Expected `list` of length >= 1"),
    "size 0": ({"batch_sizes": [0, 8]}, r"batch_sizes\[0\]: Expected `int` >= 1"),
    "time left out": (
        {"batch_sizes": [1, 8], "service_time_s": {8: 1}},
        r"service_time_s: has times for \[8\], but the compiled batch sizes are \[1, 8\]",
    ),
    "time too many": ({"service_time_s": {4: 1, 8: 1}}, r"service_time_s: has times for \[4, 8\]"),
    "time of no size": ({"service_time_s": {"x": 1}}, "service_time_s: a key of it: .* `int`"),
    "time no number": ({"service_time_s": [1]}, "service_time_s: .* `float | mapping`"),
    "negative time": ({"service_time_s": -1}, "service_time_s: Expected `float` >= 0.0"),
    "negative time of a size": ({"service_time_s": {8: -1}}, r"service_time_s\[...\]: .* >= 0.0"),
    "negative turnaround": ({"host_turnaround_s": -1e-4}, "host_turnaround_s: .* >= 0.0"),
    "negative load": ({"load_time_s": -1}, "load_time_s: .* >= 0.0"),
    "endless time": ({"load_time_s": float("inf")}, "load_time_s: .* <= 1000000000.0"),
    "no time at all": ({"load_time_s": float("nan")}, "load_time_s: .* >= 0.0"),
    "devices a truth": ({"devices": True}, "devices: Expected `int`, got `bool`"),
    "override of no device": (
        {"overrides": {1: {"speed": 1}}},
        "overrides.1: there is no device 1: `devices` makes 0 to 0",
    ),
    "override misspelt": ({"overrides": {0: {"sped": 1}}}, "overrides.0.sped: .* one is speed"),
    "override stops": ({"overrides": {0: {"speed": 0}}}, "overrides.0.speed: .* > 0.0"),
    "faults no list": ({"faults": {}}, "faults: Expected `list`"),
    "fault no mapping": ({"faults": ["lost"]}, r"faults\[0\]: must be a mapping"),
    "fault unknown": ({"faults": [{"kind": "hung"}]}, r"faults\[0\].kind: .* nearest is hang"),
    "fault without kind": ({"faults": [{}]}, r"faults\[0\].kind: unknown kind None"),
    "fault of no device": (
        {"faults": [{"kind": "lost", "at_s": 1, "device": 4}]},
        r"faults\[0\].device: there is no device 4",
    ),
    "fault incomplete": (
        {"faults": [{"kind": "stall", "probability": 1}]},
        r"faults\[0\]: missing key `for_s`",
    ),
    "fault with more": (
        {"faults": [{"kind": "error", "probability": 1, "at_s": 1}]},
        r"faults\[0\].at_s: unknown key",
    ),
    "more than certain": (
        {"faults": [{"kind": "error", "probability": 1.5}]},
        r"faults\[0\].probability: .* <= 1.0",
    ),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_an_error_names_the_file_and_the_key(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    """A `ConfigError` names the file, the key and, for a misspelt word, the nearest known one."""
    path = _write(tmp_path, **changes)

    with pytest.raises(ConfigError, match=message) as caught:
        read_spec(path)

    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("text", ["", "[1, 2]", "just words"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    """An empty file, a list and plain text are refused."""
    path = tmp_path / "card.sim.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError, match="the file: must be a mapping of keys"):
        read_spec(path)


def test_a_file_that_does_not_parse_says_where(tmp_path: Path) -> None:
    """Invalid YAML is reported with file, line and column."""
    path = tmp_path / "card.sim.yaml"
    path.write_text("inputs: {data\noutputs: [")

    with pytest.raises(ConfigError, match=r"card.sim.yaml:\d+:\d+: "):
        read_spec(path)
