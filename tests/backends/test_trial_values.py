"""Values that programs are tried with."""

from __future__ import annotations

import numpy as np

from qaic_sched.backends.trial_values import (
    constant_values,
    random_values,
    simple_values,
    sparse_values,
)
from qaic_sched.program import TensorSpec

SPECS = [
    TensorSpec(name, (4, 50), np.dtype(name)) for name in ("float32", "int64", "uint8", "bool")
]


def test_no_integer_is_ever_zero() -> None:
    """A division by zero ends the process in some runtimes."""
    random = np.random.default_rng(0)
    drawn = [*simple_values(SPECS), sparse_values(random, SPECS, {"int64": 3, "uint8": 2})]
    for values in drawn:
        assert (values["int64"] != 0).all()
        assert (values["uint8"] != 0).all()


def test_values_fit_their_inputs() -> None:
    """Shapes and types are those of the inputs, in every kind of values."""
    for values in simple_values(SPECS):
        for spec in SPECS:
            assert (values[spec.name].shape, values[spec.name].dtype) == (spec.shape, spec.dtype)


def test_the_first_values_are_the_most_benign() -> None:
    """Ones, then twos; what is a size stays small."""
    first, second, *_ = simple_values(SPECS)
    assert {float(first[name].max()) for name in ("float32", "int64", "uint8")} == {1.0}
    assert {float(second[name].max()) for name in ("float32", "int64", "uint8")} == {2.0}
    assert constant_values(SPECS, -1)["uint8"].min() == 1


def test_integers_stay_in_the_range_of_their_input() -> None:
    """Each input has its own; one without stays at 1."""
    values = random_values(np.random.default_rng(0), SPECS, {"int64": 30}, 2.0, is_positive=True)
    assert 20 < values["int64"].max() <= 30
    assert values["uint8"].max() == 1
    assert values["float32"].min() >= 1.0


def test_sparse_numbers_are_mostly_zero() -> None:
    """Outputs that leave zeros out show then that their size depends on values."""
    values = sparse_values(np.random.default_rng(0), SPECS, {})
    assert 0.1 < (values["float32"] != 0).mean() < 0.5
