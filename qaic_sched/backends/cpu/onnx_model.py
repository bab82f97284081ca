"""Reads the inputs and outputs of an ONNX model, and opens it, through ONNX Runtime."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import numpy as np

from qaic_sched.backends.cpu.batch_axis import BatchAxis
from qaic_sched.backends.trial_values import simple_values
from qaic_sched.errors import ConfigError
from qaic_sched.extras import require
from qaic_sched.program import Program, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ModelReader", "first_line", "import_onnxruntime", "is_invalid_argument", "open_model"]

FATAL = 4
"""The only severity that ONNX Runtime may print: it also raises its errors, which we pass on."""

NUMBERS = "float16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool"
DTYPES: dict[str, np.dtype[np.generic]] = {
    **{f"tensor({name})": np.dtype(name) for name in NUMBERS.split()},
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
}
"""ONNX Runtime's name of a type -> numpy dtype."""


class ModelReader:
    """Reads the description of the model in an ONNX file.

    `sizes` maps the symbols of the model's dimensions to their sizes.
    """

    def __init__(self, path: str, sizes: Mapping[str, int]) -> None:
        self.path = path
        self.sizes = sizes
        self.axis = BatchAxis((), None, "not read yet")
        """The batch axis; known once the model is read."""
        self.has_open_outputs = True
        """Whether the description of an output leaves a size open; known once it is read."""

    def read(self, num_threads: int) -> Program:
        """Describe the model; `ConfigError` if it cannot run, or not with these sizes."""
        session = self.open(num_threads)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        self.check_values(inputs, outputs)
        self.check_sizes(inputs, outputs)
        self.has_open_outputs = not _tells_all(outputs)
        input_specs = specs_of(inputs, [self.sized(value.shape) for value in inputs])
        # An output of unknown rank looks like a scalar here, so scalars are tried out too.
        if open_sizes(outputs) <= open_sizes(inputs) and all(value.shape for value in outputs):
            output_shapes = [self.sized(value.shape) for value in outputs]
        else:
            output_shapes = self.try_out(session, input_specs)
        output_specs = specs_of(outputs, output_shapes)
        self.axis = BatchAxis.of(inputs, outputs, input_specs, output_specs)
        return self.axis.program(input_specs, output_specs)

    def open(self, num_threads: int) -> Any:
        """Open the model as it was written: without sizes for its symbols, its graph unchanged."""
        try:
            return open_model(self.path, num_threads, {}, optimize=False)
        except ConfigError:
            raise
        except Exception as error:
            raise self.error(f"ONNX Runtime cannot load it: {first_line(error)}") from error

    def error(self, problem: str) -> ConfigError:
        """An error that names this model."""
        return ConfigError(f"model {self.path}: {problem}")

    def check_values(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Raise unless all are tensors of numbers, and input dimensions have a size or symbol."""
        for value in (*inputs, *outputs):
            if value.type not in DTYPES:
                raise self.error(f"{value.name} is {value.type}, not a tensor of numbers")
        for value in inputs:
            if None in value.shape:
                problem = f"input {value.name} has a dimension with neither size nor name"
                raise self.error(f"{problem}, {value.shape}: export the model with either")

    def check_sizes(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Raise unless every size is of a symbol, and every symbol of an input has a size."""
        needed = open_sizes(inputs)
        known = needed | (open_sizes(outputs) - {None})
        for symbol in self.sizes:
            if symbol not in known:
                nearest = difflib.get_close_matches(symbol, sorted(known), n=1, cutoff=0.0)
                hint = f"the nearest is {nearest[0]}" if nearest else "all its dimensions are fixed"
                raise self.error(f"onnx_define_symbol: it has no symbol {symbol}, {hint}")
        undefined = sorted(needed - self.sizes.keys())
        if undefined:
            example = ", ".join(f"{key}: {self.sizes.get(key, 8)}" for key in sorted(needed))
            line = f"`onnx_define_symbol: {{{example}}}`"
            raise self.error(f"no size for {', '.join(undefined)}: add one, such as {line}")

    def sized(self, shape: Sequence[Any]) -> tuple[int, ...]:
        """The shape, with the size of each symbol."""
        return tuple(self.sizes.get(size, size) for size in shape)

    def try_out(self, session: Any, inputs: Sequence[TensorSpec]) -> list[tuple[int, ...]]:
        """The shapes of the outputs, from the first values with which an inference runs.

        Dimensions that nothing tells are -1.
        """
        outputs = first_outputs(session, inputs)
        if outputs is None:
            return [
                tuple(size if isinstance(size, int) else -1 for size in self.sized(value.shape))
                or (-1,)
                for value in session.get_outputs()
            ]
        for value, output in zip(session.get_outputs(), outputs, strict=True):
            for symbol, size in zip(value.shape, output.shape, strict=False):
                if self.sizes.get(symbol, size) != size:
                    given = f"onnx_define_symbol: {symbol} is {self.sizes[symbol]}"
                    raise self.error(f"{given}, but the output {value.name} has {size} there")
        return [output.shape for output in outputs]


def _tells_all(outputs: Sequence[Any]) -> bool:
    return not open_sizes(outputs) and all(value.shape for value in outputs)


def first_outputs(session: Any, inputs: Sequence[TensorSpec]) -> list[Any] | None:
    """The outputs for the first values that the model accepts; None if it accepts none."""
    for values in simple_values(inputs):
        try:
            outputs: list[Any] = session.run(None, values)
        except Exception:
            continue  # other values may do
        return outputs
    return None


def import_onnxruntime() -> Any:
    """Import ONNX Runtime; if it is not installed, `ConfigError` has the pip command."""
    return require("onnxruntime", "cpu", needed_by="the CPU backend")


def open_model(
    path: str,
    num_threads: int,
    sizes: Mapping[str, int],
    *,
    optimize: bool = True,
    saved_as: str | None = None,
) -> Any:
    """Open a session that runs one inference at a time on the CPU, with threads that do not spin.

    `sizes` maps the symbols of the model's dimensions to their sizes. With `saved_as`, the
    optimised model is saved there.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = FATAL
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if saved_as is not None:
        # Without optimisations for this processor only: loading adds those.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = saved_as
    for symbol, size in sizes.items():
        options.add_free_dimension_override_by_name(symbol, size)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def specs_of(values: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> list[TensorSpec]:
    """The specs of inputs or outputs with these shapes."""
    return [
        TensorSpec(value.name, shape, DTYPES[value.type])
        for value, shape in zip(values, shapes, strict=True)
    ]


def open_sizes(values: Sequence[Any]) -> set[Any]:
    """The symbols of dimensions without a size; None is among them for one without a symbol."""
    return {size for value in values for size in value.shape if not isinstance(size, int)}


def first_line(error: Exception) -> str:
    """The first line of an error of the library, without its traceback and advice."""
    return str(error).strip().partition("\n")[0]


def is_invalid_argument(error: Exception) -> bool:
    """Whether an error of ONNX Runtime says that an inference's inputs are wrong."""
    # Its own class, known by name alone: the module that has it is private and has moved before.
    return type(error).__name__ == "InvalidArgument"
