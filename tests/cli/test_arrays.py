"""Tests of reading and writing `.npz` files."""

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


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Names, types and values come back, from a file of exactly the name given."""
    arrays = {"a": np.arange(6).reshape(2, 3), "scores/0": np.ones((2, 1), np.float16)}
    write_arrays(tmp_path / "out.bin", arrays)
    read = read_arrays(tmp_path / "out.bin")
    assert list(read) == ["a", "scores/0"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array, strict=True)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    """The file that is not there is named."""
    with pytest.raises(InputError, match=r"none\.npz: cannot be read: No such file"):
        read_arrays(tmp_path / "none.npz")


def test_an_empty_file_is_no_npz(tmp_path: Path) -> None:
    """A file without content is refused."""
    path = tmp_path / "empty.npz"
    path.touch()
    with pytest.raises(InputError, match=r"empty\.npz: not an npz file"):
        read_arrays(path)


def test_a_single_array_is_no_npz(tmp_path: Path) -> None:
    """The file of one array without a name, as numpy.save writes it, is refused."""
    path = tmp_path / "one.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(InputError, match=r"one\.npy: not an npz file.*numpy\.savez"):
        read_arrays(path)


def test_objects_are_refused(tmp_path: Path) -> None:
    """Nothing is unpickled from an input file."""
    path = tmp_path / "objects.npz"
    np.savez(path, a=np.array([object()]))
    with pytest.raises(InputError, match=r"objects\.npz: not an npz file of plain arrays"):
        read_arrays(path)


def test_an_output_path_is_checked_before_the_work(tmp_path: Path) -> None:
    """A directory, or a file in a directory that does not exist, cannot be written."""
    check_output_path(tmp_path / "out.npz")
    with pytest.raises(InputError, match="it is a directory"):
        check_output_path(tmp_path)
    with pytest.raises(InputError, match=r"there is no directory .*none"):
        check_output_path(tmp_path / "none" / "out.npz")


def test_an_output_that_may_not_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing permissions are found before the work too."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"out\.npz: cannot be written: permission denied"):
        check_output_path(tmp_path / "out.npz")


def test_a_write_that_fails_is_one_sentence(tmp_path: Path) -> None:
    """What the operating system refuses in the end is an error of ours."""
    with pytest.raises(SchedulerError, match=r"cannot be written: Is a directory"):
        write_arrays(tmp_path, {"a": np.zeros(1)})
