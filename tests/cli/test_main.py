"""Tests of `main`: exit statuses, help, and messages on stderr."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import pytest

from qaic_sched.cli import app, main
from qaic_sched.errors import DeviceError, InternalError
from tests.cli.command_line import cards, start

if TYPE_CHECKING:
    from pathlib import Path


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Make every command raise this error."""

    def raise_it(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(app.command, "main", raise_it)


@pytest.mark.parametrize("name", ["devices", "run", "bench", "check", "replay"])
def test_every_command_has_help_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--help` explains the command and shows an example."""
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Usage: qaic-sched " + name in shown
    assert "Example: qaic-sched " + name in shown


@pytest.mark.parametrize(
    "arguments",
    [["fly"], ["run"], ["check"], ["bench", "x.yaml", "--num-inferences", "0"], ["devices", "-x"]],
)
def test_bad_arguments_are_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong arguments exit with status 2 and a usage line on stderr."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage: qaic-sched" in captured.err


def test_a_bad_configuration_is_status_2_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A `SchedulerError` is printed in one line, without a traceback."""
    assert main(["bench", str(tmp_path / "none.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("qaic-sched: ")
    assert "none.yaml: cannot be read" in line


def test_a_failed_run_is_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed run exits with status 1; a message of several lines is printed as one."""
    fail_with(monkeypatch, DeviceError("device 3 burns\nbrightly"))
    assert main([]) == 1
    assert capsys.readouterr().err == "qaic-sched: device 3 burns brightly\n"


def test_our_own_bug_shows_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An `InternalError` is printed with its traceback, for a bug report."""
    fail_with(monkeypatch, InternalError("a rule was broken"))
    assert main([]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "InternalError: a rule was broken" in shown


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_missing_packages_are_one_sentence(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without typer or rich, the command prints how to install them."""
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["devices"]) == 2
    assert capsys.readouterr().err == (
        f"qaic-sched: the command line needs {package}, which is not installed: "
        "pip install 'qaic-sched[cli]'\n"
    )


def test_the_log_goes_to_stderr_while_a_command_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log is printed to stderr during a command, and the logger restored afterwards."""
    logger = logging.getLogger("qaic_sched")
    before = logger.level, list(logger.handlers)
    config = cards(tmp_path)
    config.write_text(config.read_text() + "aic_wings: 2\n")
    assert main(["devices", str(config)]) == 0
    assert "qaic-sched: unknown options, passed to the compiler" in capsys.readouterr().err
    assert (logger.level, logger.handlers) == before


@pytest.mark.slow
def test_the_module_runs_as_a_program() -> None:
    """`python -m qaic_sched` uses the process's arguments and sets its exit status."""
    process = start("fly")
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "No such command 'fly'" in shown
