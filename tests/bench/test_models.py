"""The ONNX models with random weights."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import onnx
import pytest

from bench.models import resnet50

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_the_generated_model_is_resnet50(tmp_path: Path) -> None:
    """It has the parameters of ResNet50 for ImageNet: 25,557,032, plus 53,120 statistics."""
    model = onnx.load(resnet50(tmp_path / "resnet50.onnx"))
    onnx.checker.check_model(model, full_check=True)

    sizes = [prod(each.dims) for each in model.graph.initializer]
    assert sum(sizes) == 25_557_032 + 53_120
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 53
