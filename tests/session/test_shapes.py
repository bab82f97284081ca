"""Shapes: the vendor's dictionaries, and the random input of the benchmark."""

from __future__ import annotations

import numpy as np

from qaic_sched.program import Program, TensorSpec
from qaic_sched.session.shapes import check_one_inference, random_inputs, shapes_of

PROGRAM = Program.of(
    [
        TensorSpec(name, (8, 50), np.dtype(name))
        for name in ("float32", "float16", "int64", "uint8", "bool")
    ],
    [TensorSpec("y", (8,), np.dtype("f4"))],
)


def test_random_inputs_fit_the_program_and_repeat() -> None:
    """Random inputs have the largest batch size and the program's dtypes; calls agree."""
    inputs, again = random_inputs(PROGRAM), random_inputs(PROGRAM)
    assert check_one_inference(PROGRAM, inputs)[1] == 8
    for name, array in inputs.items():
        assert array.dtype == np.dtype(name)
        assert len(np.unique(array)) > 1
        np.testing.assert_array_equal(array, again[name])


def test_random_integers_are_valid_as_token_ids() -> None:
    """Random integers are 0 or 1, which every embedding table has."""
    inputs = random_inputs(PROGRAM)
    assert set(np.unique(inputs["int64"])) == {0, 1}
    assert set(np.unique(inputs["uint8"])) == {0, 1}


def test_shapes_serve_as_property_and_as_method() -> None:
    """Calling the dictionary returns it."""
    shapes = shapes_of(PROGRAM.outputs)
    assert shapes() is shapes
    assert shapes == {"y": ((8,), np.dtype("f4"))}
