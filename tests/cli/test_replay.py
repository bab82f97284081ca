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
    """Write the event log of a run of 40 rows."""
    path = tmp_path / "events.jsonl"
    cards(tmp_path)
    no_hedging = {"enabled": False}  # a busy machine would add hedges to the counts
    config = config_of(tmp_path, model="cards.sim.yaml", event_log=str(path), hedging=no_hedging)
    assert main(["run", str(config), "--input", str(save_rows(tmp_path, 40))]) == 0
    capsys.readouterr()
    return path


def cut(log: Path, removed: str) -> int:
    """Remove the first line with this event and return its line number."""
    lines = log.read_text().splitlines(keepends=True)
    number = next(i for i, line in enumerate(lines, 1) if json.loads(line)["event"] == removed)
    del lines[number - 1]
    log.write_text("".join(lines))
    return number


def test_the_same_decisions_are_status_0(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table compares log and replay, and the last line says that they agree."""
    assert main(["replay", str(log)]) == 0
    stdout, stderr = capsys.readouterr()
    heading, *lines = stdout.splitlines()
    assert heading.split() == ["decisions", "log", "replay"]
    assert ["samples", "40", "40"] in [line.split() for line in lines]
    assert "the same decisions" in lines[-1]
    assert stderr == ""


def test_a_difference_is_status_1_and_named(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A difference is reported with its line and both decisions."""
    number = cut(log, "dispatch")
    assert main(["replay", str(log)]) == 1
    stdout, stderr = capsys.readouterr()
    assert "the decisions differ" in stdout
    assert f"events.jsonl:{number}: the log has " in stderr
    assert 'the replay {"event":"dispatch"' in stderr


def test_as_json(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` prints the whole result, with or without a difference."""
    assert main(["replay", str(log), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["difference"] is None
    assert result["logged"] == result["replayed"]
    assert result["logged"]["samples"] == 40
    number = cut(log, "resolve")
    assert main(["replay", str(log), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["difference"]["line"] >= number


def test_a_log_that_ends_early_is_reported(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log cut off by a crash is reported, but does not count as a difference."""
    log.write_bytes(log.read_bytes()[:-30])
    assert main(["replay", str(log)]) == 0
    assert "the log ends early" in capsys.readouterr().err


def test_a_missing_log_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not a readable log is an error with status 2."""
    assert main(["replay", str(tmp_path / "none")]) == 2
    assert "none cannot be read" in capsys.readouterr().err
