"""What a compiled model takes and gives, and in which batch sizes. Knows nothing of devices."""

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
    """One input or output: its shape at the largest compiled batch size, and its type."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled model: inputs, outputs and the batch sizes that it was compiled for.

    `batch_sizes` ascends; the last is the first dimension of every input and output.
    It is empty where they have no common first dimension: such a model runs one request at a time.
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
        """Describe a program; `batch_sizes` defaults to the one that the shapes share, if any."""
        if batch_sizes is None:
            firsts = {spec.shape[0] if spec.shape else None for spec in (*inputs, *outputs)}
            first = firsts.pop() if len(firsts) == 1 else None
            batch_sizes = () if first is None else (first,)
        return cls(tuple(inputs), tuple(outputs), tuple(sorted(batch_sizes)))

    @property
    def is_batched(self) -> bool:
        """Whether requests can share an inference."""
        return bool(self.batch_sizes)

    @property
    def max_batch_size(self) -> int:
        """Most samples in one inference; 1 where requests cannot share one."""
        return self.batch_sizes[-1] if self.batch_sizes else 1
