"""The inputs, outputs and batch sizes of a compiled model. Knows nothing of devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Program", "TensorSpec", "Tensors"]

Tensors: TypeAlias = "dict[str, NDArray[Any]]"
"""Input or output name -> array."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: name, shape at the largest compiled batch size, and type."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


@dataclass(frozen=True, slots=True)
class Program:
    """The inputs and outputs of a compiled model, and the batch sizes it was compiled for.

    `batch_sizes` is in ascending order; the largest is the first dimension of every input and
    output. It is empty if they have no common first dimension: then each request is an inference.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_sizes: tuple[int, ...]

    @classmethod
    def of(
        cls,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        batch_sizes: Sequence[int] | None = None,
    ) -> Program:
        """Make a program; `batch_sizes` defaults to the common first dimension, if there is one."""
        if batch_sizes is None:
            firsts = {spec.shape[0] if spec.shape else None for spec in (*inputs, *outputs)}
            first = firsts.pop() if len(firsts) == 1 else None
            batch_sizes = () if first is None else (first,)
        return cls(tuple(inputs), tuple(outputs), tuple(sorted(batch_sizes)))

    @property
    def is_batched(self) -> bool:
        """True if requests can share an inference."""
        return bool(self.batch_sizes)

    @property
    def max_batch_size(self) -> int:
        """The most samples in one inference; 1 if requests cannot share one."""
        return self.batch_sizes[-1] if self.batch_sizes else 1
