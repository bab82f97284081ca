"""Raw records survive a round trip through a file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from qaic_sched.errors import InputError
from qaic_sched.loadgen.inject.records import Records
from qaic_sched.loadgen.inject.records_file import load_records, save_records
from qaic_sched.loadgen.targets.base import DeviceSample


def test_records_survive_a_file(tmp_path: Path) -> None:
    """Arrays, counts and samples come back unchanged, from a file of exactly that name."""
    records = Records.for_requests(np.arange(1000, dtype=np.int64))
    records.done_ns[::2] = 10**15
    records.outcome[::3] = 0
    records.ended_ns = 2**60
    records.problems = {"device 1: Ärger": 3}
    records.device_samples = [DeviceSample(5, 2, {0: 0.1, 17: 1 / 3}, {0: 1, 17: 2})]

    save_records(records, tmp_path / "records")
    loaded = load_records(tmp_path / "records")

    for each in fields(Records):
        was, now = getattr(records, each.name), getattr(loaded, each.name)
        if isinstance(was, np.ndarray):
            assert (was.dtype, was.tobytes()) == (now.dtype, now.tobytes()), each.name
        else:
            assert was == now, each.name


def test_records_of_no_requests_survive_too(tmp_path: Path) -> None:
    """Records without rows survive, too."""
    save_records(Records.for_requests(np.empty(0, np.int64)), tmp_path / "none.npz")

    assert len(load_records(tmp_path / "none.npz").sent_ns) == 0


def test_other_files_are_refused(tmp_path: Path) -> None:
    """Missing files, other archives and truncated files raise `InputError`."""
    save_records(Records.for_requests(np.zeros(100, np.int64)), tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "other.npz", data=np.zeros(3))

    for name in ("missing.npz", "cut.npz", "empty.npz", "other.npz"):
        with pytest.raises(InputError, match=rf"{name}: not a records file of a load test"):
            load_records(tmp_path / name)
