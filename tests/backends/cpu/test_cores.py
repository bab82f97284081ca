"""Tests of the cores that CPU devices are made of."""

from __future__ import annotations

import os
from typing import Any

import pytest

from qaic_sched.backends.cpu import cores
from qaic_sched.errors import ConfigError


def test_a_machine_that_tells_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the OS has no affinity and no memory size, all cores count and the size is None."""
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
    """`all` is one device, a count so many, a list those."""
    assert cores.choose_ids(devices, 7) == ids


@pytest.mark.parametrize("ids", [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3, 4], [4], [6, 0]])
def test_shares_are_disjoint_and_even(ids: list[int]) -> None:
    """The devices' shares hold each core once, and differ by one core at most."""
    shares = cores.share_out(range(10, 17), ids)
    assert list(shares) == ids
    assert sorted(core for share in shares.values() for core in share) == list(range(10, 17))
    assert max(map(len, shares.values())) - min(map(len, shares.values())) <= 1


@pytest.mark.parametrize(
    ("devices", "problem"),
    [
        (8, r"devices: 8 asked for.*may use 7 core\(s\)"),
        ([2, 7], r"devices: \[2, 7\] asked for.*ids 0 to 6"),
        ([1, 1], r"devices: \[1, 1\] names a device twice"),
        ([], r"devices: \[\] is no cpu device"),
        (0, "devices: 0 is no cpu device"),
    ],
)
def test_devices_that_cannot_be(devices: Any, problem: str) -> None:
    """More devices than cores, ids beyond them, repeated ids and none at all are refused."""
    with pytest.raises(ConfigError, match=problem):
        cores.choose_ids(devices, 7)
