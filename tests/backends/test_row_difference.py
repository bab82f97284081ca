"""How far two results of one row differ, and how far they may."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qaic_sched.backends.row_difference import difference_of, eps_of, has_numbers, tolerance_of

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [1.0, 2.5], 0.25),
        ([0.0, 0.0], [0.0, 1e-9], INF),
        ([NAN, INF], [NAN, INF], 0.0),
        ([NAN, 1.0], [2.0, 1.0], NAN),
        ([INF, 1.0], [2.0, 1.0], INF),
        ([INF, 1.0], [-INF, 1.0], INF),
        ([], [], 0.0),
    ],
)
def test_a_difference_is_relative_to_the_largest_value(
    one: list[float], other: list[float], difference: float
) -> None:
    """What is not a number must not be one in both."""
    found = difference_of(np.array(one), np.array(other), 0.0)
    assert found == difference or (np.isnan(difference) and not found <= 1e9)


def test_integers_are_equal_or_not() -> None:
    """Even those that are equal as floats."""
    large = np.array([2**62, 1])
    assert difference_of(large, large.copy(), 1.0) == 0.0
    assert difference_of(large, large + 1, 1.0) == INF
    assert difference_of(np.array([True]), np.array([False]), 0.0) == 1.0


def test_differences_below_the_floor_count_for_nothing() -> None:
    """A probability of 1e-9 has no digits if it was computed as 1 - x."""
    one, other = np.array([1e-9]), np.array([3e-9])
    assert difference_of(one, other, 1e-7) == 0.0
    assert difference_of(one, other, 0.0) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("dtype", "is_fp16", "tolerance"),
    [
        ("f2", False, 1e-2),
        ("f4", False, 1e-4),
        ("f8", False, 1e-6),
        ("f4", True, 1e-2),
        ("i4", True, 0),
    ],
)
def test_the_tolerance_is_that_of_what_is_computed_in(
    dtype: Any, is_fp16: bool, tolerance: float
) -> None:
    """Integers have none."""
    assert tolerance_of(np.dtype(dtype), is_fp16=is_fp16) == tolerance


def test_the_smallest_step_of_a_type() -> None:
    """Integers have none."""
    assert eps_of(np.dtype("f4")) == pytest.approx(1.19e-7, rel=0.01)
    assert eps_of(np.dtype("i4")) == 0.0


def test_outputs_without_numbers() -> None:
    """Each output must have a finite value, unless it is empty."""
    assert has_numbers({"y": np.array([NAN, 1.0]), "z": np.array([])})
    assert not has_numbers({"y": np.array([1.0]), "z": np.array([INF, NAN])})
