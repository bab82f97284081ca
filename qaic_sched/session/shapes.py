"""The shapes of a program, as the vendor's Session shows them, and the inputs of a Session."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from qaic_sched.errors import InputError
from qaic_sched.tensors import validate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from qaic_sched.program import Program, Tensors, TensorSpec

__all__ = ["CallableDict", "ShapeDict", "check_one_inference", "random_inputs", "shapes_of"]

V = TypeVar("V")


class CallableDict(dict[str, V]):
    """A dictionary that returns itself when called.

    The vendor's page shows some of its dictionaries as methods and some as properties, and its
    users use the methods as properties.
    """

    def __call__(self) -> CallableDict[V]:
        """Return this dictionary."""
        return self


ShapeDict: TypeAlias = "CallableDict[tuple[tuple[int, ...], np.dtype[np.generic]]]"
"""Name -> (shape, dtype)."""


def shapes_of(specs: Iterable[TensorSpec]) -> ShapeDict:
    """The shapes and dtypes of inputs or outputs."""
    return CallableDict((spec.name, (spec.shape, spec.dtype)) for spec in specs)


def check_one_inference(program: Program, inputs: object) -> tuple[Tensors, int]:
    """Check the inputs of one inference, whose rows must be a compiled batch size."""
    tensors, rows = validate(program, inputs)
    if program.is_batched and rows not in program.batch_sizes:
        sizes = ", ".join(map(str, program.batch_sizes))
        raise InputError(
            f"input {program.inputs[0].name!r}: got {rows} rows; a Session runs one inference of a "
            f"compiled batch size ({sizes}); qaic_sched.Scheduler takes any number of rows"
        )
    return tensors, rows


def random_inputs(program: Program) -> Tensors:
    """Random inputs of the largest compiled batch size; every call returns equal ones.

    Integers are 0 or 1, which are valid as pixels, masks and token ids.
    """
    rng = np.random.default_rng(0)

    def values(spec: TensorSpec) -> NDArray[np.generic]:
        if spec.dtype.kind in "fc":
            return rng.standard_normal(spec.shape).astype(spec.dtype)
        return rng.integers(0, 2, spec.shape).astype(spec.dtype)

    return {spec.name: values(spec) for spec in program.inputs}
