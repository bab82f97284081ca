"""Tests of `qaic-sched replay`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from qaic_sched.cli import main
from tests.cli.command_line import cards, config_of, save_rows

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The log of a run of 40 rows."""
    path = tmp_path / "events.jsonl"
    cards(tmp_path)
    config = config_of(tmp_path, model="cards.sim.yaml", event_log=str(path))
    assert main(["run", str(config), "--input", str(save_rows(tmp_path, 40))]) == 0
    capsys.readouterr()
    return path


def cut(log: Path, removed: str) -> int:
    """Remove the first line with this event; its number."""
    lines = log.read_text().splitlines(keepends=True)
    number = next(i for i, line in enumerate(lines, 1) if json.loads(line)["event"] == removed)
    del lines[number - 1]
    log.write_text("".join(lines))
    return number


def test_the_same_decisions_are_status_0(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table has the log beside the replay, and a line says that they agree."""
    assert main(["replay", str(log)]) == 0
    shown, said = capsys.readouterr()
    heading, *lines = shown.splitlines()
    assert heading.split() == ["decided", "log", "replay"]
    assert ["samples", "40", "40"] in [line.split() for line in lines]
    assert "the same decisions" in lines[-1]
    assert said == ""


def test_a_difference_is_status_1_and_named(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line, and what stands on both sides of it."""
    number = cut(log, "dispatch")
    assert main(["replay", str(log)]) == 1
    shown, said = capsys.readouterr()
    assert "the decisions differ" in shown
    assert f"events.jsonl:{number}: the log has " in said
    assert 'the replay {"event":"dispatch"' in said


def test_as_json(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` prints all that is known, with or without a difference."""
    assert main(["replay", str(log), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["difference"] is None
    assert result["logged"] == result["replayed"]
    assert result["logged"]["samples"] == 40
    number = cut(log, "resolve")
    assert main(["replay", str(log), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["difference"]["line"] >= number


def test_a_log_that_was_cut_off_is_said(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A crash of the run is no difference."""
    log.write_bytes(log.read_bytes()[:-30])
    assert main(["replay", str(log)]) == 0
    assert "the log was cut off" in capsys.readouterr().err


def test_what_is_no_log_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says what is wrong with the file."""
    assert main(["replay", str(tmp_path / "none")]) == 2
    assert "none cannot be read" in capsys.readouterr().err
