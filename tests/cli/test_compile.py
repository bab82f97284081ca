"""Tests of `qaic-sched compile`."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from qaic_sched.backends.aic import compiler as aic_compiler
from qaic_sched.cli import compile as command
from qaic_sched.cli import main
from tests.cli.command_line import cards, start
from tests.models import linear_model
from tests.standin import qaic_compile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Write a model whose batch axis is the symbol N."""
    return linear_model(tmp_path / "model.onnx")


@pytest.fixture
def options(tmp_path: Path) -> Path:
    """Write a file of the vendor's options."""
    path = tmp_path / "options.yaml"
    keys = {"onnx-define-symbol": {"N": 4}, "output_dir": str(tmp_path / "out")}
    path.write_text(yaml.safe_dump(keys))
    return path


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` explains the command and shows an example."""
    assert main(["compile", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Usage: qaic-sched compile" in shown
    assert "Example: qaic-sched compile" in shown


def test_it_prints_the_path_of_the_program(
    model: str, options: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stdout is the path of the program, whether it is new or reused."""
    arguments = ["compile", model, "--options", str(options), "--backend", "cpu"]
    for _ in range(2):
        assert main(arguments) == 0
        assert capsys.readouterr().out == f"{tmp_path / 'out' / 'programqpc.bin'}\n"
    assert main([*arguments, "--output-dir", str(tmp_path / "other"), "--json"]) == 0
    program = str(tmp_path / "other" / "programqpc.bin")
    result = {"kind": "cpu", "model": model, "program": program}
    assert json.loads(capsys.readouterr().out) == result


def test_a_compiler_that_fails_is_status_1(
    model: str,
    options: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The compiler's output goes to stderr."""
    qaic_compile.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    arguments = ["compile", model, "--options", str(options), "--backend", "aic"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'programqpc.bin'}\n"
    monkeypatch.setenv("STANDIN_COMPILER", "fail")
    assert main([*arguments, "--output-dir", str(tmp_path / "other")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.rstrip().endswith("error: the stand-in was told to fail")


def test_a_model_that_cannot_be_compiled_is_status_2(
    model: str,
    options: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Missing compiler, compiled model, simulated cards, unknown backend: one sentence each."""
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.setattr(aic_compiler, "FOLDER", str(tmp_path))
    assert main(["compile", model, "--options", str(options), "--backend", "cpu"]) == 0
    cards(tmp_path)
    wrong = {
        "needs qaic-compile or qaic-exec": [model, "--backend", "aic"],
        "is already compiled": [str(tmp_path / "out")],
        "which need no compiling": [str(tmp_path / "cards.sim.yaml")],
        "qnn": [model, "--backend", "qnn"],
    }
    for problem, arguments in wrong.items():
        capsys.readouterr()
        assert main(["compile", *arguments]) == 2
        assert problem in capsys.readouterr().err


def test_ctrl_c_is_status_130(
    model: str, options: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupted compile prints no path."""

    async def interrupted(*arguments: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "compile_model", interrupted)
    assert main(["compile", model, "--options", str(options)]) == 130
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_ctrl_c_stops_the_compiler(
    model: str, options: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command exits at once with status 130 and leaves no files behind."""
    log = qaic_compile.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setenv("STANDIN_COMPILER", "hang")
    process = start("compile", model, "--options", options, "--backend", "aic")
    assert process.stderr is not None
    while "compiling, which can take long" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    assert log.parent.is_dir()
