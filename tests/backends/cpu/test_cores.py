"""The cores of CPU devices, and how devices share them."""

from __future__ import annotations

import os
from typing import Any

import pytest

from qaic_sched.backends.cpu import cores
from qaic_sched.errors import ConfigError


def test_a_host_that_reports_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the OS reports neither affinity nor memory size, all cores count and the size is None."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    monkeypatch.delattr(os, "sysconf", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cores.usable_cores() == [0, 1, 2, 3, 4]
    assert cores.memory_bytes() is None
    cores.pin_to([0])  # does nothing


@pytest.mark.parametrize(
    ("devices", "ids"), [("all", [0]), (1, [0]), (3, [0, 1, 2]), ([6, 2], [6, 2])]
)
def test_devices_mean_shares(devices: Any, ids: list[int]) -> None:
    """`all` means one device, a count that number, a list those ids."""
    assert cores.choose_ids(devices, 7) == ids


@pytest.mark.parametrize("ids", [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3, 4], [4], [6, 0]])
def test_shares_are_disjoint_and_even(ids: list[int]) -> None:
    """Shares are disjoint, and their sizes differ by at most one core."""
    shares = cores.share_out(range(10, 17), ids)
    assert list(shares) == ids
    assert sorted(core for share in shares.values() for core in share) == list(range(10, 17))
    assert max(map(len, shares.values())) - min(map(len, shares.values())) <= 1


@pytest.mark.parametrize(
    ("devices", "problem"),
    [
        (8, r"devices: got 8; .*may use 7 core\(s\)"),
        ([2, 7], r"devices: got \[2, 7\]; .*ids 0 to 6"),
        ([1, 1], r"devices: \[1, 1\] names a device twice"),
        ([], r"devices: got \[\]; wanted at least one"),
        (0, "devices: got 0; wanted at least one"),
    ],
)
def test_devices_that_cannot_be(devices: Any, problem: str) -> None:
    """More devices than cores, ids beyond them, repeated ids and no device are refused."""
    with pytest.raises(ConfigError, match=problem):
        cores.choose_ids(devices, 7)
