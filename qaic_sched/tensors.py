"""Tensors of requests and batches: validate, gather, pad and scatter.

Rules of the file:
- A tensor that fits is passed on without a copy; any other is copied once.
- A caller's array is never written to.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

import numpy as np

from qaic_sched.errors import InputError, shown
from qaic_sched.program import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qaic_sched.program import Program, Tensors, TensorSpec

__all__ = [
    "AnswerCheck",
    "BatchBuffer",
    "BatchBuffers",
    "allocate_outputs",
    "check_row_count",
    "copy_rows",
    "gather",
    "validate",
]

_ARRAY: Final = np.ndarray
"""Looked up once: an attribute of a module is slow where a call has few other instructions."""


def validate(program: Program, inputs: object) -> tuple[Tensors, int]:
    """Check the inputs of a request; return the arrays to run and the number of rows.

    The arrays are in the program's order, C-contiguous and of its types; an array that is so
    already is returned itself, not copied. A batched program takes one or more rows of the batch
    axis (see `check_row_count`), any other program exactly its shapes, which count as one row.
    Raises `InputError`, which names the input, what was given and what is wanted.
    """
    given: dict[object, object]
    if type(inputs) is dict:
        given = inputs
    elif isinstance(inputs, Mapping):
        given = _as_dict(inputs)
    else:
        raise InputError(f"inputs: {_describe(inputs)}; wanted a dict of input name to numpy array")
    specs = program.inputs
    if len(given) != len(specs):
        raise _wrong_names(program, given)
    first_fixed = 1 if program.batch_sizes else 0
    rows = 0
    tensors: Tensors = {}
    for spec in specs:
        name, wanted = spec.name, spec.shape
        value = given.get(name)
        if type(value) is not _ARRAY:
            if name not in given:
                raise _wrong_names(program, given)
            value = _as_plain_array(value, spec)
        shape = value.shape
        # An array of a full batch has the wanted shape; one without axes has no rows.
        if shape != wanted and (shape[first_fixed:] != wanted[first_fixed:] or not shape):
            raise _wrong_shape(program, spec, value)
        if first_fixed:
            if not tensors:
                rows = shape[0]
            if shape[0] != rows or not rows:
                raise _wrong_rows(specs[0], rows, spec, shape[0])
        dtype, flags = value.dtype, value.flags
        is_same = dtype is spec.dtype or dtype == spec.dtype
        # Most arrays can be written to as well: then all is said with one flag.
        if not (is_same and (flags.carray or (flags.c_contiguous and flags.aligned))):
            value = _cast(value, spec)
        tensors[name] = value
    return tensors, rows or 1


def check_row_count(program: Program, rows: int) -> None:
    """Raise `InputError` unless a request may have this number of rows of a batched program.

    `validate` leaves this to its caller, as most programs take any number.
    """
    use = program.rows
    fits = use is Rows.ANY or use is Rows.SHARED or rows in program.batch_sizes
    if not (fits or (use is Rows.PADDED and rows < program.batch_sizes[-1])):
        raise InputError(
            f"input {program.inputs[0].name!r}: {rows} rows; wanted {program.row_counts}, because "
            f"this model runs one request per inference: {program.reason}"
        )


def _as_dict(inputs: Mapping[object, object]) -> dict[object, object]:
    try:
        return dict(inputs)
    except Exception as error:
        cause = error
    problem = f"inputs: {_describe(inputs)}, which raises {type(cause).__name__}"
    refusal = InputError(f"{problem}; wanted a dict of input name to numpy array")
    refusal.__cause__ = cause  # compiled, `raise ... from` loses it
    raise refusal


def _as_plain_array(value: object, spec: TensorSpec) -> NDArray[np.generic]:
    # A masked array is refused: the device would compute with the values under the mask.
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise InputError(f"input {spec.name!r}: {_describe(value)}; wanted a numpy array")
    return np.asarray(value)


def _cast(array: NDArray[np.generic], spec: TensorSpec) -> NDArray[np.generic]:
    """Copy to the wanted type, C-contiguous and aligned; a float beyond its range becomes inf."""
    if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
        raise InputError(
            f"input {spec.name!r}: dtype {array.dtype} cannot be cast to {spec.dtype} without "
            f"changing its kind; wanted {spec.dtype}"
        )
    if spec.dtype.kind in "iu" and array.dtype.kind in "iu" and array.size:
        limits = np.iinfo(spec.dtype.str)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise InputError(
                f"input {spec.name!r}: {array.dtype} values from {low} to {high} do not fit "
                f"{spec.dtype}, which holds {limits.min} to {limits.max}"
            )
    with np.errstate(all="ignore"):
        return array.astype(spec.dtype, order="C", copy=True)


def _wrong_names(program: Program, inputs: Mapping[object, object]) -> InputError:
    names = [spec.name for spec in program.inputs]
    extra = [name for name in inputs if name not in names]
    if not extra:
        missing = ", ".join(repr(name) for name in names if name not in inputs)
        return InputError(f"input {missing}: missing; the program takes {_listed(names)}")
    name = extra[0]
    near = get_close_matches(name, names, n=1) if isinstance(name, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return InputError(f"input {shown(name)}: unknown; the program takes {_listed(names)}{hint}")


def _wrong_shape(program: Program, spec: TensorSpec, array: NDArray[np.generic]) -> InputError:
    wanted = [str(size) for size in spec.shape]
    if program.is_batched:
        wanted[0] = "rows"
    return InputError(
        f"input {spec.name!r}: shape {array.shape}; wanted ({', '.join(wanted)}) of {spec.dtype}"
    )


def _wrong_rows(first: TensorSpec, rows: int, spec: TensorSpec, found: int) -> InputError:
    if not rows:
        return InputError(f"input {first.name!r}: no rows; wanted at least one")
    return InputError(
        f"input {spec.name!r}: {found} rows, but input {first.name!r} has {rows}; wanted the same "
        f"number in every input"
    )


def _describe(value: object) -> str:
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"got {module}{kind.__qualname__}"


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names)) or "no inputs"


class BatchBuffer(dict[str, "NDArray[np.generic]"]):
    """Input arrays of one compiled batch size."""

    def __init__(self, program: Program, size: int) -> None:
        super().__init__(
            (spec.name, np.empty((size, *spec.shape[1:]), spec.dtype)) for spec in program.inputs
        )


class BatchBuffers:
    """Reusable input buffers of a batched program, with a free list per compiled batch size.

    Not thread-safe. A buffer may be dropped instead of given back.
    """

    __slots__ = ("_free", "_program")

    def __init__(self, program: Program) -> None:
        self._program = program
        self._free: dict[int, list[BatchBuffer]] = {size: [] for size in program.batch_sizes}

    def take(self, size: int) -> BatchBuffer:
        """Return a free buffer of a compiled batch size."""
        free = self._free[size]
        return free.pop() if free else BatchBuffer(self._program, size)

    def give_back(self, size: int, buffer: BatchBuffer) -> None:
        """Let the buffer be taken again; the device must have answered."""
        self._free[size].append(buffer)


def gather(buffer: BatchBuffer, parts: Sequence[tuple[Tensors, int, int]]) -> None:
    """Copy parts, each (source, first row, rows), into a buffer in order; pad it.

    The padding repeats the last row: rows of any other values, zeros included, may make the
    inference fail.
    """
    end = sum(rows for _, _, rows in parts)
    for name, target in buffer.items():
        # One call for all parts: numpy costs per call and per slice.
        arrays = [
            array if len(array := source[name]) == rows else array[offset : offset + rows]
            for source, offset, rows in parts
        ]
        np.concatenate(arrays, out=target[:end])
        if end < len(target):
            target[end:] = target[end - 1]


class _Promise:
    """Name, shape and type of an output; None for any shape."""

    __slots__ = ("dtype", "name", "shape")

    def __init__(self, spec: TensorSpec, rows: int | None) -> None:
        self.name = spec.name
        is_known = rows is not None and -1 not in spec.shape[1:]
        self.shape = (rows, *spec.shape[1:]) if is_known else None
        self.dtype = spec.dtype

    def __str__(self) -> str:
        if self.shape is None:
            return f"an array of {self.dtype}"
        return f"shape {self.shape} of {self.dtype}"


class AnswerCheck:
    """Compares answers of devices with the outputs that the program promises.

    A program whose outputs are cut into those of requests, or from those of padding, promises the
    shape of each. Any other runs one request per inference, whose outputs may have any shape.
    """

    __slots__ = ("_program", "_promised")

    def __init__(self, program: Program) -> None:
        self._program = program
        self._promised: dict[int, list[_Promise]] = {}

    def problem(self, answer: object, rows: int) -> str | None:
        """Say what is wrong with the answer of an inference of `rows` rows; None if nothing is."""
        promised = self._promised.get(rows)
        if promised is None:
            promised = self._promise(rows)
        if not isinstance(answer, dict):
            return f"its answer is no dict of outputs: {_describe(answer)}"
        if len(answer) != len(promised):
            return _broken_promise(promised, answer)
        for promise in promised:
            array = answer.get(promise.name)
            if type(array) is not _ARRAY and not isinstance(array, np.ndarray):
                return _broken_promise(promised, answer)
            dtype, shape = array.dtype, promise.shape
            if (dtype is not promise.dtype and dtype != promise.dtype) or (
                shape is not None and array.shape != shape
            ):
                return _broken_promise(promised, answer)
        return None

    def _promise(self, rows: int) -> list[_Promise]:
        program = self._program
        given = rows if program.keeps_shapes and program.cuts_outputs else None
        promised = [_Promise(spec, given) for spec in program.outputs]
        if rows in program.batch_sizes or not program.is_batched:
            self._promised[rows] = promised  # other numbers of rows are without bound
        return promised


def _broken_promise(promised: Sequence[_Promise], answer: dict[object, object]) -> str:
    for promise in promised:
        name, array = promise.name, answer.get(promise.name)
        if name not in answer:
            return f"output {name!r}: missing; the program promises {promise}"
        if not isinstance(array, np.ndarray):
            return f"output {name!r}: {_describe(array)}; the program promises {promise}"
        is_of_shape = promise.shape is None or array.shape == promise.shape
        if array.dtype != promise.dtype or not is_of_shape:
            found = f"shape {array.shape} of {array.dtype}"
            return f"output {name!r}: got {found}; the program promises {promise}"
    names = [promise.name for promise in promised]
    extra = next(name for name in answer if name not in names)
    return f"output {shown(extra)}: unknown; the program promises {_listed(names)}"


def allocate_outputs(program: Program, rows: int) -> Tensors:
    """Return uninitialized output arrays of a batched program for `rows` rows."""
    return {spec.name: np.empty((rows, *spec.shape[1:]), spec.dtype) for spec in program.outputs}


def copy_rows(
    source: Tensors, source_offset: int, target: Tensors, target_offset: int, rows: int
) -> None:
    """Copy `rows` rows into every tensor of `target` from the one of its name in `source`."""
    source_end, target_end = source_offset + rows, target_offset + rows
    for name, array in target.items():
        # A whole array needs no slice, which costs about as much as the copy of a few rows.
        copied = source[name]
        if len(copied) != rows:
            copied = copied[source_offset:source_end]
        array[target_offset:target_end] = copied
