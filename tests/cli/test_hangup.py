"""SIGHUP in a long-running command: the configuration is read again, and applied or refused."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from qaic_sched.cli.hangup import Hangup
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.cli.command_line import cards

OVERRIDES: dict[str, Any] = {"queue": {"when_full": "wait"}}


def _hang_up(folder: Path, text: str) -> Scheduler:
    """Open a scheduler on `cards`, add this text to its configuration, hang up; give it back."""
    path = cards(folder, cores=8)

    async def main() -> Scheduler:
        async with Scheduler.from_config(path, **OVERRIDES) as scheduler:
            with Hangup(scheduler, path, **OVERRIDES):
                path.write_text(path.read_text() + text)
                signal.raise_signal(signal.SIGHUP)
                await asyncio.sleep(1.0)
        return scheduler

    return run_virtual(main)


def test_what_may_change_is_applied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file's new values are in effect, and what the command itself wanted still holds."""
    text = "num_activations: 4\nqueue: {max_samples: 64, when_full: reject}\n"
    scheduler = _hang_up(tmp_path, text)

    assert scheduler.config.num_activations == 4
    assert (scheduler.config.queue.max_samples, scheduler.config.queue.when_full) == (64, "wait")
    devices = scheduler.get_metrics()["devices"].values()
    assert [each["activations"] for each in devices] == [4, 4]
    assert "was read again and is in effect" in capsys.readouterr().err


def test_what_needs_a_restart_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rest is applied."""
    scheduler = _hang_up(tmp_path, "backend: sim\nset_size: 3\n")

    assert (scheduler.config.backend, scheduler.config.set_size) == ("auto", 3)
    assert "needs a restart, and stays as it was: backend" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("num_activations: many\n", "num_activations: expected `int`"),
        ("num_activations: 99\n", "99 of 1 cores"),
        ("quue: {max_samples: 1}\n", "quue: unknown section"),
        ("{", "config.yaml"),
    ],
)
def test_a_bad_file_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, problem: str
) -> None:
    """It is said in one line."""
    scheduler = _hang_up(tmp_path, text)
    [line] = capsys.readouterr().err.splitlines()

    assert line.startswith("qaic-sched: SIGHUP: nothing was changed: ")
    assert problem in line
    assert scheduler.config.num_activations == 1


def test_the_signal_is_given_back(tmp_path: Path) -> None:
    """Outside the `with` a hang-up means what it meant before."""
    before = signal.getsignal(signal.SIGHUP)
    _hang_up(tmp_path, "")

    assert signal.getsignal(signal.SIGHUP) == before
