"""Writing outputs to `.npz` files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from qaic_sched.cli.arrays import check_output_path, write_arrays
from qaic_sched.errors import InputError, SchedulerError
from qaic_sched.npz_file import read_arrays

if TYPE_CHECKING:
    from pathlib import Path


def test_written_arrays_can_be_read(tmp_path: Path) -> None:
    """Names, types and values survive, in a file of exactly the given name."""
    arrays = {"a": np.arange(6).reshape(2, 3), "scores/0": np.ones((2, 1), np.float16)}
    write_arrays(tmp_path / "out.bin", arrays)
    read = read_arrays(tmp_path / "out.bin")
    assert list(read) == ["a", "scores/0"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array, strict=True)


def test_an_output_path_is_checked_before_the_work(tmp_path: Path) -> None:
    """A directory, and a file in a missing directory, are rejected."""
    check_output_path(tmp_path / "out.npz")
    with pytest.raises(InputError, match="it is a directory"):
        check_output_path(tmp_path)
    with pytest.raises(InputError, match=r"no such directory: .*none"):
        check_output_path(tmp_path / "none" / "out.npz")


def test_an_output_without_permission_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing permission is found before the work starts."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"out\.npz: cannot be written: permission denied"):
        check_output_path(tmp_path / "out.npz")


def test_a_failed_write_is_a_scheduler_error(tmp_path: Path) -> None:
    """An `OSError` while writing becomes a `SchedulerError`."""
    with pytest.raises(SchedulerError, match=r"cannot be written: Is a directory"):
        write_arrays(tmp_path, {"a": np.zeros(1)})
