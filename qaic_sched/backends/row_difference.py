"""How far two results of one row differ, and how far they may."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qaic_sched.program import Tensors

__all__ = ["difference_of", "eps_of", "has_numbers", "tolerance_of"]

_TOLERANCE: Final = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-6}
"""Largest difference between two results of one row, relative to the row's largest value.

Integers and booleans must be equal.
"""


def tolerance_of(dtype: np.dtype[np.generic], *, is_fp16: bool) -> float:
    """The largest difference of two results of a type, relative to the row's largest value."""
    tolerance = _TOLERANCE.get(dtype.name, 0.0)
    return max(tolerance, _TOLERANCE["float16"]) if tolerance and is_fp16 else tolerance


def has_numbers(outputs: Tensors) -> bool:
    """Whether every output has a finite value, or none at all."""
    return all(bool(np.isfinite(rows).any()) or not rows.size for rows in outputs.values())


def eps_of(dtype: np.dtype[np.generic]) -> float:
    """The distance from 1 to the next number of a type; 0 for integers."""
    return float(np.finfo(dtype.name).eps) if dtype.kind == "f" else 0.0


def difference_of(one: NDArray[np.generic], other: NDArray[np.generic], floor: float) -> float:
    """The largest difference of two results, relative to the largest value of the first.

    0 if it is not above `floor`.
    """
    ours, theirs = one.astype(np.float64), other.astype(np.float64)
    if np.array_equal(one, other):
        return 0.0  # large integers may be equal as floats only
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        gaps = np.abs(ours - theirs)
    gap = float(np.max(gaps, initial=0.0, where=~same))
    if gap <= floor:
        return 0.0 if one.dtype.kind == "f" else float("inf")
    largest = float(np.max(np.abs(ours), initial=0.0, where=np.isfinite(ours)))
    return gap / largest if largest > 0 else float("inf")
