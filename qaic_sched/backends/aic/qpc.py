"""Reads a QPC, the vendor's compiled model: its inputs, its outputs and the order of its buffers.

Rules of the file:
- The index of a buffer is its place in the list that an inference takes, and in the shapes of each
  specialization. Assumption (not verified on hardware): the two orders are the same.
- Several batch sizes need specializations, which must differ in nothing but the batch size.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qaic_sched.backends.aic.status import name_of
from qaic_sched.errors import ConfigError
from qaic_sched.program import Program, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qaic_sched.backends.aic.sdk import Sdk

__all__ = ["Binding", "QpcFile", "read_qpc"]

OP_STATISTICS = "aiccyclecounts"
"""An output of cycle counts that some QPCs have besides those of the model."""
DTYPES: dict[str, np.dtype[np.generic]] = {
    "FLOAT_TYPE": np.dtype(np.float32),
    "FLOAT_16_TYPE": np.dtype(np.float16),
    "INT8_Q_TYPE": np.dtype(np.int8),
    "UINT8_Q_TYPE": np.dtype(np.uint8),
    "INT16_Q_TYPE": np.dtype(np.int16),
    "INT32_Q_TYPE": np.dtype(np.int32),
    "INT32_I_TYPE": np.dtype(np.int32),
    "INT64_I_TYPE": np.dtype(np.int64),
    "INT8_TYPE": np.dtype(np.int8),
}
"""Type name in the description -> numpy dtype; quantized values appear as stored."""


@dataclass(frozen=True, slots=True)
class Binding:
    """One buffer of an inference.

    `spec` is None if the buffer is not a tensor of the model; `size` is in bytes, at the largest
    batch size.
    """

    is_input: bool
    size: int
    spec: TensorSpec | None


@dataclass(frozen=True, slots=True)
class QpcFile:
    """A QPC that was read: the vendor's object, which every device loads from, and its contents.

    `dimensions` maps each batch size to what selects its specialization: (bytes per element,
    shape) of each buffer. It is empty for a QPC without specializations.
    """

    qpc: Any
    program: Program
    bindings: tuple[Binding, ...]
    dimensions: dict[int, list[tuple[int, list[int]]]]

    def size_of(self, binding: Binding, rows: int) -> int:
        """Bytes of a buffer in an inference of `rows` rows."""
        if binding.spec is None or not self.dimensions:
            return binding.size
        return binding.size * rows // self.program.max_batch_size


def read_qpc(sdk: Sdk, path: str) -> QpcFile:
    """Read the QPC at `path`; `ConfigError` if the file is not a QPC. Blocks."""
    try:
        # Assumption (not verified on hardware): the file in the folder need not be called
        # programqpc.bin.
        qpc = sdk.runtime.Qpc(str(Path(path).parent))
        status, data = qpc.getIoDescriptor()
        if status != sdk.runtime.QStatus.QS_SUCCESS:
            raise ConfigError(
                f"model {path}: its description cannot be read ({name_of(status)}): compile it"
                " again"
            )
        description = sdk.api.IoDesc()
        description.ParseFromString(bytes(data))
        mappings = qpc.getBufferMappings()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"model {path}: truncated, or not compiled for cards: {error}: compile it again"
        ) from error
    return _Reader(sdk, path, description, mappings).read(qpc)


class _Reader:
    """Converts the vendor's description of one QPC to a `QpcFile`."""

    def __init__(self, sdk: Sdk, path: str, description: Any, mappings: Any) -> None:
        self.path = path
        self.bindings = sorted(description.selected_set.bindings, key=lambda each: each.index)
        self.shapes = [list(allowed.shapes) for allowed in description.allowed_shapes]
        self.sizes = {mapping.bufferName: mapping.size for mapping in mappings}
        self.input_direction = sdk.api.BUFFER_IO_TYPE_INPUT
        self.dtypes = {
            getattr(sdk.api, name): dtype
            for name, dtype in DTYPES.items()
            if hasattr(sdk.api, name)
        }

    def read(self, qpc: Any) -> QpcFile:
        """Convert the description; `ConfigError` names the part that cannot run."""
        tensors = [each for each in self.bindings if each.name != OP_STATISTICS]
        if not tensors:
            raise self.error("it has neither inputs nor outputs: compile it again")
        specs = {each.name: self.spec(each) for each in tensors}
        dimensions: dict[int, list[tuple[int, list[int]]]] = {}
        if len(self.shapes) > 1:
            dimensions = self.specializations(tensors)
            largest = dimensions[max(dimensions)]
            for each in tensors:
                shape = tuple(largest[each.index][1])
                specs[each.name] = TensorSpec(each.name, shape, specs[each.name].dtype)
        inputs = [specs[each.name] for each in tensors if self.is_input(each)]
        outputs = [specs[each.name] for each in tensors if not self.is_input(each)]
        is_flat = not all(list(each.dims) for each in tensors)
        batch_sizes = () if is_flat else sorted(dimensions) or None
        program = Program.of(inputs, outputs, batch_sizes)
        bindings = tuple(self.binding(each, specs.get(each.name)) for each in self.bindings)
        return QpcFile(qpc, program, bindings, dimensions)

    def is_input(self, binding: Any) -> bool:
        """Whether the host writes the buffer."""
        return bool(binding.dir == self.input_direction)

    def spec(self, binding: Any) -> TensorSpec:
        """The tensor of a binding, with the shape of the selected set."""
        dtype = self.dtype(binding)
        # Assumption (not verified on hardware): where a description has no shapes, the buffer size
        # is all there is to know, and such a program runs one request per inference.
        shape = tuple(binding.dims) or (self.sizes[binding.name] // dtype.itemsize,)
        return TensorSpec(binding.name, shape, dtype)

    def dtype(self, typed: Any) -> np.dtype[np.generic]:
        """The dtype of a binding, or of its shape in a specialization."""
        if typed.type not in self.dtypes:
            raise self.error(
                f"numpy has no dtype for type {typed.type} of QAicApi_pb2: compile it with another"
            )
        return self.dtypes[typed.type]

    def binding(self, binding: Any, spec: TensorSpec | None) -> Binding:
        """A buffer; if it is not a tensor, its size comes from the buffer mapping."""
        size = self.sizes[binding.name] if spec is None else prod(spec.shape) * spec.dtype.itemsize
        return Binding(self.is_input(binding), size, spec)

    def specializations(self, tensors: Sequence[Any]) -> dict[int, list[tuple[int, list[int]]]]:
        """Batch size -> dimensions of every buffer."""
        found: dict[int, list[tuple[int, list[int]]]] = {}
        rests: set[tuple[tuple[int, ...], ...]] = set()
        for shapes in self.shapes:
            firsts = {tuple(shapes[each.index].dims)[:1] for each in tensors}
            rests.add(tuple(tuple(shapes[each.index].dims)[1:] for each in tensors))
            first = firsts.pop()
            if firsts or not first or len(rests) > 1:
                raise self.error(
                    "its specializations differ in more than the batch size, the first dimension"
                    " of every input and output: compile one shape for each batch size"
                )
            found[first[0]] = [(self.dtype(shape).itemsize, list(shape.dims)) for shape in shapes]
        return found

    def error(self, problem: str) -> ConfigError:
        """An error that names this QPC."""
        return ConfigError(f"model {self.path}: {problem}")
