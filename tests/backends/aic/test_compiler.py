"""Compiling for cards, with a stand-in for the vendor's compiler as a real process."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from qaic_sched.backends.aic import compiler as aic_compiler
from qaic_sched.backends.aic.compiler import aic_version, arguments, compile_aic
from qaic_sched.config.keys import ModelOptions
from qaic_sched.errors import CompileError, ConfigError
from tests.models import linear_model
from tests.standin import qaic_compile


@pytest.fixture(autouse=True)
def _no_other_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the stand-in can be found: the vendor's folder is empty."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setattr(aic_compiler, "FOLDER", str(tmp_path / "sdk"))


@pytest.fixture
def model(tmp_path: Path) -> str:
    """The path of a model."""
    return linear_model(tmp_path / "model.onnx")


def is_written(path: Path) -> bool:
    """Whether a file exists and is not empty."""
    return path.exists() and path.stat().st_size > 0


def flags(**options: Any) -> list[str]:
    """The compiler's flags for these options, without the flags of every compile."""
    known = set(ModelOptions.__struct_fields__)
    split: dict[str, Any] = {key: options.pop(key) for key in known & options.keys()}
    always = ("-aic-hw", "-aic-hw-version=2.0", "-compile-only")
    first, *told, last = arguments("m.onnx", ModelOptions(**split, compiler=options), Path("out"))
    assert (first, last) == ("-m=m.onnx", "-aic-binary-dir=out")
    return [flag for flag in told if flag not in always]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("mos", 1, ["-mos=1"]),
        ("vtcm_working_set_limit_ratio", 0.75, ["-vtcm-working-set-limit-ratio=0.75"]),
        ("multicast_weights", True, ["-multicast-weights"]),
        ("multicast_weights", False, []),
        ("load_profile", None, []),
        ("custom_io_list_file", "io.yaml", ["-custom-io-list-file=io.yaml"]),
        ("any_mapping", {"a": 1, "b": 2}, ["-any-mapping=a,1", "-any-mapping=b,2"]),
        ("execute_nodes_in_fp16", ["Add", "Div"], ["-execute-nodes-in-fp16=Add,Div"]),
        ("sdp_cluster_sizes", (2, 4), ["-sdp-cluster-sizes=2,4"]),
        (
            "model_inputs",
            [{"input_name": "x", "input_type": "float", "input_shape": [1, 3]}],
            ["-model-inputs=x,float,[1,3]"],
        ),
        ("aic_num_cores", 4, ["-aic-num-cores=4"]),
        ("convert_to_fp16", True, ["-convert-to-fp16"]),
        (
            "onnx_define_symbol",
            {"batch": 1, "sequence": 128},
            ["-onnx-define-symbol=batch,1", "-onnx-define-symbol=sequence,128"],
        ),
        ("oversubscription_name", "group1", []),
        ("output_dir", "out", []),
    ],
)
def test_options_are_flags(key: str, value: Any, told: list[str]) -> None:
    """Each kind of value becomes a flag as in the vendor's scripts; session options do not."""
    assert flags(**{key: value}) == told


def test_the_flags_of_every_compile_can_be_overridden() -> None:
    """Options override the flags of the hardware and its version."""
    always = arguments("m.onnx", ModelOptions(), Path("out"))
    assert always[1:-1] == ["-aic-hw", "-aic-hw-version=2.0", "-compile-only"]
    other = ModelOptions(compiler={"aic_hw_version": 3, "aic_hw": False, "compile_only": True})
    assert arguments("m.onnx", other, Path("out"))[1:-1] == ["-aic-hw-version=3", "-compile-only"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"aic_binary_dir": "out"}, "aic_binary_dir: name the folder with output_dir instead"),
        ({"a": {"b": {"c": 1}}}, "a: {'c': 1} is nested too deeply"),
    ],
)
def test_options_without_a_flag_are_named(options: dict[str, Any], problem: str) -> None:
    """An option that cannot be a flag is an error that names it."""
    with pytest.raises(ConfigError, match=problem):
        flags(**options)


def test_without_a_compiler_one_sentence_says_where_it_was_looked_for(
    model: str, tmp_path: Path
) -> None:
    """The error names the compiler's two names, the PATH and the vendor's folder."""
    with pytest.raises(ConfigError, match=r"needs qaic-compile or qaic-exec .* PATH nor in .*/sdk"):
        asyncio.run(compile_aic(model, ModelOptions(), tmp_path / "made"))
    assert aic_version() is None


@pytest.mark.parametrize(
    ("folder", "name"), [("bin", "qaic-compile"), ("bin", "qaic-exec"), ("sdk", "qaic-exec")]
)
def test_the_compiler_is_found(
    tmp_path: Path, folder: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler is found on the PATH or in the vendor's folder; its file is its version."""
    qaic_compile.install(tmp_path / folder, name)
    if folder == "sdk":
        monkeypatch.delenv("PATH")
    version = aic_version()
    assert version is not None
    assert version.startswith(f"{tmp_path / folder / name}, ")
    os.utime(tmp_path / folder / name, (1, 1))
    assert aic_version() != version


def test_a_compile_creates_the_folder(model: str, tmp_path: Path) -> None:
    """The compiler gets its flags and leaves its program in the folder."""
    log = qaic_compile.install(tmp_path / "bin")
    options = ModelOptions(4, True, {"N": 2}, compiler={"mos": 1, "stats_batchsize": 2})
    asyncio.run(compile_aic(model, options, tmp_path / "made"))
    assert (tmp_path / "made" / "programqpc.bin").read_bytes().startswith(b"stand-in QPC")
    _, *told = json.loads(log.read_text())
    assert told[0] == f"-m={model}"
    assert "-onnx-define-symbol=N,2" in told
    assert "-aic-num-cores=4" in told


def test_a_failure_shows_the_compilers_own_last_lines(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the exit status and only the last ten lines of both outputs."""
    qaic_compile.install(tmp_path / "bin")
    monkeypatch.setenv("STANDIN_COMPILER", "fail")
    with pytest.raises(CompileError) as raised:
        asyncio.run(compile_aic(model, ModelOptions(), tmp_path / "made"))
    first, *lines = str(raised.value).splitlines()
    assert first == f"model {model}: qaic-compile failed with exit status 3: line 41"
    assert lines == [*(f"line {n}" for n in range(42, 50)), "error: the stand-in was told to fail"]


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("#!/bin/sh\nkill -9 $$\n", "qaic-compile was killed by signal 9: it printed nothing"),
        ("#!/bin/sh\nprintf '\\377'\nexit 1\n", "failed with exit status 1: \ufffd"),
        ("#!/bin/sh\ncat; exit 2\n", "failed with exit status 2: it printed nothing"),
    ],
)
def test_strange_ends_are_reported(model: str, tmp_path: Path, script: str, problem: str) -> None:
    """A signal, output that is not text, and a prompt are reported."""
    qaic_compile.install(tmp_path / "bin")
    (tmp_path / "bin" / "qaic-compile").write_text(script)
    with pytest.raises(CompileError, match=problem):
        asyncio.run(compile_aic(model, ModelOptions(), tmp_path / "made"))


def test_a_compiler_that_cannot_be_run_is_named(model: str, tmp_path: Path) -> None:
    """A file that cannot be executed is a `ConfigError`."""
    qaic_compile.install(tmp_path / "bin")
    (tmp_path / "bin" / "qaic-compile").write_text("#!/none\n")
    with pytest.raises(ConfigError, match="bin/qaic-compile cannot be run: No such file"):
        asyncio.run(compile_aic(model, ModelOptions(), tmp_path / "made"))


@pytest.mark.slow
def test_a_cancelled_compile_kills_the_compiler(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled compile ends only after its process is gone."""
    log = qaic_compile.install(tmp_path / "bin")
    monkeypatch.setenv("STANDIN_COMPILER", "hang")

    async def main() -> None:
        task = asyncio.create_task(compile_aic(model, ModelOptions(), tmp_path / "made"))
        with anyio.fail_after(20):
            while not is_written(log):  # noqa: ASYNC110 a process sends no event
                await anyio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    process_id, *_ = json.loads(log.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)
