"""The cores of CPU devices: which the process may use, and how devices share them."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING

from qaic_sched.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["choose_ids", "memory_bytes", "pin_to", "share_out", "usable_cores"]


def usable_cores() -> list[int]:
    """The cores that this process may use, in ascending order."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin_to(cores: Sequence[int]) -> None:
    """Pin the calling thread, and threads that it starts, to these cores if the OS supports it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def memory_bytes() -> int | None:
    """The memory of the host; None if the OS does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def share_out(cores: Sequence[int], device_ids: Sequence[int]) -> dict[int, list[int]]:
    """Device id -> its cores: disjoint shares, whose sizes differ by at most one core."""
    ends = [len(cores) * index // len(device_ids) for index in range(len(device_ids) + 1)]
    shares = (list(cores[start:end]) for start, end in pairwise(ends))
    return dict(zip(device_ids, shares, strict=True))


def choose_ids(devices: str | int | list[int], num_cores: int) -> list[int]:
    """Resolve the option `devices` to ids; each device needs at least one core."""
    if isinstance(devices, str):
        return [0]
    device_ids = list(range(devices)) if isinstance(devices, int) else list(devices)
    if not device_ids:
        raise ConfigError(f"devices: got {devices}; wanted at least one cpu device")
    if len(set(device_ids)) < len(device_ids):
        raise ConfigError(f"devices: {devices} names a device twice")
    beyond = [device_id for device_id in device_ids if not 0 <= device_id < num_cores]
    if beyond:
        raise ConfigError(
            f"devices: got {devices}; each cpu device needs a core, and this process may use "
            f"{num_cores} core(s): ids 0 to {num_cores - 1}"
        )
    return device_ids
