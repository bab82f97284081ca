"""The description of the host in a report."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

from qaic_sched.loadgen.report import host
from qaic_sched.loadgen.report.host import describe_host
from qaic_sched.testing import run_virtual


async def described() -> dict[str, Any]:
    """Describe the host from a running loop."""
    return describe_host()


def test_the_host_is_described() -> None:
    """The host has machine, Python, clock and versions, and no unknown values."""
    found = asyncio.run(described())

    assert found["cores"] >= found["usable_cores"] >= 1
    assert found["cpu"]
    assert found["python"].startswith("CPython 3.")
    assert found["event_loop"] == "asyncio"
    assert "CLOCK_MONOTONIC" in found["clock"]
    assert "numpy" in found["packages"]
    assert None not in found.values()
    assert None not in found["packages"].values()


def test_virtual_time_is_named() -> None:
    """Virtual time is named as such."""
    found = run_virtual(described)

    assert (found["event_loop"], found["clock"]) == ("virtual", "virtual")


def test_the_commit_is_that_of_the_checkout_or_none(tmp_path: Path) -> None:
    """The commit is the checkout's, marked if it has changes; an installed package has none."""
    assert host._git_commit(tmp_path) is None
    (tmp_path / "file").write_text("1")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    commit = host._git_commit(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    (tmp_path / "file").write_text("2")
    assert host._git_commit(tmp_path) == f"{commit}-dirty"


def test_what_cannot_be_found_out_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing system files leave their facts out."""
    monkeypatch.setattr(host, "_CPU_INFO", tmp_path / "none")
    monkeypatch.setattr(host, "_GOVERNOR", tmp_path / "none")

    found = asyncio.run(described())

    assert found["cpu"]
    assert "governor" not in found
