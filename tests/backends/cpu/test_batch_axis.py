"""The batch axis of an ONNX model, as far as the model's description says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from onnx import helper

from qaic_sched.backends.cpu.onnx_model import ModelReader
from qaic_sched.program import Program, Rows
from tests.models import FLOAT, linear_model, save_model, tensor

if TYPE_CHECKING:
    from pathlib import Path

node = helper.make_node


def described(
    path: Path, inputs: dict[str, Any], output: list[Any], nodes: list[Any], **sizes: int
) -> tuple[Program, tuple[str, ...]]:
    """The program of a model of these shapes, and the symbols of its batch axis."""
    values = [tensor(name, shape) for name, shape in inputs.items()]
    save_model(path, nodes, values, [tensor("y", output, FLOAT)])
    reader = ModelReader(str(path), sizes)
    return reader.read(1), reader.axis.symbols


ADD = [node("Add", ["a", "b"], ["y"])]
SAME = [node("Identity", ["a"], ["y"])]
SUM = [node("ReduceSum", ["a"], ["y"], keepdims=0)]


def test_one_symbol_on_axis_0_of_all_is_the_batch_axis(model_file: Path) -> None:
    """Requests may share an inference, as far as the description says."""
    program, symbols = described(model_file, {"a": ["N", 3], "b": ["N", 3]}, ["N", 3], ADD, N=4)
    assert (program.batch_sizes, program.rows, symbols) == ((4,), Rows.SHARED, ("N",))


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"a": [4, "batch", 3]}, "input 'a' has the fixed size 4 on axis 0"),
        ({"a": ["batch", 3], "b": [4, "batch", 3]}, "input 'b' has the fixed size 4 on axis 0"),
        ({"a": ["N", 3], "b": []}, "input 'b' has no axes"),
        ({"a": ["rows", 3], "b": ["words", 3]}, "different symbols on axis 0: rows, words"),
        ({"a": ["N", "N"]}, "'a' has the symbol N on another axis"),
        ({}, "it has no inputs"),
    ],
)
def test_anything_else_is_none_where_there_are_symbols(
    model_file: Path, inputs: dict[str, Any], reason: str
) -> None:
    """Equal sizes of different symbols are a chance."""
    sizes = {"batch": 4, "N": 4, "rows": 4, "words": 4}
    used = {name for shape in inputs.values() for name in shape}
    nodes = ADD if len(inputs) == 2 else SAME
    if not inputs:
        nodes = [node("Constant", [], ["y"], value_floats=[1.0, 2.0])]
    output = list(inputs.get("b") or inputs.get("a", [2]))
    known = {name: size for name, size in sizes.items() if name in used}
    program, _ = described(model_file, inputs, output, nodes, **known)
    assert program.batch_sizes == ()
    assert reason in program.reason


def test_symbols_that_an_exporter_made_up_may_differ(model_file: Path) -> None:
    """They are new ones for every tensor; a trial has to show that they mean the same."""
    inputs = {"a": ["unk__7", 3], "b": ["unk__8", 3]}
    program, symbols = described(model_file, inputs, ["unk__9", 3], ADD, unk__7=4, unk__8=4)
    assert (program.batch_sizes, symbols) == ((4,), ("unk__7", "unk__8"))
    program, _ = described(model_file, {"a": ["unk__7", 3]}, ["unk__9", 3], SAME, unk__7=4)
    assert program.batch_sizes == (4,)


def test_an_output_with_a_symbol_of_no_input_follows_if_it_does(model_file: Path) -> None:
    """An inference shows its size."""
    reader = ModelReader(linear_model(model_file, output_batch="M"), {"N": 4})
    program = reader.read(1)
    assert (program.batch_sizes, program.rows) == ((4,), Rows.SHARED)


@pytest.mark.parametrize(
    ("output", "nodes"),
    [([], SUM), (["M"], [node("Unique", ["a"], ["y"])]), ([4, 3], SAME), (["seq", 3], SAME)],
)
def test_an_output_that_does_not_follow_keeps_requests_apart(
    model_file: Path, output: list[Any], nodes: list[Any]
) -> None:
    """A request may have any number of rows, and gets the output with the shape that it has."""
    program, symbols = described(
        model_file, {"a": ["N", 3], "b": ["N", "seq"]}, output, nodes, N=4, seq=4
    )
    assert (program.batch_sizes, program.rows, symbols) == ((4,), Rows.ANY, ("N",))
    assert not program.keeps_shapes
    assert program.reason == "output 'y' does not follow the batch axis"


def test_fixed_sizes_are_a_batch_axis_if_all_are_equal(model_file: Path) -> None:
    """Whether it is one by chance, a trial has to show."""
    program, symbols = described(model_file, {"a": [4, 3], "b": [4, 3]}, [4, 3], ADD)
    assert (program.batch_sizes, symbols) == ((4,), ())
    program, _ = described(model_file, {"a": [4, 3]}, [], SUM)
    assert program.batch_sizes == ()
