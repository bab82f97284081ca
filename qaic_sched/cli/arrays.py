"""Inputs from an `.npz` file, and outputs to one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from qaic_sched.errors import InputError, SchedulerError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


__all__ = ["check_output_path", "write_arrays"]


def check_output_path(path: Path) -> None:
    """Raise `InputError` where `path` cannot be written, before hours of work are lost on it."""
    if path.is_dir():
        raise InputError(f"{path}: cannot be written: it is a directory")
    if not path.parent.is_dir():
        raise InputError(f"{path}: cannot be written: there is no directory {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written: permission denied")


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as an `.npz` file of exactly this name; `SchedulerError` where that fails."""
    try:
        with path.open("wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise SchedulerError(f"{path}: cannot be written: {error.strerror or error}") from error
