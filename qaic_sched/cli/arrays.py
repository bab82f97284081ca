"""Inputs from an `.npz` file, and outputs to one."""

from __future__ import annotations

import os
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from qaic_sched.errors import InputError, SchedulerError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from qaic_sched.program import Tensors

__all__ = ["check_output_path", "read_arrays", "write_arrays"]


def read_arrays(path: Path) -> Tensors:
    """All arrays of an `.npz` file, by name; `InputError` names the file."""
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise zipfile.BadZipFile("no zip archive of arrays, as numpy.savez writes")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not an npz file of plain arrays: {error}") from error


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
