"""SIGHUP in a long-running command: the configuration is reloaded, or rejected as a whole."""

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
    """Open a scheduler on `cards`, append `text` to its configuration and send SIGHUP."""
    path = cards(folder, cores=8)

    async def main() -> Scheduler:
        async with Scheduler.from_config(path, **OVERRIDES) as scheduler:
            with Hangup(scheduler, path, **OVERRIDES):
                path.write_text(path.read_text() + text)
                signal.raise_signal(signal.SIGHUP)
                await asyncio.sleep(1.0)
        return scheduler

    return run_virtual(main)


def test_live_keys_are_applied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Live keys take their new values, and the command's overrides still hold."""
    text = "num_activations: 4\nqueue: {max_samples: 64, when_full: reject}\n"
    scheduler = _hang_up(tmp_path, text)

    assert scheduler.config.num_activations == 4
    assert (scheduler.config.queue.max_samples, scheduler.config.queue.when_full) == (64, "wait")
    devices = scheduler.get_metrics()["devices"].values()
    assert [each["activations"] for each in devices] == [4, 4]
    assert f"SIGHUP: reloaded {tmp_path}" in capsys.readouterr().err


def test_other_changed_keys_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Changed keys that are not live are named, and live ones are applied."""
    scheduler = _hang_up(tmp_path, "backend: sim\nset_size: 3\n")

    assert (scheduler.config.backend, scheduler.config.set_size) == ("auto", 3)
    assert "ignored until a restart: backend" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("num_activations: many\n", "num_activations: expected `int`"),
        ("num_activations: 99\n", "99 of 1 cores"),
        ("quue: {max_samples: 1}\n", "quue: unknown section"),
        ("{", "config.yaml"),
    ],
)
def test_an_invalid_file_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, problem: str
) -> None:
    """An invalid file is reported in one line and changes nothing."""
    scheduler = _hang_up(tmp_path, text)
    [line] = capsys.readouterr().err.splitlines()

    assert line.startswith("qaic-sched: SIGHUP: nothing changed: ")
    assert problem in line
    assert scheduler.config.num_activations == 1


def test_the_signal_handler_is_restored(tmp_path: Path) -> None:
    """Leaving the context restores the previous signal handler."""
    before = signal.getsignal(signal.SIGHUP)
    _hang_up(tmp_path, "")

    assert signal.getsignal(signal.SIGHUP) == before
