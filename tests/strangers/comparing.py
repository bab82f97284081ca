"""How near two answers must be: the same sums in another order are not the same bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["assert_near", "range_of", "tolerance"]

TOLERANCES = {"float16": 2e-3, "float32": 1e-4, "float64": 1e-7}


def tolerance(dtype: np.dtype[Any]) -> float:
    """The difference allowed for a type, as a share of the output's range; 0 for integers."""
    return TOLERANCES.get(dtype.name, 0.0)


def range_of(array: NDArray[Any]) -> float:
    """The largest finite magnitude, 0 where there is none."""
    with np.errstate(all="ignore"):
        magnitudes = np.abs(np.asarray(array, np.complex128))
    return float(np.max(magnitudes, initial=0.0, where=np.isfinite(magnitudes)))


def assert_near(found: Mapping[str, Any], expected: Mapping[str, Any], factor: float = 1.0) -> None:
    """Fail unless all outputs agree in name, shape, type and values, within `factor` tolerances."""
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        one = found[name]
        assert (one.shape, one.dtype) == (wanted.shape, wanted.dtype), name
        limit = factor * tolerance(wanted.dtype)
        # What is computed as 1 - x, or by a sigmoid, has no digits below those of 1.
        floor = factor * float(np.finfo(wanted.dtype).eps) if limit else 0.0
        atol = limit * range_of(wanted) + floor
        np.testing.assert_allclose(one, wanted, limit, atol, err_msg=name)
