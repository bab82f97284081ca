"""ONNX models with seeded random weights, so that nothing has to be downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["linear", "resnet50"]

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Width and number of blocks of each stage."""
EXPANSION = 4
CLASSES = 1000
QUIET = 0.2
"""Scale of each block's last normalisation, which keeps the sums over 16 blocks near 1."""


def linear(path: Path, width: int = 64) -> str:
    """Write a model that takes microseconds, `data` [N, width] times a matrix; returns its path."""
    weight = np.random.default_rng(1).standard_normal((width, width)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["data", "weight"], ["prob"])],
        "linear",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("prob", TensorProto.FLOAT, ["N", width])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return _save(graph, path)


def resnet50(path: Path) -> str:
    """Write ResNet50, `data` [N, 3, 224, 224] to `logits` [N, 1000]; returns its path."""
    return _save(_ResNet().graph(), path)


def _save(graph: onnx.GraphProto, path: Path) -> str:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return str(path)


class _ResNet:
    """Builds the nodes and weights of ResNet50; each method returns the name of its output."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(1)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def graph(self) -> onnx.GraphProto:
        """Build the whole network."""
        value = self._relu(self._conv("data", 3, 64, 7, stride=2))
        value = self._node("MaxPool", [value], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        channels = 64
        for stage, (width, blocks) in enumerate(STAGES):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                value = self._bottleneck(value, channels, width, stride)
                channels = EXPANSION * width
        value = self._node("Flatten", [self._node("GlobalAveragePool", [value])])
        weight = self._weight((CLASSES, channels), channels)
        bias = self._constant(np.zeros(CLASSES, np.float32))
        self._nodes.append(helper.make_node("Gemm", [value, weight, bias], ["logits"], transB=1))
        return helper.make_graph(
            self._nodes,
            "resnet50",
            [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 224, 224])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
            self._weights,
        )

    def _bottleneck(self, value: str, channels: int, width: int, stride: int) -> str:
        out = EXPANSION * width
        inner = self._relu(self._conv(value, channels, width, 1))
        inner = self._relu(self._conv(inner, width, width, 3, stride))
        inner = self._conv(inner, width, out, 1, scale=QUIET)
        if stride != 1 or channels != out:
            value = self._conv(value, channels, out, 1, stride)
        return self._relu(self._node("Add", [inner, value]))

    def _conv(
        self, value: str, channels: int, out: int, size: int, stride: int = 1, scale: float = 1.0
    ) -> str:
        """Add a convolution without bias, followed by its normalisation."""
        weight = self._weight((out, channels, size, size), channels * size * size)
        value = self._node(
            "Conv",
            [value, weight],
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[size // 2] * 4,
        )
        ones, zeros = np.ones(out, np.float32), np.zeros(out, np.float32)
        numbers = [self._constant(each) for each in (scale * ones, zeros, zeros, ones)]
        return self._node("BatchNormalization", [value, *numbers])

    def _relu(self, value: str) -> str:
        return self._node("Relu", [value])

    def _node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"value{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def _weight(self, shape: tuple[int, ...], fan_in: int) -> str:
        values = self._random.standard_normal(shape, np.float32)
        return self._constant(values * np.float32(np.sqrt(2 / fan_in)))

    def _constant(self, values: NDArray[np.float32]) -> str:
        name = f"weight{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name
