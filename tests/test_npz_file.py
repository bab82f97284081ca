"""Reading inputs from `.npz` files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from qaic_sched.errors import InputError
from qaic_sched.npz_file import read_arrays

if TYPE_CHECKING:
    from pathlib import Path


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    """A missing file is an `InputError` that names the file."""
    with pytest.raises(InputError, match=r"none\.npz: cannot be read: No such file"):
        read_arrays(tmp_path / "none.npz")


def test_an_empty_file_is_rejected(tmp_path: Path) -> None:
    """A file without content is not an npz file."""
    path = tmp_path / "empty.npz"
    path.touch()
    with pytest.raises(InputError, match=r"empty\.npz: not an npz file"):
        read_arrays(path)


def test_a_single_array_is_rejected(tmp_path: Path) -> None:
    """A file of one unnamed array, as `numpy.save` writes it, is rejected."""
    path = tmp_path / "one.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(InputError, match=r"one\.npy: not an npz file.*numpy\.savez"):
        read_arrays(path)


def test_objects_are_rejected(tmp_path: Path) -> None:
    """An array of objects is rejected, because it would have to be unpickled."""
    path = tmp_path / "objects.npz"
    np.savez(path, a=np.array([object()]))
    with pytest.raises(InputError, match=r"objects\.npz: not an npz file of plain arrays"):
        read_arrays(path)
