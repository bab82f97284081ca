"""The computation of simulated programs, of one inference and of several together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from qaic_sched.backends.base import Executable
from qaic_sched.backends.sim import SimBackend
from qaic_sched.backends.sim.model import SimModel
from qaic_sched.program import Program, TensorSpec
from tests.backends.sim.sim_cards import Make, Recorder, virtually

DTYPES = [
    *("bool", "float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
]


def program(
    *widths: int, dtypes: tuple[str, ...] = ("float32",), batch: int = 4, outputs: int = 1
) -> Program:
    """A program with inputs of these widths and `outputs` outputs of two columns."""
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
    """Random inputs that cover the range of their types."""
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
    """Computing inferences together changes no bit, whatever the type and size of the inputs."""
    of = program(*widths, dtypes=(dtype,), outputs=2)
    model = SimModel(of)
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
    """The order of additions is numpy's, also when inferences are computed together."""
    of = program(width)
    several = [sent(of, 1, seed) for seed in range(SimModel(of).most_together[1])]

    for result, inputs in zip(SimModel(of)(several), several, strict=True):
        mean = inputs["in0"].mean(axis=1, dtype=np.float64)
        assert result["out0"].tolist() == [[mean[0]] * 2]


def test_strange_numbers_stay_with_their_own() -> None:
    """NaN and infinity stay in their inference, and nothing warns."""
    rows = [[1.0, 3.0], [math.nan, 1.0], [math.inf, 1.0], [math.inf, -math.inf], [5.0, 7.0]]
    several = [{"in0": np.array([row], np.float32)} for row in rows]

    found = [float(each["out0"][0, 0]) for each in SimModel(program(2))(several)]

    np.testing.assert_array_equal(found, [2.0, math.nan, math.inf, math.nan, 6.0])


def test_outputs_of_different_inferences_do_not_overlap() -> None:
    """Writing to the outputs of one inference does not change those of another."""
    several: list[Any] = [{"in0": np.full((1, 2), each, np.float32)} for each in (1, 2, 3)]
    first, second, third = (each["out0"] for each in SimModel(program(2))(several))

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
    """One call computes no more than numpy casts in one go: splitting could change the sums."""
    assert SimModel(program(width, batch=batch)).most_together == (most or {1: 1, batch: 1})


def test_keeping_one_output_keeps_little_memory() -> None:
    """The outputs of inferences computed together share a few kilobytes at most."""
    of = Program.of(
        [TensorSpec("x", (1, 2), np.dtype("float32"))],
        [TensorSpec("y", (1, 1000), np.dtype("float32"))],
    )
    model = SimModel(of)
    several: list[Any] = [{"x": np.ones((1, 2), np.float32)}] * model.most_together[1]

    base: Any = model(several)[0]["y"].base

    assert model.most_together == {1: 4}
    assert base.nbytes == 16000


def _outputs(backend: SimBackend, inputs: dict[str, object]) -> dict[str, Any]:
    async def main(executable: Executable) -> Any:
        recorder = Recorder()
        executable.submit(0, inputs, recorder)
        await recorder.wait(1)
        return recorder.results[0]

    outputs: dict[str, Any] = virtually(backend, main)
    return outputs


def test_outputs_hold_the_mean_of_their_row(make: Make) -> None:
    """Each output element of row i is the float64 mean of input row i, in the output's dtype."""
    wanted: dict[str, tuple[list[int], str]] = {
        "flat": ([4], "float64"),
        "cube": ([4, 2, 3], "float32"),
        "half": ([4, 1], "float16"),
        "whole": ([4, 2], "int32"),
        "truth": ([4, 2], "bool"),
    }
    outputs = {name: {"shape": shape, "dtype": dtype} for name, (shape, dtype) in wanted.items()}
    data = np.random.default_rng(1).normal(5, 10, (2, 3)).astype(np.float32)
    mean = data.mean(axis=1, dtype=np.float64)

    result = _outputs(make(outputs=outputs), {"data": data})

    assert list(result) == list(outputs)
    for name, (shape, dtype) in wanted.items():
        column = mean.astype(dtype).reshape(2, *[1] * (len(shape) - 1))
        assert result[name].dtype == dtype
        np.testing.assert_array_equal(result[name], np.broadcast_to(column, (2, *shape[1:])))
        assert result[name].flags.writeable
        assert result[name].base is None


def test_the_mean_is_over_all_inputs_exactly_in_float64(make: Make) -> None:
    """Inputs of any type and shape are added in float64; every element has the same weight."""
    inputs = {
        "big": {"shape": [4, 2], "dtype": "int64"},
        "small": {"shape": [4], "dtype": "float16"},
        "cube": {"shape": [4, 1, 3], "dtype": "bool"},
    }
    outputs = {"mean": {"shape": [4], "dtype": "float64"}}
    sent: dict[str, object] = {
        "big": np.array([[2**40, 1], [-5, 7]]),
        "small": np.array([0.5, -2], np.float16),
        "cube": np.array([[[True, True, False]], [[False, False, False]]]),
    }

    result = _outputs(make(inputs=inputs, outputs=outputs), sent)

    assert result["mean"].tolist() == [(2**40 + 1 + 0.5 + 2) / 6, 0.0]


def test_a_row_does_not_depend_on_the_rest_of_its_batch(make: Make) -> None:
    """A row has bit-identical results alone and in a batch."""
    data = np.random.default_rng(2).random((4, 3)).astype(np.float32)

    together = _outputs(make(), {"data": data})["prob"]
    alone = [_outputs(make(), {"data": data[i : i + 1]})["prob"] for i in range(4)]

    np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint64", "bool"])
def test_strange_numbers_neither_warn_nor_raise(make: Make, dtype: str) -> None:
    """NaN, infinity and overflow pass through any cast without a warning."""
    backend = make(
        inputs={"data": {"shape": [4, 2], "dtype": "float64"}},
        outputs={"out": {"shape": [4, 2], "dtype": dtype}},
    )
    data = np.array([[math.nan, 1], [math.inf, -math.inf], [1e308, 1e308], [1, 3]])

    result = _outputs(backend, {"data": data})

    assert result["out"].dtype == dtype
    assert result["out"][3].tolist() == np.full(2, 2, dtype).tolist()
