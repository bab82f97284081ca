"""The cores that CPU devices are made of: which there are, and how they are shared out."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING

from qaic_sched.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["choose_ids", "memory_bytes", "pin_to", "share_out", "usable_cores"]


def usable_cores() -> list[int]:
    """The cores that this process may use, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin_to(cores: Sequence[int]) -> None:
    """Keep the calling thread, and threads that it will make, on these cores where the OS can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def memory_bytes() -> int | None:
    """The machine's memory, None where the OS does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def share_out(cores: Sequence[int], device_ids: Sequence[int]) -> dict[int, list[int]]:
    """Device id -> its cores: each core once, and shares that differ by one core at most."""
    ends = [len(cores) * index // len(device_ids) for index in range(len(device_ids) + 1)]
    shares = (list(cores[start:end]) for start, end in pairwise(ends))
    return dict(zip(device_ids, shares, strict=True))


def choose_ids(devices: str | int | list[int], num_cores: int) -> list[int]:
    """The device ids that the option `devices` means; each needs a core of its own."""
    if isinstance(devices, str):
        return [0]
    device_ids = list(range(devices)) if isinstance(devices, int) else list(devices)
    if not device_ids:
        raise ConfigError(f"devices: {devices} is no cpu device at all")
    if len(set(device_ids)) < len(device_ids):
        raise ConfigError(f"devices: {devices} names a device twice")
    beyond = [device_id for device_id in device_ids if not 0 <= device_id < num_cores]
    if beyond:
        raise ConfigError(
            f"devices: {devices} asked for, but each cpu device needs a core of its own and this "
            f"process may use {num_cores} core(s): ids 0 to {num_cores - 1}"
        )
    return device_ids
