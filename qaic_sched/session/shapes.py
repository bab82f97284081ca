"""The shapes of a program as the vendor's Session shows them, and what a Session may be given."""

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
    """A dictionary that can be called, and returns itself.

    The vendor's page shows some of its dictionaries as methods, some as properties, and its users
    take the methods for properties too.
    """

    def __call__(self) -> CallableDict[V]:
        """The same dictionary."""
        return self


ShapeDict: TypeAlias = "CallableDict[tuple[tuple[int, ...], np.dtype[np.generic]]]"
"""Name -> (shape, dtype)."""


def shapes_of(specs: Iterable[TensorSpec]) -> ShapeDict:
    """The shapes and types of inputs or outputs."""
    return CallableDict((spec.name, (spec.shape, spec.dtype)) for spec in specs)


def check_one_inference(program: Program, inputs: object) -> tuple[Tensors, int]:
    """Check inputs and their rows, which must be a compiled batch size; `InputError` if not."""
    tensors, rows = validate(program, inputs)
    if program.is_batched and rows not in program.batch_sizes:
        sizes = ", ".join(map(str, program.batch_sizes))
        raise InputError(
            f"input {program.inputs[0].name!r}: {rows} rows; a Session runs one inference, wanted "
            f"a compiled batch size ({sizes}); qaic_sched.Scheduler takes any number of rows"
        )
    return tensors, rows


def random_inputs(program: Program) -> Tensors:
    """The same random inputs each time, of the largest compiled batch size.

    Integers are 0 or 1, which are valid as pixels, masks and token ids alike.
    """
    rng = np.random.default_rng(0)

    def values(spec: TensorSpec) -> NDArray[np.generic]:
        if spec.dtype.kind in "fc":
            return rng.standard_normal(spec.shape).astype(spec.dtype)
        return rng.integers(0, 2, spec.shape).astype(spec.dtype)

    return {spec.name: values(spec) for spec in program.inputs}
