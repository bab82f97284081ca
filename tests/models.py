"""Small ONNX models for the tests: each function writes one and returns its path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "FLOAT",
    "STRING",
    "gather_model",
    "identity_model",
    "linear",
    "linear_inputs",
    "linear_model",
    "save_model",
    "sequence_model",
    "unbatched_model",
]

FLOAT = TensorProto.FLOAT
STRING = TensorProto.STRING

Size = int | str | None

A_WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)
B_WEIGHT = np.arange(8, dtype=np.float32).reshape(2, 4) - 3


def linear(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute what `linear_model` does: `a` (rows, 3) and `b` (rows, 2) give (rows, 4)."""
    return a @ A_WEIGHT + b @ B_WEIGHT


def linear_inputs(rows: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return inputs of `linear_model`: small whole numbers, so that results are exact."""
    random = np.random.default_rng(seed)
    return {
        name: random.integers(-4, 5, (rows, width)).astype(np.float32)
        for name, width in (("a", 3), ("b", 2))
    }


def linear_model(path: Path, batch: Size = "N", output_batch: Size = "same") -> str:
    """Float inputs `a` [batch, 3] and `b` [batch, 2], output `y` [batch, 4].

    `batch` is a symbol or a size. With another `output_batch`, the output's first dimension has
    that symbol, and nothing in the model says that the two are equal.
    """
    first = batch if output_batch == "same" else output_batch
    nodes = [
        helper.make_node("MatMul", ["a", "a_weight"], ["a_product"]),
        helper.make_node("MatMul", ["b", "b_weight"], ["b_product"]),
        helper.make_node("Add", ["a_product", "b_product"], ["y"]),
    ]
    return save_model(
        path,
        nodes,
        [tensor("a", [batch, 3]), tensor("b", [batch, 2])],
        [tensor("y", [first, 4])],
        {"a_weight": A_WEIGHT, "b_weight": B_WEIGHT},
    )


def unbatched_model(path: Path) -> str:
    """Inputs `x` [2, 3] and `w` [3] and their product `y` [2, 3]: no common batch axis."""
    return save_model(
        path,
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        [tensor("x", [2, 3]), tensor("w", [3])],
        [tensor("y", [2, 3])],
    )


def identity_model(
    path: Path, shape: Sequence[Size] | None, output_shape: Sequence[Size] | None, kind: int = FLOAT
) -> str:
    """Output `y` is input `x`, of an ONNX element type; a shape of None is an unknown rank."""
    return save_model(
        path,
        [helper.make_node("Identity", ["x"], ["y"])],
        [tensor("x", shape, kind)],
        [tensor("y", output_shape, kind)],
    )


def gather_model(path: Path, batch: Size = 2, output_batch: Size = 2, lowest: int = 0) -> str:
    """Output `y` [batch] looks input `x` (int64) up in 4 numbers; beyond them it fails."""
    return save_model(
        path,
        [
            helper.make_node("Sub", ["x", "lowest"], ["index"]),
            helper.make_node("Gather", ["table", "index"], ["y"]),
        ],
        [tensor("x", [batch], TensorProto.INT64)],
        [tensor("y", [output_batch])],
        {"table": np.arange(4, dtype=np.float32), "lowest": np.array([lowest], np.int64)},
    )


def sequence_model(path: Path) -> str:
    """Output `y` is a sequence that holds the input `x` [2]."""
    return save_model(
        path,
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        [tensor("x", [2])],
        [helper.make_tensor_sequence_value_info("y", FLOAT, None)],
    )


def tensor(name: str, shape: Sequence[Size] | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    """Return the declaration of an input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def save_model(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, NDArray[np.generic]] | None = None,
) -> str:
    """Write the graph to `path`, in a form that older versions of ONNX Runtime read, too."""
    initializers = [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return str(path)
