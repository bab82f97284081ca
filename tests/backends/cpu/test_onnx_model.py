"""Reading ONNX models, on the real ONNX Runtime and the real Magika model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from qaic_sched.backends.choose import find_model
from qaic_sched.backends.cpu.onnx_model import ModelReader, is_invalid_argument, open_model
from qaic_sched.errors import ConfigError
from qaic_sched.program import Rows
from tests.models import (
    FLOAT,
    STRING,
    gather_model,
    identity_model,
    linear_model,
    save_model,
    sequence_model,
    unbatched_model,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qaic_sched.program import Program


def describe(path: str, **sizes: int) -> Program:
    """The description of the model at `path`, with the sizes of its symbols."""
    return ModelReader(path, sizes).read(1)


def test_defined_symbols_give_the_batch_size(model_file: Path) -> None:
    """`onnx_define_symbol` gives the sizes of symbols in inputs and outputs."""
    program = describe(linear_model(model_file), N=4)
    assert [(spec.name, spec.shape) for spec in program.inputs] == [("a", (4, 3)), ("b", (4, 2))]
    assert [(spec.name, spec.shape) for spec in program.outputs] == [("y", (4, 4))]
    assert {spec.dtype for spec in program.inputs + program.outputs} == {np.dtype(np.float32)}
    assert program.batch_sizes == (4,)


def test_fixed_shapes_need_no_symbols(model_file: Path) -> None:
    """A model of fixed shapes needs no sizes."""
    assert describe(linear_model(model_file, batch=8)).batch_sizes == (8,)


def test_no_common_first_axis_is_no_batch(model_file: Path) -> None:
    """A model whose inputs share no first dimension has no batch sizes."""
    assert describe(unbatched_model(model_file)).batch_sizes == ()


@pytest.mark.parametrize("output_batch", ["M", None])
def test_an_open_output_size_is_tried_out(model_file: Path, output_batch: str | None) -> None:
    """The size of an output dimension without a known symbol comes from one inference."""
    program = describe(linear_model(model_file, output_batch=output_batch), N=4)
    assert (program.outputs[0].shape, program.batch_sizes) == ((4, 4), (4,))


def test_an_output_of_unknown_rank_is_tried_out(model_file: Path) -> None:
    """The shape of an output that declares none comes from one inference."""
    reshape = helper.make_node("Reshape", ["x", "new_shape"], ["y"])
    x = helper.make_tensor_value_info("x", FLOAT, [4])
    new_shape = helper.make_tensor_value_info("new_shape", TensorProto.INT64, ["rank"])
    y = helper.make_tensor_value_info("y", FLOAT, None)
    path = save_model(model_file, [reshape], [x, new_shape], [y])
    assert describe(path, rank=1).outputs[0].shape == (4,)


def test_a_scalar_output_has_no_dimensions(model_file: Path) -> None:
    """A scalar output has the shape ()."""
    assert describe(identity_model(model_file, [], [])).outputs[0].shape == ()


def test_the_size_of_an_output_symbol_is_checked(model_file: Path) -> None:
    """A size for the symbol of an output must be the size that the output has."""
    path = linear_model(model_file, output_batch="M")
    assert describe(path, N=4, M=4).batch_sizes == (4,)
    with pytest.raises(ConfigError, match="M is 5, but the output y has 4 there"):
        describe(path, N=4, M=5)


def test_undefined_symbols_are_named_with_the_line_that_mends(model_file: Path) -> None:
    """Every undefined symbol of an input is named; the suggested line includes defined ones."""
    path = identity_model(model_file, ["N", "width", "height"], ["N", "width", "height"])
    with pytest.raises(ConfigError) as raised:
        describe(path, N=4)
    assert "no size for height, width" in str(raised.value)
    assert "`onnx_define_symbol: {N: 4, height: 8, width: 8}`" in str(raised.value)
    assert path in str(raised.value)


def test_an_unknown_symbol_names_the_nearest(model_file: Path) -> None:
    """A size for an unknown symbol is an error that names the nearest symbol, if any."""
    with pytest.raises(ConfigError, match="no symbol batsh, the nearest is batch"):
        describe(linear_model(model_file, batch="batch"), batsh=4)
    with pytest.raises(ConfigError, match="no symbol N, all its dimensions are fixed"):
        describe(linear_model(model_file, batch=8), N=4)


def test_an_unnamed_input_size_is_the_models_fault(model_file: Path) -> None:
    """An input dimension without size and name is refused."""
    with pytest.raises(ConfigError, match="input x has a dimension with neither size nor name"):
        describe(identity_model(model_file, [None, 3], [None, 3]))


def test_only_tensors_of_numbers_can_be_run(model_file: Path) -> None:
    """Strings and sequences are refused, with the name of the input or output."""
    with pytest.raises(ConfigError, match=r"x is tensor\(string\), not a tensor of numbers"):
        describe(identity_model(model_file, ["N"], ["N"], STRING), N=2)
    with pytest.raises(ConfigError, match=r"y is seq\(tensor\(float\)\), not a tensor"):
        describe(sequence_model(model_file))


@pytest.mark.parametrize("name", ["float16", "bool", "int8", "uint64", "double"])
def test_types_are_numpys(model_file: Path, name: str) -> None:
    """Every numeric type of a model is the numpy dtype of that name."""
    dtype = np.dtype(name)
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    program = describe(identity_model(model_file, [2], [2], kind))
    assert program.inputs[0].dtype == program.outputs[0].dtype == dtype


def test_an_output_size_that_nothing_tells_is_unknown(model_file: Path) -> None:
    """A model that rejects all values that are tried still runs, one request per inference."""
    path = gather_model(model_file, batch="N", output_batch="M", lowest=9)
    program = describe(path, N=2)
    assert program.outputs[0].shape == (-1,)
    assert (program.rows, program.keeps_shapes) == (Rows.ANY, False)


def test_values_other_than_zero_are_tried(model_file: Path) -> None:
    """A table that begins at 1 has no entry 0."""
    program = describe(gather_model(model_file, output_batch="M", lowest=1))
    assert program.outputs[0].shape == (2,)


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: b"hello\n", lambda data: data[: len(data) // 2]]
)
def test_a_damaged_model_is_refused(
    model_file: Path, damage: Callable[[bytes], bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    """Empty, foreign and truncated files are reported in one line; ONNX Runtime prints nothing."""
    path = linear_model(model_file)
    model_file.write_bytes(damage(model_file.read_bytes()))
    with pytest.raises(ConfigError) as raised:
        describe(path, N=4)
    assert str(raised.value).startswith(f"model {path}: ONNX Runtime cannot load it: ")
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is not None
    assert capfd.readouterr().err == ""


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    """A file that does not exist is named."""
    with pytest.raises(ConfigError, match=r"none\.onnx: .*doesn't exist"):
        describe(str(tmp_path / "none.onnx"))


def test_onnxruntime_missing_says_how_to_get_it(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ONNX Runtime the error is one sentence with the pip command."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"needs onnxruntime, .*: pip install 'qaic-sched\[cpu"):
        describe(linear_model(model_file), N=4)


def test_the_real_model() -> None:
    """Magika needs a size for its batch symbol; its output has another symbol."""
    path = find_model("pkg://magika/models/standard_v3_3/model.onnx")
    with pytest.raises(ConfigError, match=r"`onnx_define_symbol: \{unk__214: 8\}`"):
        describe(path)
    program = describe(path, unk__214=8)
    assert [spec.shape for spec in program.inputs + program.outputs] == [(8, 2048), (8, 214)]
    assert program.batch_sizes == (8,)


def test_sessions_do_not_spin(model_file: Path) -> None:
    """A session runs sequentially, on the given number of threads, which do not spin."""
    options = open_model(linear_model(model_file), 2, {"N": 4}).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"


def test_only_an_invalid_argument_is_about_the_inputs() -> None:
    """ONNX Runtime has an error of its own for it; every other one may have any cause."""
    state = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")

    assert is_invalid_argument(state.InvalidArgument("an index is out of range"))
    assert not is_invalid_argument(state.Fail("something went wrong"))
    assert not is_invalid_argument(ValueError("something went wrong"))
