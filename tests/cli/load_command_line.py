"""Helpers for tests of `qaic-sched load`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from qaic_sched.cli import main
from qaic_sched.loadgen.report.report import Report
from tests.cli.command_line import cards

__all__ = ["alone", "load", "printed_report", "virtual"]


def load(*arguments: object) -> int:
    """Run the command; return its exit status."""
    return main(["load", *map(str, arguments)])


def virtual(config: Path, *arguments: object) -> int:
    """Run the command in virtual time; return its exit status."""
    return load(config, "--virtual", *arguments)


def alone(folder: Path, **changes: Any) -> Path:
    """Write a configuration of four simulated cards with 2 ms per inference of one sample."""
    spec = {
        "inputs": {"data": {"shape": [1, 3], "dtype": "float32"}},
        "outputs": {"mean": {"shape": [1, 1], "dtype": "float32"}},
        "batch_sizes": [1],
        "service_time_s": 0.002,
        "devices": 4,
        **changes,
    }
    return cards(folder, **spec)


def printed_report(capsys: pytest.CaptureFixture[str]) -> Report:
    """Return the report that `--json` printed."""
    return msgspec.json.decode(capsys.readouterr().out, type=Report)
