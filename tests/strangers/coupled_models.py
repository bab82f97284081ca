"""Small models whose rows depend on each other, on their position, or on how many there are.

Each function gives nodes, inputs, outputs and constants for `save_model`; `COUPLED` lists them with
a symbol for their rows, `FIXED` those that have four rows and nothing else, and `BY_CHANCE` those
whose first dimensions are no rows at all and only equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

from tests.models import FLOAT, save_model, tensor

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["BY_CHANCE", "COUPLED", "FIXED", "NO_HARM", "ROWS", "Parts", "save"]

ROWS = 4
HALF = TensorProto.FLOAT16
INT64 = TensorProto.INT64
Size = int | str
Parts = tuple[Sequence[Any], Sequence[Any], Sequence[Any], dict[str, "NDArray[Any]"]]
Make = Callable[[Size], Parts]

node = helper.make_node


def save(path: Path, parts: Parts) -> str:
    """Write a model of these parts."""
    nodes, inputs, outputs, constants = parts
    return save_model(path, nodes, inputs, outputs, constants)


def of_x(*nodes: Any, kind: int = FLOAT, width: int = 4, **constants: Any) -> Make:
    """A model of one input `x` [rows, width] and one output `y` of its shape and type."""

    def make(rows: Size) -> Parts:
        x, y = tensor("x", [rows, width], kind), tensor("y", [rows, width], kind)
        return nodes, [x], [y], {name: np.asarray(value) for name, value in constants.items()}

    return make


def dynamic_quantize(rows: Size) -> Parts:
    """An int8 layer as text models have it: the scale is that of the whole batch."""
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node("MatMulInteger", ["q", "w", "zero"], ["product"]),
        node("Cast", ["product"], ["cast"], to=FLOAT),
        node("Mul", ["cast", "scale"], ["y"]),
    ]
    weights = np.arange(-6, 6, dtype=np.int8).reshape(4, 3)
    return nodes, [tensor("x", [rows, 4])], [tensor("y", [rows, 3])], {"w": weights}


def attention_over_rows(rows: Size) -> Parts:
    """Every row attends to all rows."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0]),
        node("MatMul", ["x", "t"], ["scores"]),
        node("Softmax", ["scores"], ["weights"], axis=-1),
        node("MatMul", ["weights", "x"], ["y"]),
    ]
    return nodes, [tensor("x", [rows, 4])], [tensor("y", [rows, 4])], {}


def scan_over_rows(rows: Size) -> Parts:
    """A running sum, row by row, in a loop of the model."""
    body = helper.make_graph(
        [node("Add", ["before", "row"], ["after"]), node("Identity", ["after"], ["out"])],
        "body",
        [tensor("before", [4]), tensor("row", [4])],
        [tensor("after", [4]), tensor("out", [4])],
    )
    nodes = [node("Scan", ["zero", "x"], ["last", "y"], body=body, num_scan_inputs=1)]
    zero = np.zeros(4, np.float32)
    return nodes, [tensor("x", [rows, 4])], [tensor("y", [rows, 4])], {"zero": zero}


def pointers(rows: Size) -> Parts:
    """Each row names another row of the request, whose values it gets."""
    nodes = [node("Gather", ["x", "i"], ["y"], axis=0)]
    inputs = [tensor("x", [rows, 4]), tensor("i", [rows], INT64)]
    return nodes, inputs, [tensor("y", [rows, 4])], {}


def row_count(rows: Size) -> Parts:
    """Each row is divided by the number of rows."""
    nodes = [
        node("Shape", ["x"], ["shape"], start=0, end=1),
        node("Cast", ["shape"], ["count"], to=FLOAT),
        node("Div", ["x", "count"], ["y"]),
    ]
    return nodes, [tensor("x", [rows, 4])], [tensor("y", [rows, 4])], {}


def row_number(rows: Size) -> Parts:
    """Each row gets its number added."""
    nodes = [
        node("CumSum", ["ones", "axis"], ["numbers"]),
        node("Sub", ["x", "x"], ["zeros"]),
        node("ReduceSum", ["zeros", "last"], ["column"], keepdims=1),
        node("Add", ["column", "one"], ["ones"]),
        node("Add", ["x", "numbers"], ["y"]),
    ]
    order = [nodes[1], nodes[2], nodes[3], nodes[0], nodes[4]]
    constants = {
        "axis": np.array(0, np.int64),
        "last": np.array([1], np.int64),
        "one": np.ones(1, np.float32),
    }
    return order, [tensor("x", [rows, 4])], [tensor("y", [rows, 4])], constants


def minus_mean(reduce: str, **constants: Any) -> Make:
    """Each row less what all rows together reduce to."""
    if constants:
        first = node(reduce, ["x", "axes"], ["r"], keepdims=1)
    else:
        first = node(reduce, ["x"], ["r"], axes=[0], keepdims=1)
    return of_x(first, node("Sub", ["x", "r"], ["y"]), **constants)


SMALL_AXIS = {"axis": np.array(0, np.int64)}

COUPLED: dict[str, Make] = {
    "DynamicQuantizeLinear": dynamic_quantize,
    "Softmax": of_x(node("Softmax", ["x"], ["y"], axis=0)),
    "Softmax of float16": of_x(node("Softmax", ["x"], ["y"], axis=0), kind=HALF),
    "LogSoftmax": of_x(node("LogSoftmax", ["x"], ["y"], axis=0)),
    "CumSum": of_x(node("CumSum", ["x", "axis"], ["y"]), **SMALL_AXIS),
    "CumSum from the end": of_x(node("CumSum", ["x", "axis"], ["y"], reverse=1), **SMALL_AXIS),
    "ReduceMax": minus_mean("ReduceMax"),
    "ReduceMean": minus_mean("ReduceMean"),
    "ReduceSum": minus_mean("ReduceSum", axes=np.array([0], np.int64)),
    "LpNormalization": of_x(node("LpNormalization", ["x"], ["y"], axis=0)),
    "LayerNormalization": of_x(
        node("LayerNormalization", ["x", "one"], ["y"], axis=0), one=np.float32(1)
    ),
    "MeanVarianceNormalization": of_x(node("MeanVarianceNormalization", ["x"], ["y"], axes=[0])),
    "attention": attention_over_rows,
    "Reshape to one row and back": of_x(
        node("Reshape", ["x", "flat"], ["f"]),
        node("Softmax", ["f"], ["s"], axis=1),
        node("Reshape", ["s", "back"], ["y"]),
        flat=np.array([1, -1], np.int64),
        back=np.array([-1, 4], np.int64),
    ),
    "Transpose": of_x(
        node("Transpose", ["x"], ["t"], perm=[1, 0]),
        node("Softmax", ["t"], ["s"], axis=1),
        node("Transpose", ["s"], ["y"], perm=[1, 0]),
    ),
    "Scan": scan_over_rows,
    "Gather of other rows": pointers,
    "Slice from the end": of_x(
        node("Slice", ["x", "starts", "ends", "axes", "steps"], ["y"]),
        starts=np.array([-1], np.int64),
        ends=np.array([-(2**31)], np.int64),
        axes=np.array([0], np.int64),
        steps=np.array([-1], np.int64),
    ),
    "number of rows": row_count,
    "number of the row": row_number,
    "Trilu": of_x(node("Trilu", ["x"], ["y"])),
    "EyeLike": of_x(node("EyeLike", ["x"], ["y"])),
}
"""Kind of coupling -> the model with this size or symbol for its rows."""


def two_squares(op: str, **attributes: Any) -> Make:
    """Two inputs of four by four, of which the second is no batch."""

    def make(rows: Size) -> Parts:
        inputs = [tensor("a", [rows, ROWS]), tensor("b", [rows, ROWS])]
        return [node(op, ["a", "b"], ["y"], **attributes)], inputs, [tensor("y", [rows, ROWS])], {}

    return make


def interleaved(rows: Size) -> Parts:
    """Every second row of two inputs behind each other."""
    nodes = [
        node("Concat", ["a", "b"], ["all"], axis=0),
        node("Slice", ["all", "starts", "ends", "axes", "steps"], ["y"]),
    ]
    numbers = {"starts": [0], "ends": [2**31], "axes": [0], "steps": [2]}
    constants = {name: np.array(value, np.int64) for name, value in numbers.items()}
    inputs = [tensor("a", [rows, 3]), tensor("b", [rows, 3])]
    return nodes, inputs, [tensor("y", [rows, 3])], constants


def sorted_rows(rows: Size) -> Parts:
    """The rows in order of their values."""
    nodes = [node("TopK", ["x", "k"], ["y", "at"], axis=0)]
    outputs = [tensor("y", [rows, 4]), tensor("at", [rows, 4], INT64)]
    return nodes, [tensor("x", [rows, 4])], outputs, {"k": np.array([ROWS], np.int64)}


def reversed_rows(rows: Size) -> Parts:
    """The rows backwards, by column."""
    nodes = [node("ReverseSequence", ["x", "lengths"], ["y"], time_axis=0, batch_axis=1)]
    lengths = np.array([4, 3, 2, 4], np.int64)
    return nodes, [tensor("x", [rows, 4])], [tensor("y", [rows, 4])], {"lengths": lengths}


def row_bias(rows: Size) -> Parts:
    """A constant of its own for each row, such as an embedding of the position."""
    bias = np.arange(ROWS * 4, dtype=np.float32).reshape(ROWS, 4)
    return (
        [node("Add", ["x", "bias"], ["y"])],
        [tensor("x", [rows, 4])],
        [tensor("y", [rows, 4])],
        {"bias": bias},
    )


def resized(rows: Size) -> Parts:
    """An image that is resized by scales which the caller gives: four, one per axis."""
    nodes = [node("Resize", ["x", "", "scales"], ["y"], mode="nearest")]
    inputs = [tensor("x", [rows, 1, 2, 2]), tensor("scales", [rows])]
    return nodes, inputs, [tensor("y", [rows, "c", "h", "w"])], {}


FIXED: dict[str, Make] = {
    "Softmax of a square": of_x(node("Softmax", ["x"], ["y"], axis=0)),
    "MatMul of two squares": two_squares("MatMul"),
    "Gemm of two squares": two_squares("Gemm", transA=1),
    "Concat and Slice": interleaved,
    "TopK": sorted_rows,
    "ReverseSequence": reversed_rows,
    "a constant per row": row_bias,
}
"""Models of four rows: a request of four gives what it gives alone, all others are refused."""

NO_HARM = {"Concat and Slice", "a constant per row"}
"""Those in which a single row that is padded gives what it gives in a whole batch."""


def recurrent(op: str, gates: int) -> Make:
    """A layer over time, in the order of ONNX: `x` [time, batch, 3], `y` [time, 1, batch, 2]."""

    def make(rows: Size) -> Parts:
        random = np.random.default_rng(1)
        constants = {
            "w": random.standard_normal((1, gates * 2, 3)).astype(np.float32),
            "r": random.standard_normal((1, gates * 2, 2)).astype(np.float32),
        }
        nodes = [node(op, ["x", "w", "r"], ["y"], hidden_size=2)]
        return (
            nodes,
            [tensor("x", [rows, "batch", 3])],
            [tensor("y", [rows, 1, "batch", 2])],
            constants,
        )

    return make


def state_in_two_layers(rows: Size) -> Parts:
    """A stream: `x` [batch, 3], and a state [2, batch, 3] of two layers that it takes and gives."""
    nodes = [
        node("ReduceSum", ["state", "axes"], ["before"], keepdims=0),
        node("Add", ["x", "before"], ["y"]),
        node("Add", ["state", "y"], ["next"]),
    ]
    inputs = [tensor("x", ["batch", 3]), tensor("state", [rows, "batch", 3])]
    outputs = [tensor("y", ["batch", 3]), tensor("next", [rows, "batch", 3])]
    return nodes, inputs, outputs, {"axes": np.array([0], np.int64)}


BY_CHANCE: dict[str, tuple[Make, Size, int]] = {
    "LSTM": (recurrent("LSTM", 4), 4, 2),
    "GRU": (recurrent("GRU", 3), 4, 2),
    "RNN": (recurrent("RNN", 1), 4, 2),
    "state of two layers": (state_in_two_layers, 2, 2),
}
"""Kind -> model, its first dimension, and the size of its symbol `batch`, which is another axis."""
