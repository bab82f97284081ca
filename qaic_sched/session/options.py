"""Checks the options of a Session: its device, live changes and the extent of a benchmark."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qaic_sched.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["benchmark_extent", "checked_changes", "checked_count", "only_device"]

DEFAULT_NUM_INFERENCES = 40
LEAST = {"num_activations": 1, "set_size": 1, "dev_id": 0}
"""The options that can be changed after creation -> the least value of each."""
VENDOR_MISSPELLING = {"num_activation": "num_activations"}


def only_device(devices: str | int | list[int]) -> int:
    """Resolve the option `devices` to one id; its default, `"all"`, means the vendor's, 0."""
    if devices == "all" or devices == 1:
        return 0
    if isinstance(devices, list) and len(devices) == 1:
        return devices[0]
    raise ConfigError(
        f"devices: got {devices}; a Session runs on one device (dev_id): for several, use "
        f"qaic_sched.Scheduler"
    )


def checked_changes(options: Mapping[str, object]) -> dict[str, int]:
    """Check changes of live options; `ConfigError` names the wrong key or value."""
    changes: dict[str, int] = {}
    for given, value in options.items():
        key = VENDOR_MISSPELLING.get(given, given)
        if key not in LEAST:
            raise ConfigError(f"{given}: cannot be changed after creation; {', '.join(LEAST)} can")
        if key in changes:
            raise ConfigError(f"{key}: given twice, in two spellings")
        if type(value) is not int or value < LEAST[key]:
            raise ConfigError(f"{key}: got {value!r}; wanted an int of at least {LEAST[key]}")
        changes[key] = value
    return changes


def benchmark_extent(num_inferences: int | None, inf_time: float | None) -> tuple[float, float]:
    """The limits of a benchmark, (inferences, seconds); `ConfigError` if both are given."""
    if num_inferences is not None and inf_time is not None:
        raise ConfigError("num_inferences and inf_time are both given: give one of them")
    if inf_time is not None:
        is_number = isinstance(inf_time, (int, float)) and not isinstance(inf_time, bool)
        if not is_number or not 0 < inf_time < math.inf:
            raise ConfigError(f"inf_time: got {inf_time!r}; wanted a number of seconds above 0")
        return math.inf, inf_time
    if num_inferences is None:
        return DEFAULT_NUM_INFERENCES, math.inf
    return checked_count("num_inferences", num_inferences), math.inf


def checked_count(key: str, value: object) -> int:
    """Check that the value is an int of at least 1; otherwise `ConfigError` names the key."""
    if type(value) is not int or value < 1:
        raise ConfigError(f"{key}: got {value!r}; wanted an int of at least 1")
    return value
