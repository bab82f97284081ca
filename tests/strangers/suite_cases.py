"""The cases of ONNX's backend suite that the `onnx` package carries: models, inputs, outputs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BATCH", "Case", "DataSet", "all_cases", "sizes_of", "with_symbolic_rows"]

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
"""All kinds but "real", whose models are downloaded."""

BATCH = "rows_of_a_stranger"
"""The symbol that `with_symbolic_rows` puts in the place of the first dimensions."""

DataSet = tuple[dict[str, Any], dict[str, Any]]
"""Inputs and expected outputs by name: arrays, or whatever else the model takes."""


@dataclass
class Case:
    """One case: a model, and what it has to compute."""

    name: str
    model: onnx.ModelProto
    rtol: float
    atol: float
    stored: Any

    def data_sets(self) -> list[DataSet]:
        """Inputs and expected outputs, once per set."""
        inputs = [value.name for value in self.model.graph.input]
        outputs = [value.name for value in self.model.graph.output]
        return [
            (_named(inputs, given), _named(outputs, expected))
            for given, expected in self._raw_data_sets()
        ]

    def _raw_data_sets(self) -> list[tuple[Sequence[Any], Sequence[Any]]]:
        if isinstance(self.stored, list):
            return self.stored
        return [
            (_read(folder, "input"), _read(folder, "output"))
            for folder in sorted(Path(self.stored).glob("test_data_set_*"))
        ]


def all_cases() -> dict[str, Case]:
    """Every case by "kind/name"; it takes seconds, as most are computed then."""
    from onnx.backend.test.loader import load_model_tests

    cases = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in KINDS:
            for each in load_model_tests(kind=kind):
                name = f"{kind}/{each.name}"
                if each.model is not None:
                    cases[name] = Case(name, each.model, each.rtol, each.atol, each.data_sets)
                else:
                    model = onnx.load(str(Path(each.model_dir) / "model.onnx"))
                    cases[name] = Case(name, model, each.rtol, each.atol, each.model_dir)
    return cases


def sizes_of(model: onnx.ModelProto, inputs: dict[str, Any]) -> dict[str, int]:
    """The sizes that the model's symbolic dimensions have in these inputs, by symbol."""
    sizes = {}
    for value in model.graph.input:
        array = inputs.get(value.name)
        if isinstance(array, np.ndarray):
            dims = value.type.tensor_type.shape.dim
            sizes.update(
                {
                    dim.dim_param: size
                    for dim, size in zip(dims, array.shape, strict=False)
                    if dim.dim_param
                }
            )
    return sizes


def with_symbolic_rows(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model with a symbol for the first dimension of all inputs and outputs, if that is one."""
    values = [*model.graph.input, *model.graph.output]
    firsts = {_first_size(value) for value in values}
    if not model.graph.input or len(firsts) != 1 or firsts & {0, None}:
        return None
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.value_info[:]  # they would say the old size
    for value in (*changed.graph.input, *changed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    return changed


def _first_size(value: onnx.ValueInfoProto) -> int | None:
    dims = value.type.tensor_type.shape.dim
    return dims[0].dim_value if dims else None


def _named(names: list[str], values: Sequence[Any]) -> dict[str, Any]:
    return {name: _as_array(value) for name, value in zip(names, values, strict=False)}


def _as_array(value: Any) -> Any:
    """What onnxruntime takes: some cases have messages or numpy's scalars instead of arrays."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _read(folder: Path, stem: str) -> list[Any]:
    files = sorted(folder.glob(f"{stem}_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
    return [numpy_helper.to_array(onnx.TensorProto.FromString(each.read_bytes())) for each in files]
