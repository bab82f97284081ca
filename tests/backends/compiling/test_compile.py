"""Compiling once: what is made, reused, replaced and refused."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from qaic_sched.backends.aic import compiler as aic_compiler
from qaic_sched.backends.choose import compiler_for
from qaic_sched.backends.compiling import folder as compiled_folder
from qaic_sched.backends.compiling.compile import compile_model
from qaic_sched.backends.compiling.container import check_cpu_program, kind_of
from qaic_sched.config.keys import ModelOptions
from qaic_sched.errors import CompileError, ConfigError
from tests.models import FLOAT, linear, linear_inputs, linear_model
from tests.standin import qaic_compile


@pytest.fixture
def model(tmp_path: Path) -> str:
    """The path of a model whose batch axis is the symbol N."""
    return linear_model(tmp_path / "model.onnx")


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose compiler is the stand-in; the path of its log."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setattr(aic_compiler, "FOLDER", str(tmp_path / "sdk"))
    return qaic_compile.install(tmp_path / "bin")


def options_of(output_dir: Path | None = None, batch: int = 4, **compiler: Any) -> ModelOptions:
    """Options that set N to `batch`."""
    where = None if output_dir is None else str(output_dir)
    return ModelOptions(onnx_define_symbol={"N": batch}, output_dir=where, compiler=compiler)


def compiled(model: str, options: ModelOptions, kind: Any = "cpu") -> Path:
    """Compile, or reuse an earlier result; the path of the program."""
    return Path(asyncio.run(compile_model(model, compiler_for(kind), options)))


def names_in(folder: Path) -> list[str]:
    """The names in a folder, without the lock."""
    return sorted({path.name for path in folder.iterdir()} - {".lock"})


# Results


def test_a_compiled_model_computes_the_same(model: str, tmp_path: Path) -> None:
    """The program runs in ONNX Runtime and computes what the model does, at its batch size."""
    program = compiled(model, options_of(tmp_path / "out"))
    assert program == tmp_path / "out" / "programqpc.bin"
    assert kind_of(str(program)) == "cpu"
    session = onnxruntime.InferenceSession(str(program), providers=["CPUExecutionProvider"])
    assert [value.shape for value in session.get_inputs()] == [[4, 3], [4, 2]]
    inputs = linear_inputs(4)
    np.testing.assert_array_equal(session.run(["y"], inputs)[0], linear(**inputs))


def test_the_record_says_what_was_compiled(model: str, tmp_path: Path) -> None:
    """`compiled.json` has the model, digests, options, kind and compiler."""
    program = compiled(model, options_of(tmp_path / "out", mos=1))
    record = json.loads((tmp_path / "out" / "compiled.json").read_text())
    assert record["model"] == model
    assert record["compiler"] == f"onnxruntime {onnxruntime.__version__}"
    assert (record["program"], record["files"]) == ("programqpc.bin", ["programqpc.bin"])
    assert record["sha256"] == compiled_folder.digest_of(program)
    recipe = record["recipe"]
    assert recipe["kind"] == "cpu"
    assert recipe["model_sha256"] == compiled_folder.digest_of(model)
    assert recipe["options"]["onnx_define_symbol"] == {"N": 4}
    assert recipe["options"]["mos"] == 1
    assert check_cpu_program(str(program)).onnx_define_symbol == {"N": 4}


def test_a_compile_for_cards_keeps_what_the_compiler_left(
    model: str, tmp_path: Path, cards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file and folder of the compiler is kept, and replaced by the next compile."""
    monkeypatch.setenv("STANDIN_COMPILER", "litter")
    program = compiled(model, options_of(tmp_path / "out"), "aic")
    assert kind_of(str(program)) == "aic"
    everything = ["compiled.json", "programqpc.bin", "report.txt", "stages"]
    assert names_in(tmp_path / "out") == everything
    compiled(model, options_of(tmp_path / "out", batch=2), "aic")
    assert names_in(tmp_path / "out") == everything
    monkeypatch.setenv("STANDIN_COMPILER", "")
    compiled(model, options_of(tmp_path / "out", batch=8), "aic")
    assert names_in(tmp_path / "out") == ["compiled.json", "programqpc.bin"]
    assert len(cards.read_text().splitlines()) == 3


def test_it_runs_on_the_loop_of_another_thread(model: str, tmp_path: Path, cards: Path) -> None:
    """A loop on a thread other than the main one can run the compiler."""

    async def main() -> None:
        work = asyncio.to_thread(compiled, model, options_of(tmp_path / "out"), "aic")
        assert (await work).is_file()

    asyncio.run(main())
    assert cards.is_file()


# Reuse


@pytest.mark.parametrize("kind", ["cpu", "aic"])
def test_a_model_is_compiled_once_per_options(
    model: str, tmp_path: Path, cards: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A second compile reuses the first, even if the model has another name."""
    program = compiled(model, options_of(tmp_path / "out"), kind)
    before = program.stat().st_mtime_ns
    other = Path(model).rename(tmp_path / "renamed.onnx")
    with caplog.at_level(logging.INFO, logger="qaic_sched"):
        assert compiled(str(other), options_of(tmp_path / "out"), kind) == program
    assert program.stat().st_mtime_ns == before
    assert not caplog.records
    assert not cards.exists() or len(cards.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "change", ["model", "symbol", "option", "option file", "compiler", "program", "program gone"]
)
def test_any_change_compiles_again(model: str, tmp_path: Path, cards: Path, change: str) -> None:
    """A changed model, option, option file or compiler, or a damaged result, is not reused."""
    table = tmp_path / "table.yaml"
    table.write_text("first")
    options = {"custom_io_list_file": str(table), "dump_profile": str(tmp_path / "profile")}
    program = compiled(model, options_of(tmp_path / "out", **options), "aic")
    (tmp_path / "profile").write_text("the compiler's own output changes nothing")
    compiled(model, options_of(tmp_path / "out", **options), "aic")
    assert len(cards.read_text().splitlines()) == 1
    batch = 4
    if change == "model":
        linear_model(Path(model), batch="N", output_batch="M")
    elif change == "symbol":
        batch = 2
    elif change == "option":
        options["mos"] = "1"
    elif change == "option file":
        table.write_text("second")
    elif change == "compiler":
        os.utime(cards.parent / "qaic-compile", (1, 1))
    elif change == "program":
        program.write_bytes(program.read_bytes()[:-1])
    else:
        program.unlink()
    again = compiled(model, options_of(tmp_path / "out", batch, **options), "aic")
    assert again == program
    assert len(cards.read_text().splitlines()) == 2
    compiled(model, options_of(tmp_path / "out", batch, **options), "aic")
    assert len(cards.read_text().splitlines()) == 2


def test_session_options_compile_nothing_again(model: str, tmp_path: Path, cards: Path) -> None:
    """Options that do not change the program do not compile it again."""
    compiled(model, options_of(tmp_path / "out"), "aic")
    own = {"compile": False, "oversubscription_name": "group1"}
    compiled(model, msgspec.structs.replace(options_of(tmp_path / "out"), **own), "aic")
    assert len(cards.read_text().splitlines()) == 1


def test_a_result_outlives_its_compiler(model: str, tmp_path: Path, cards: Path) -> None:
    """A host without the compiler reuses a result of another."""
    program = compiled(model, options_of(tmp_path / "out"), "aic")
    (cards.parent / "qaic-compile").unlink()
    assert compiled(model, options_of(tmp_path / "out"), "aic") == program


def test_one_folder_holds_one_result(model: str, tmp_path: Path, cards: Path) -> None:
    """A compile for the other kind of device replaces the result."""
    program = compiled(model, options_of(tmp_path / "out"))
    assert compiled(model, options_of(tmp_path / "out"), "aic") == program
    assert kind_of(str(program)) == "aic"
    assert compiled(model, options_of(tmp_path / "out")) == program
    assert kind_of(str(program)) == "cpu"
    assert cards.is_file()


def test_without_output_dir_each_has_a_folder_in_the_cache(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is named after model and digest, in XDG_CACHE_HOME or ~/.cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    first, second = (compiled(model, options_of(batch=batch)) for batch in (2, 4))
    assert first.parent.parent == second.parent.parent == tmp_path / "xdg" / "qaic_sched"
    assert first.parent != second.parent
    assert first.parent.name.startswith("model-")
    assert compiled(model, options_of(batch=2)) == first
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert compiled(model, options_of()).is_relative_to(tmp_path / "home/.cache/qaic_sched")


# Errors


@pytest.mark.parametrize("mood", ["fail", "forget"])
def test_a_failed_compile_leaves_nothing(
    model: str, tmp_path: Path, cards: Path, monkeypatch: pytest.MonkeyPatch, mood: str
) -> None:
    """A compiler that fails or leaves no program is a `CompileError`; an old result stays."""
    monkeypatch.setenv("STANDIN_COMPILER", mood)
    said = {"fail": "the stand-in was told to fail", "forget": "the compiler left no program"}
    with pytest.raises(CompileError, match=said[mood]):
        compiled(model, options_of(tmp_path / "out"), "aic")
    assert names_in(tmp_path / "out") == []
    monkeypatch.setenv("STANDIN_COMPILER", "")
    program = compiled(model, options_of(tmp_path / "out"), "aic")
    monkeypatch.setenv("STANDIN_COMPILER", mood)
    with pytest.raises(CompileError):
        compiled(model, options_of(tmp_path / "out", batch=2), "aic")
    assert compiled(model, options_of(tmp_path / "out"), "aic") == program
    assert cards.is_file()


def test_a_model_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A model that does not exist is a `ConfigError`."""
    with pytest.raises(ConfigError, match=r"none\.onnx cannot be read: No such file"):
        compiled(str(tmp_path / "none.onnx"), options_of(tmp_path / "out"))


@pytest.mark.parametrize("content", [b"", b"hello\n"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty and foreign files are refused, as they are without compiling."""
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.onnx: ONNX Runtime cannot load it"):
        compiled(str(tmp_path / "bad.onnx"), options_of(tmp_path / "out"))


def test_a_model_that_onnxruntime_cannot_save_is_a_compile_error(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the first line of ONNX Runtime's error, which is its cause."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("model too large\nmore of it")

    monkeypatch.setattr("qaic_sched.backends.cpu.compiler.open_model", fail)
    with pytest.raises(CompileError, match=r"cannot compile it: model too large$") as raised:
        compiled(model, options_of(tmp_path / "out"))
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_onnxruntime_missing_says_how_to_get_it(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ONNX Runtime nothing is made, and the error has the pip command."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"^the CPU backend needs onnxruntime, .*: pip install"):
        compiled(model, options_of(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def external_model(path: Path) -> str:
    """A model that keeps its weights in the separate file `weights.data`."""
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, FLOAT, ["N", 64]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "", [x], [y])
    graph.initializer.append(weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    where: dict[str, Any] = {"save_as_external_data": True, "location": "weights.data"}
    onnx.save(made, str(path), size_threshold=0, **where)
    return str(path)


def test_weights_in_separate_files_are_refused_for_the_cpu(tmp_path: Path) -> None:
    """The error names two remedies: one file, or no compiling."""
    model = external_model(tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match=r"one file \(below 2 GB\), or add `compile: false`"):
        compiled(model, options_of(tmp_path / "out"))


def test_weights_in_separate_files_are_part_of_the_model(tmp_path: Path, cards: Path) -> None:
    """For cards, a change of the weights compiles the model again."""
    model = external_model(tmp_path / "model.onnx")
    for _ in range(2):
        compiled(model, options_of(tmp_path / "out"), "aic")
    assert len(cards.read_text().splitlines()) == 1
    (tmp_path / "weights.data").write_bytes(b"\1" * 64 * 64 * 4)
    compiled(model, options_of(tmp_path / "out"), "aic")
    assert len(cards.read_text().splitlines()) == 2
