"""Values to try a program with that nobody else has used yet.

Rules of this file:
- Integers are never 0: a division by zero kills the whole process in some runtimes.
- Benign values come first. What a model takes for a size is small then, so that an output whose
  shape follows from it is noticed before it needs all memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from qaic_sched.program import Tensors, TensorSpec

__all__ = ["constant_values", "random_values", "simple_values", "sparse_values"]


def simple_values(specs: Sequence[TensorSpec]) -> Iterator[Tensors]:
    """Yield a few kinds of inputs: a model that rejects one of them may accept another."""
    yield constant_values(specs, 1)
    yield constant_values(specs, 2)
    random = np.random.default_rng(0)
    yield random_values(random, specs, {spec.name: 1 for spec in specs})
    yield random_values(random, specs, {spec.name: 2 for spec in specs})
    # The last entry of a table, however short: 1 is no index into a table of one.
    yield constant_values(specs, -1)
    zeros = constant_values(specs, 1)
    for spec in specs:
        if spec.dtype.kind not in "iu":
            zeros[spec.name] = np.zeros(spec.shape, spec.dtype)
    yield zeros


def constant_values(specs: Sequence[TensorSpec], value: int) -> Tensors:
    """Return inputs full of one number; booleans are True for odd ones, and 1 where none fits."""
    tensors: Tensors = {}
    for spec in specs:
        fits = value > 0 or spec.dtype.kind != "u"
        number = value % 2 if spec.dtype.kind == "b" else value if fits else 1
        tensors[spec.name] = np.full(spec.shape, number, spec.dtype)
    return tensors


def random_values(
    random: np.random.Generator,
    specs: Sequence[TensorSpec],
    largest: Mapping[str, int],
    factor: float = 1.0,
    *,
    is_positive: bool = False,
) -> Tensors:
    """Return random inputs: normal numbers times `factor`, integers from 1 to `largest`, booleans.

    With `is_positive`, numbers are from half of `factor` to one and a half of it.
    """
    return {
        spec.name: _random(random, spec, largest.get(spec.name, 1), factor, is_positive)
        for spec in specs
    }


def sparse_values(
    random: np.random.Generator, specs: Sequence[TensorSpec], largest: Mapping[str, int]
) -> Tensors:
    """Return random inputs of whose numbers, integers excepted, most are 0."""
    tensors = random_values(random, specs, largest)
    for spec in specs:
        if spec.dtype.kind == "f":
            tensors[spec.name] *= (random.random(spec.shape) < 0.3).astype(spec.dtype)
    return tensors


def _random(
    random: np.random.Generator, spec: TensorSpec, largest: int, factor: float, is_positive: bool
) -> NDArray[np.generic]:
    if spec.dtype.kind in "iu":
        return random.integers(1, largest, spec.shape, endpoint=True).astype(spec.dtype)
    if spec.dtype.kind == "b":
        return random.integers(0, 1, spec.shape, endpoint=True).astype(spec.dtype)
    numbers = random.random(spec.shape) + 0.5 if is_positive else random.standard_normal(spec.shape)
    return (factor * numbers).astype(spec.dtype)
