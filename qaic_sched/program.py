"""The inputs, outputs and batch sizes of a compiled model. Knows nothing of devices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Program", "Rows", "TensorSpec", "Tensors"]

Tensors: TypeAlias = "dict[str, NDArray[Any]]"
"""Input or output name -> array."""


class Rows(Enum):
    """How requests use the batch axis of a program."""

    SHARED = "shared"
    """Rows of several requests share an inference, and a request may be split."""
    PADDED = "padded"
    """One request per inference, padded up to a compiled batch size."""
    EXACT = "exact"
    """One request per inference, with exactly a compiled batch size of rows."""
    ANY = "any"
    """One request per inference, with any number of rows and no padding."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: name, shape at the largest compiled batch size, and type.

    A dimension of an output that is not known is -1.
    """

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
    rows: Rows = Rows.SHARED
    """How requests use the batch axis; without meaning if there is none."""
    keeps_shapes: bool = True
    """Whether the outputs have the shapes given here; if not, they are passed on as they come, and
    requests never share an inference."""
    reason: str = "not examined"
    """Why they use it in this way, or why there is no batch axis, as a sentence for people."""

    @classmethod
    def of(
        cls,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        batch_sizes: Sequence[int] | None = None,
    ) -> Program:
        """Make a program; `batch_sizes` defaults to the common first dimension, if there is one.

        A program without inputs has no batch axis, whatever its outputs look like.
        """
        if batch_sizes is None:
            firsts = {spec.shape[0] if spec.shape else None for spec in (*inputs, *outputs)}
            first = firsts.pop() if len(firsts) == 1 and inputs else None
            batch_sizes = (first,) if first else ()
        reason = "not examined" if batch_sizes else "inputs and outputs share no first dimension"
        return cls(tuple(inputs), tuple(outputs), tuple(sorted(batch_sizes)), reason=reason)

    def using(self, rows: Rows, reason: str, *, keeps_shapes: bool = True) -> Program:
        """Return the same program with another use of its batch axis."""
        return replace(self, rows=rows, reason=reason, keeps_shapes=keeps_shapes)

    @property
    def is_batched(self) -> bool:
        """True if axis 0 of every input is the batch axis: it counts the rows of a request."""
        return bool(self.batch_sizes)

    @property
    def shares_rows(self) -> bool:
        """True if rows of several requests may share an inference, and a request may be split."""
        return self.is_batched and self.rows is Rows.SHARED

    @property
    def cuts_outputs(self) -> bool:
        """True if the outputs of an inference are not always those of one request as they come."""
        return self.is_batched and self.rows in (Rows.SHARED, Rows.PADDED)

    @property
    def bytes_per_sample(self) -> int:
        """Bytes of all inputs of one sample."""
        size = sum(spec.dtype.itemsize * prod(spec.shape) for spec in self.inputs)
        return size // self.max_batch_size

    @property
    def samples_each(self) -> int | None:
        """Samples of an inference that a request fills by itself; None if requests share one."""
        return self.max_batch_size if self.is_batched and not self.shares_rows else None

    @property
    def limits_rows(self) -> bool:
        """True if a request may not have any number of rows, as `row_counts` says."""
        return self.is_batched and self.rows in (Rows.PADDED, Rows.EXACT)

    @property
    def row_counts(self) -> str:
        """The numbers of rows that a request may have, in words."""
        sizes = self.batch_sizes
        if not sizes:
            return "exactly the shapes of the inputs"
        if self.rows is Rows.EXACT:
            return " or ".join(map(str, sizes))
        if self.rows is Rows.PADDED:
            return f"1 to {sizes[-1]}" if sizes[-1] > 1 else "1"
        return "1 or more"

    @property
    def rows_report(self) -> dict[str, str]:
        """How requests use the batch axis and why, fit for JSON."""
        mode = self.rows.value if self.is_batched else "unbatched"
        return {"mode": mode, "row_counts": self.row_counts, "reason": self.reason}

    @property
    def max_batch_size(self) -> int:
        """The largest compiled batch size; 1 without a batch axis."""
        return self.batch_sizes[-1] if self.batch_sizes else 1
