"""Compiling for the CPU: sessions on compiled models and on given programs."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qaic_sched.backends.choose import find_model
from qaic_sched.backends.compiling.compile import compile_model
from qaic_sched.backends.cpu import CpuBackend
from qaic_sched.backends.cpu.compiler import CPU_COMPILER
from qaic_sched.config.keys import ModelOptions
from qaic_sched.errors import ConfigError
from qaic_sched.session import Session
from tests.models import linear, linear_inputs, linear_model


@pytest.fixture
def model(tmp_path: Path) -> str:
    """The path of a model whose batch axis is the symbol N."""
    return linear_model(tmp_path / "model.onnx")


@pytest.fixture
def program(model: str, tmp_path: Path) -> str:
    """The path of that model, compiled for the CPU at batch size 4."""
    options = ModelOptions(onnx_define_symbol={"N": 4}, output_dir=str(tmp_path / "out"))
    return asyncio.run(compile_model(model, CPU_COMPILER, options))


def batch_size(path: str, **options: Any) -> int:
    """The compiled batch size in the backend's description of the model."""
    backend = CpuBackend(path, ModelOptions(**options))
    return asyncio.run(backend.describe()).max_batch_size


def run_linear(session: Session) -> None:
    """Run one batch of 4, and check the outputs."""
    with session:
        inputs = linear_inputs(4)
        np.testing.assert_array_equal(session.run(inputs)["y"], linear(**inputs))


def test_a_session_compiles_by_default(model: str, tmp_path: Path) -> None:
    """A session leaves the program in `output_dir`; a session on it gives the same outputs."""
    out = tmp_path / "out"
    run_linear(Session(model, backend="cpu", onnx_define_symbol={"N": 4}, output_dir=str(out)))
    assert (out / "programqpc.bin").is_file()
    for meant in (out / "programqpc.bin", out, out / "*.bin"):
        run_linear(Session(str(meant)))


def test_a_compiled_real_model_gives_the_same_bits(tmp_path: Path) -> None:
    """Compiled Magika has outputs that are bit-identical to those of the source model."""
    path = find_model("pkg://magika/models/standard_v3_3/model.onnx")
    options: dict[str, Any] = {"backend": "cpu", "onnx_define_symbol": {"unk__214": 2}}
    inputs = {"bytes": np.arange(4096, dtype=np.int32).reshape(2, 2048) % 257}
    out = str(tmp_path / "out")
    with Session(path, compile=False, **options) as session:
        expected = session.run(inputs)["target_label"]
    with Session(path, output_dir=out, **options) as session:
        np.testing.assert_array_equal(session.run(inputs)["target_label"], expected)
    with Session(out) as session:
        np.testing.assert_array_equal(session.run(inputs)["target_label"], expected)


def test_compile_false_runs_the_model_uncompiled(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`compile: false` writes nothing, and `compile_only` is not reported as unused."""
    out = str(tmp_path / "out")
    options: dict[str, Any] = {"compile": False, "compiler": {"compile_only": True}}
    with caplog.at_level(logging.INFO, logger="qaic_sched"):
        assert batch_size(model, onnx_define_symbol={"N": 4}, output_dir=out, **options) == 4
    assert not (tmp_path / "out").exists()
    assert not caplog.records


def test_without_a_cache_the_model_runs_uncompiled(
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A cache that cannot be written is ignored; an `output_dir` that cannot be is an error."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.INFO, logger="qaic_sched"):
        assert batch_size(model, onnx_define_symbol={"N": 4}) == 4
    [record] = caplog.records
    assert record.getMessage().startswith(
        f"running {model} uncompiled: output_dir: {tmp_path}/file/"
    )
    with pytest.raises(ConfigError, match=r"output_dir: .*file/out cannot be used"):
        batch_size(model, onnx_define_symbol={"N": 4}, output_dir=str(tmp_path / "file" / "out"))


def test_a_program_keeps_its_symbols(program: str) -> None:
    """The symbols of a program need no size; they may be given the size that they have."""
    assert batch_size(program) == batch_size(program, onnx_define_symbol={"N": 4}) == 4
    with pytest.raises(ConfigError, match=r"compiled with \{'N': 4\}, not with N: 8"):
        batch_size(program, onnx_define_symbol={"N": 8})
    with pytest.raises(ConfigError, match=r"compiled with \{'N': 4\}, not with M: 4"):
        batch_size(program, onnx_define_symbol={"M": 4})


def test_a_truncated_program_is_refused(program: str) -> None:
    """A truncated program is named in one sentence before anything is loaded."""
    Path(program).write_bytes(Path(program).read_bytes()[:-10])
    with pytest.raises(ConfigError, match=r"is truncated, 10 bytes are missing: compile it again"):
        batch_size(program)


def test_a_program_for_cards_is_refused(tmp_path: Path) -> None:
    """A program for cards is not taken for one for the CPU."""
    (tmp_path / "programqpc.bin").write_bytes(b"a card's")
    with pytest.raises(
        ConfigError, match="not a program for the CPU: one for cards needs `backend"
    ):
        batch_size(str(tmp_path / "programqpc.bin"))
