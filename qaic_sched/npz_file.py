"""Reads the arrays of an `.npz` file."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import numpy as np

from qaic_sched.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from qaic_sched.program import Tensors

__all__ = ["read_arrays"]


def read_arrays(path: Path) -> Tensors:
    """Return all arrays of an `.npz` file by name; `InputError` names the file and the problem."""
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise zipfile.BadZipFile("not a zip archive of arrays, as numpy.savez writes it")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not an npz file of plain arrays: {error}") from error
