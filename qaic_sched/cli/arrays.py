"""Writing outputs to an `.npz` file."""

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
    """Raise `InputError` if `path` cannot be written, before a run whose outputs would be lost."""
    if path.is_dir():
        raise InputError(f"{path}: cannot be written: it is a directory")
    if not path.parent.is_dir():
        raise InputError(f"{path}: cannot be written: no such directory: {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written: permission denied")


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an `.npz` file of exactly this name. Raises `SchedulerError` if that fails."""
    try:
        with path.open("wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise SchedulerError(f"{path}: cannot be written: {error.strerror or error}") from error
