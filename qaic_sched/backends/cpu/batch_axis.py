"""Which axis of an ONNX model counts the rows of a request, as far as its description says.

Rules of this file:
- Where inputs have symbols, axis 0 is the batch axis only if it has one and the same symbol in
  every input, and no other axis has that. Symbols that exporters made up may differ.
- Where they have none, axis 0 is taken for the batch axis if it has the same size in every input
  and output. A trial has to show whether it is.
- An output that does not have that symbol or size on axis 0 comes with the shape that it has: then
  requests share no inference.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from qaic_sched.program import Program, Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qaic_sched.program import TensorSpec

__all__ = ["BatchAxis"]

MADE_UP = re.compile(r"unk__\d+|(.*\.)?DynamicDimension\.\d+|.*_dim_\d+|dynamic_axes_\d+|s\d+|\?")
"""Symbols that exporters make up: each is a new one, though the sizes may always be equal."""


class BatchAxis(NamedTuple):
    """The batch axis of a model."""

    symbols: tuple[str, ...]
    """The symbols of the axis; empty if it has a fixed size, or if there is none."""
    size: int | None
    """Its size; None if there is no batch axis."""
    reason: str
    """Why there is none, or why requests share no inference; empty if they might."""

    @classmethod
    def of(
        cls,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        input_specs: Sequence[TensorSpec],
        output_specs: Sequence[TensorSpec],
    ) -> BatchAxis:
        """Find it from ONNX Runtime's descriptions, and from the specs that they led to."""
        if not inputs:
            return cls((), None, "it has no inputs")
        firsts = {value.name: value.shape[0] if value.shape else None for value in inputs}
        sizes = {spec.shape[0] if spec.shape else None for spec in input_specs}
        size = sizes.pop() if len(sizes) == 1 else None
        symbols = {each for value in inputs for each in value.shape if isinstance(each, str)}
        if not symbols:
            outsiders = [spec for spec in output_specs if spec.shape[:1] != (size,)]
            if size and not outsiders:
                return cls((), size, "")
            return cls((), None, "inputs and outputs share no first dimension")
        names = {each for each in firsts.values() if isinstance(each, str)}
        for name, first in firsts.items():
            if not isinstance(first, str):
                what = "no axes" if first is None else f"the fixed size {first} on axis 0"
                return cls((), None, f"input {name!r} has {what}, and other axes have symbols")
        if size is None or (len(names) > 1 and not all(map(MADE_UP.fullmatch, names))):
            listed = ", ".join(sorted(names))
            return cls((), None, f"the inputs have different symbols on axis 0: {listed}")
        for value in (*inputs, *outputs):
            again = names.intersection(value.shape[1:])
            if again:
                return cls((), None, f"{value.name!r} has the symbol {again.pop()} on another axis")
        found = tuple(sorted(names))
        for value, spec in zip(outputs, output_specs, strict=True):
            first = value.shape[0] if value.shape else None
            is_open = not isinstance(first, int) and first not in symbols
            follows = first in names or (is_open and spec.shape[:1] == (size,))
            if not follows:
                return cls(found, size, f"output {spec.name!r} does not follow the batch axis")
        return cls(found, size, "")

    def program(
        self, input_specs: Sequence[TensorSpec], output_specs: Sequence[TensorSpec]
    ) -> Program:
        """The program with this batch axis."""
        batch_sizes = () if self.size is None else (self.size,)
        program = Program.of(input_specs, output_specs, batch_sizes)
        if self.reason:
            return program.using(Rows.ANY, self.reason, keeps_shapes=False)
        return program
