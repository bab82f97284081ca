"""Helpers of the command-line tests: configurations, inputs, and the command as a process."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["cards", "config_of", "means", "save_rows", "start", "two_models"]


def cards(folder: Path, **changes: Any) -> Path:
    """Write a configuration of two simulated cards that take 1 ms for 4 rows, with `changes`."""
    spec = {
        "inputs": {"data": {"shape": [4, 3], "dtype": "float32"}},
        "outputs": {"mean": {"shape": [4, 1], "dtype": "float32"}},
        "batch_sizes": [1, 4],
        "service_time_s": 0.001,
        "devices": 2,
        **changes,
    }
    (folder / "cards.sim.yaml").write_text(yaml.safe_dump(spec))
    return config_of(folder, model="cards.sim.yaml")


def config_of(folder: Path, **keys: Any) -> Path:
    """Write a configuration file with these keys."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(keys))
    return path


def save_rows(folder: Path, count: int) -> Path:
    """Write an input file for `cards`, where row i holds the number i."""
    path = folder / "in.npz"
    np.savez(path, data=np.repeat(np.arange(count, dtype=np.float32)[:, None], 3, axis=1))
    return path


def means(count: int) -> list[float]:
    """Return the answers of `cards` to the first `count` rows of that file."""
    return [float(row) for row in range(count)]


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start the command as a process that handles SIGINT, even if this one ignores it."""
    command = [sys.executable, "-m", "qaic_sched", *map(str, arguments)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


def two_models(folder: Path, **keys: Any) -> Path:
    """Write a configuration of two models, `a` and `b`, on the cards of `cards`, with `keys`."""
    cards(folder)
    models = {"a": "cards.sim.yaml", "b": {"model": "cards.sim.yaml", "num_activations": 2}}
    return config_of(folder, models=models, **keys)
