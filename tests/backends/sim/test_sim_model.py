"""What simulated programs compute, alone and together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from qaic_sched.backends.sim.model import Model
from qaic_sched.program import Program, TensorSpec

DTYPES = [
    *("bool", "float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
]


def program(
    *widths: int, dtypes: tuple[str, ...] = ("float32",), batch: int = 4, outputs: int = 1
) -> Program:
    """Inputs of these widths, and so many outputs of two columns."""
    names = [f"in{index}" for index in range(len(widths))]
    types = [*dtypes, *["float32"] * len(widths)]
    return Program.of(
        [
            TensorSpec(name, (batch, width), np.dtype(dtype))
            for name, width, dtype in zip(names, widths, types, strict=False)
        ],
        [TensorSpec(f"out{each}", (batch, 2), np.dtype("float64")) for each in range(outputs)],
        [1, batch],
    )


def sent(of: Program, rows: int, seed: int) -> dict[str, Any]:
    """Random inputs that cover what their types can hold."""
    random = np.random.default_rng(seed)
    tensors: dict[str, Any] = {}
    for spec in of.inputs:
        raw = random.normal(size=(rows, *spec.shape[1:])) * 10.0 ** random.integers(-6, 5)
        if spec.dtype.kind in "iu":
            limits = np.iinfo(spec.dtype.str)
            tensors[spec.name] = random.integers(
                limits.min, limits.max, raw.shape, spec.dtype.type, endpoint=True
            )
        else:
            tensors[spec.name] = raw.astype(spec.dtype)
    return tensors


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("widths", [(1,), (3,), (16,), (129,), (1000, 7), (5000,)])
@pytest.mark.parametrize("rows", [1, 4])
def test_inferences_together_are_what_each_is_alone(
    dtype: str, widths: tuple[int, ...], rows: int
) -> None:
    """To the last bit, for several inputs, whatever their type and size."""
    of = program(*widths, dtypes=(dtype,), outputs=2)
    model = Model(of)
    several = [sent(of, rows, seed) for seed in range(model.most_together[rows])]

    together = model(several)
    alone = [model([inputs])[0] for inputs in several]

    assert len(together) == len(several)
    for found, wanted in zip(together, alone, strict=True):
        assert list(found) == ["out0", "out1"]
        for name, array in found.items():
            np.testing.assert_array_equal(array, wanted[name], strict=True)
            first = of.inputs[0].name
            assert array.shape == (len(several[0][first]), 2)


@pytest.mark.parametrize("width", [16, 2047])
def test_the_sum_is_numpy_s_mean(width: int) -> None:
    """Together too: no other order of additions."""
    of = program(width)
    several = [sent(of, 1, seed) for seed in range(Model(of).most_together[1])]

    for answer, inputs in zip(Model(of)(several), several, strict=True):
        mean = inputs["in0"].mean(axis=1, dtype=np.float64)
        assert answer["out0"].tolist() == [[mean[0]] * 2]


def test_strange_numbers_stay_with_their_own() -> None:
    """NaN and infinities of one inference do not reach those beside it, and nothing warns."""
    rows = [[1.0, 3.0], [math.nan, 1.0], [math.inf, 1.0], [math.inf, -math.inf], [5.0, 7.0]]
    several = [{"in0": np.array([row], np.float32)} for row in rows]

    found = [float(each["out0"][0, 0]) for each in Model(program(2))(several)]

    np.testing.assert_array_equal(found, [2.0, math.nan, math.inf, math.nan, 6.0])


def test_answers_of_different_inferences_do_not_overlap() -> None:
    """Who writes to his outputs changes nobody else's."""
    several: list[Any] = [{"in0": np.full((1, 2), each, np.float32)} for each in (1, 2, 3)]
    first, second, third = (each["out0"] for each in Model(program(2))(several))

    second[...] = 0

    assert (first.tolist(), third.tolist()) == ([[1.0, 1.0]], [[3.0, 3.0]])
    assert second.flags.writeable


@pytest.mark.parametrize(
    ("width", "batch", "most"),
    [(2, 4, {1: 64, 4: 64}), (128, 8, {1: 64, 8: 8}), (8192, 4, {1: 1, 4: 1}), (9000, 2, None)],
)
def test_large_inferences_are_computed_alone(
    width: int, batch: int, most: dict[int, int] | None
) -> None:
    """No more at once than numpy casts in one go: where it cuts, sums could change."""
    assert Model(program(width, batch=batch)).most_together == (most or {1: 1, batch: 1})


def test_who_keeps_one_answer_keeps_little() -> None:
    """Outputs of inferences computed together are a few kilobytes in all."""
    of = Program.of(
        [TensorSpec("x", (1, 2), np.dtype("float32"))],
        [TensorSpec("y", (1, 1000), np.dtype("float32"))],
    )
    model = Model(of)
    several: list[Any] = [{"x": np.ones((1, 2), np.float32)}] * model.most_together[1]

    base: Any = model(several)[0]["y"].base

    assert model.most_together == {1: 4}
    assert base.nbytes == 16000
