"""Issue 13, line 1: rows that depend on each other never share an inference with strangers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import FLOAT, linear_inputs, linear_model, save_model, tensor
from tests.strangers.coupled_models import (
    BY_CHANCE,
    COUPLED,
    FIXED,
    NO_HARM,
    ROWS,
    node,
    resized,
    save,
)
from tests.strangers.running import assert_each_as_alone, open_session

SCALES = (0.01, 100.0, 1.0, 0.1)
"""Magnitudes of the rows: what is computed of all together is far from what one gives alone."""


def random_inputs(path: str, rows: int, seed: int, batch: int = 0) -> dict[str, Any]:
    """Inputs of so many rows; the scale depends on the seed, integers are numbers of rows."""
    random = np.random.default_rng(seed)
    inputs = {}
    for value in open_session(path).get_inputs():
        shape = (rows, *(batch if size == "batch" else size for size in value.shape[1:]))
        if value.type == "tensor(int64)":
            inputs[value.name] = random.integers(0, rows, shape)
        else:
            dtype = np.float16 if value.type == "tensor(float16)" else np.float32
            numbers = random.standard_normal(shape) * SCALES[seed % len(SCALES)]
            inputs[value.name] = numbers.astype(dtype)
    return inputs


def test_a_small_row_beside_a_large_one_keeps_its_value(tmp_path: Path) -> None:
    """The issue's own example: an int8 layer gives 1.27 for a row of 0.01, not 0.0."""
    path = save(tmp_path / "model.onnx", COUPLED["DynamicQuantizeLinear"]("N"))
    requests = [{"x": np.full((1, 4), value, np.float32)} for value in (0.01, 100.0)]

    assert_each_as_alone(path, requests, onnx_define_symbol={"N": ROWS})


@pytest.mark.parametrize("kind", COUPLED)
def test_coupled_rows_with_a_symbolic_batch_run_by_themselves(tmp_path: Path, kind: str) -> None:
    """On the CPU every row count is possible: each request gets what it gets alone."""
    path = save(tmp_path / "model.onnx", COUPLED[kind]("N"))
    requests = [random_inputs(path, rows, seed) for seed, rows in enumerate((1, 1, 2, 3, 4, 6))]

    assert_each_as_alone(path, requests, onnx_define_symbol={"N": ROWS})


@pytest.mark.parametrize("kind", FIXED)
def test_coupled_rows_of_a_fixed_batch_run_whole_or_not_at_all(tmp_path: Path, kind: str) -> None:
    """Four rows give what they give alone, though one row of another caller comes before them."""
    path = save(tmp_path / "model.onnx", FIXED[kind](ROWS))
    sizes = (1, ROWS, ROWS, 3, 6, ROWS)
    requests = [random_inputs(path, rows, seed) for seed, rows in enumerate(sizes)]

    assert_each_as_alone(path, requests, may_refuse=True, may_pad=kind in NO_HARM)


@pytest.mark.parametrize("kind", BY_CHANCE)
def test_first_dimensions_that_are_equal_by_chance_are_no_batch(tmp_path: Path, kind: str) -> None:
    """Time steps or layers are not split, and nobody's are put behind another's."""
    make, first, batch = BY_CHANCE[kind]
    path = save(tmp_path / "model.onnx", make(first))
    wholes = [random_inputs(path, first, seed, batch) for seed in range(4)]
    part = {name: array[:1] for name, array in wholes[0].items()}

    assert_each_as_alone(path, [part, *wholes], onnx_define_symbol={"batch": batch})


def test_scales_of_an_image_are_no_rows(tmp_path: Path) -> None:
    """Four images and the four scales to resize them by: two inputs that are equal by chance."""
    path = save(tmp_path / "model.onnx", resized(ROWS))
    images = np.arange(16, dtype=np.float32).reshape(4, 1, 2, 2)
    scales = [np.array([1, 1, *each], np.float32) for each in ((2, 2), (3, 1), (1, 1))]
    requests = [{"x": images, "scales": each} for each in scales]

    assert_each_as_alone(path, requests, may_refuse=True)


def test_a_model_without_inputs_gives_its_whole_output(tmp_path: Path) -> None:
    """A constant of four rows is no batch of four."""
    constant = np.arange(8, dtype=np.float32).reshape(4, 2)
    nodes = [node("Identity", ["constant"], ["y"])]
    outputs = [tensor("y", [4, 2])]
    path = save_model(tmp_path / "model.onnx", nodes, [], outputs, {"constant": constant})

    assert_each_as_alone(path, [{}, {}])


def test_rows_that_do_not_depend_on_each_other_still_share_inferences(tmp_path: Path) -> None:
    """The mend must not end batching: four requests of one row are answered rightly."""
    path = linear_model(tmp_path / "model.onnx")
    requests = [linear_inputs(1, seed) for seed in range(ROWS)]

    assert_each_as_alone(path, requests, onnx_define_symbol={"N": ROWS})


def test_a_model_that_differs_from_itself_runs(tmp_path: Path) -> None:
    """Noise is unlike at every call, so nothing can be compared: only the shape must be right."""
    nodes = [
        node("RandomUniformLike", ["x"], ["noise"]),
        node("Mul", ["x", "noise"], ["y"]),
    ]
    path = save_model(
        tmp_path / "model.onnx", nodes, [tensor("x", ["N", 2], FLOAT)], [tensor("y", ["N", 2])]
    )
    requests = [{"x": np.zeros((rows, 2), np.float32)} for rows in (1, 3, 4, 7)]

    assert_each_as_alone(path, requests, onnx_define_symbol={"N": ROWS})
