"""Reading a QPC: tensors, batch sizes, buffers and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qaic_sched.backends.aic.qpc import QpcFile, read_qpc
from qaic_sched.backends.aic.sdk import Sdk
from qaic_sched.errors import ConfigError
from tests.standin import QAicApi_pb2 as api
from tests.standin import qaicrt
from tests.standin.qpc import HEADER, binding, write_qpc

IN, OUT = api.BUFFER_IO_TYPE_INPUT, api.BUFFER_IO_TYPE_OUTPUT


def read(path: str) -> QpcFile:
    """The QPC, as the backend reads it."""
    return read_qpc(Sdk(qaicrt, api), path)


def shapes(*dims: list[int]) -> dict[str, Any]:
    """One specialization of float tensors."""
    return {"shapes": [{"type": api.FLOAT_TYPE, "dims": each} for each in dims]}


def test_one_batch_size(tmp_path: Path) -> None:
    """A program has its inputs' and outputs' shapes and types, and the batch size they share."""
    program = read(write_qpc(tmp_path)).program
    assert [(each.name, each.shape) for each in program.inputs] == [("x", (8, 4))]
    assert [(each.name, each.shape) for each in program.outputs] == [("mean", (8, 2))]
    assert program.batch_sizes == (8,)


def test_specializations_are_batch_sizes(tmp_path: Path) -> None:
    """Shapes are those of the largest specialization, whichever one is selected."""
    bindings = [binding("x", IN, [2, 4]), binding("mean", OUT, [2, 2])]
    file = read(write_qpc(tmp_path, bindings=bindings, batch_sizes=(4, 1, 16)))
    assert file.program.batch_sizes == (1, 4, 16)
    assert file.program.inputs[0].shape == (16, 4)
    assert file.dimensions[4] == [(4, [4, 4]), (4, [4, 2])]
    assert [file.size_of(each, 4) for each in file.bindings] == [64, 32]


@pytest.mark.parametrize(
    ("type_", "dtype"),
    [
        (api.FLOAT_TYPE, np.float32),
        (api.FLOAT_16_TYPE, np.float16),
        (api.INT8_Q_TYPE, np.int8),
        (api.UINT8_Q_TYPE, np.uint8),
        (api.INT16_Q_TYPE, np.int16),
        (api.INT32_Q_TYPE, np.int32),
        (api.INT32_I_TYPE, np.int32),
        (api.INT64_I_TYPE, np.int64),
        (api.INT8_TYPE, np.int8),
    ],
)
def test_types(tmp_path: Path, type_: int, dtype: Any) -> None:
    """Quantized values appear as the integers that store them."""
    path = write_qpc(tmp_path, bindings=[binding("x", IN, [8], type_)])
    assert read(path).program.inputs[0].dtype == dtype


def test_buffers_are_ordered_by_index(tmp_path: Path) -> None:
    """Buffers are in the order of their indexes, statistics included."""
    bindings = [binding("x", IN, [8]), binding("y", OUT, [8]), binding("aiccyclecounts", OUT, [99])]
    for each, index in zip(bindings, (2, 0, 1), strict=True):
        each["index"] = index
    file = read(write_qpc(tmp_path, bindings=bindings))
    assert [each.spec and each.spec.name for each in file.bindings] == ["y", None, "x"]
    assert [each.is_input for each in file.bindings] == [False, False, True]
    assert [file.size_of(each, 8) for each in file.bindings] == [32, 396, 32]


def test_inputs_without_a_common_batch(tmp_path: Path) -> None:
    """A program whose first dimensions differ has no batch sizes."""
    bindings = [binding("x", IN, [8, 4]), binding("y", OUT, [1, 2])]
    assert read(write_qpc(tmp_path, bindings=bindings)).program.batch_sizes == ()


def test_shapes_that_are_not_described(tmp_path: Path) -> None:
    """Without dimensions the shape is the size of the buffer, and there are no batch sizes."""
    bindings = [binding("x", IN, []), binding("y", OUT, [])]
    for each in bindings:
        each["size"] = 32
    program = read(write_qpc(tmp_path, bindings=bindings)).program
    assert [each.shape for each in (*program.inputs, *program.outputs)] == [(8,), (8,)]
    assert program.batch_sizes == ()


@pytest.mark.parametrize(
    "allowed",
    [
        [shapes([8, 4], [8, 2]), shapes([4, 5], [4, 2])],
        [shapes([8, 4], [8, 2]), shapes([4, 4], [1, 2])],
        [shapes([], []), shapes([4, 4], [1, 2])],
    ],
)
def test_specializations_in_other_dimensions(tmp_path: Path, allowed: Any) -> None:
    """Specializations that differ in more than the batch size are refused."""
    with pytest.raises(ConfigError, match=r"differ in more than the batch size.*compile one shape"):
        read(write_qpc(tmp_path, allowed_shapes=allowed))


def test_a_type_that_numpy_does_not_have(tmp_path: Path) -> None:
    """A QPC with bfloat16 values is refused: numpy has no such dtype."""
    path = write_qpc(tmp_path, bindings=[binding("x", IN, [8], api.BFLOAT16_TYPE)])
    with pytest.raises(ConfigError, match="numpy has no dtype for type 11 of QAicApi_pb2"):
        read(path)


def test_an_older_sdk_knows_fewer_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A type that the SDK does not define is left out."""
    monkeypatch.delattr(api, "INT8_TYPE")
    assert read(write_qpc(tmp_path)).program.inputs[0].dtype == np.float32


def test_neither_inputs_nor_outputs(tmp_path: Path) -> None:
    """A QPC without tensors is refused."""
    with pytest.raises(ConfigError, match="neither inputs nor outputs"):
        read(write_qpc(tmp_path, bindings=[]))


@pytest.mark.parametrize("content", [b"", b"ELF something else", HEADER + b'{"selected_set"'])
def test_no_qpc(tmp_path: Path, content: bytes) -> None:
    """A truncated or foreign file is named, with the remedy."""
    path = tmp_path / "programqpc.bin"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"model {path}: truncated.*compile it again"):
        read(str(path))


def test_a_description_that_is_refused(tmp_path: Path) -> None:
    """The error names the status of the runtime."""
    path = tmp_path / "qpc.bin"
    path.write_bytes(HEADER)
    with pytest.raises(ConfigError, match=r"its description cannot be read \(QS_INVAL\)"):
        read(str(path))


def test_a_file_that_has_gone(tmp_path: Path) -> None:
    """A file that does not exist is named."""
    with pytest.raises(ConfigError, match=r"none\.bin: truncated, or not compiled for cards"):
        read(str(tmp_path / "none.bin"))
