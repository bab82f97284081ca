"""What happened: the values that `SchedulerState.handle` takes. A `Request` is its own arrival.

Like `values`, this is never compiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from qaic_sched.core.model import Completed, Policy, Request

__all__ = [
    "ActivationsAdded",
    "ActivationsRetired",
    "Cancelled",
    "Closed",
    "Completed",
    "DeviceOpened",
    "DeviceRetired",
    "DrainStarted",
    "Event",
    "PolicyChanged",
    "ReloadFailed",
    "SetSizeChanged",
]


@dataclass(slots=True)
class DeviceOpened:
    """A device has the program loaded and takes up to `set_size` batches per activation.

    For the first time, or anew after a quarantine; then it holds nothing from before.
    """

    device_id: int
    num_activations: int
    set_size: int


@dataclass(slots=True)
class ReloadFailed:
    """A device that was to be reloaded could not be."""

    device_id: int


@dataclass(slots=True)
class ActivationsAdded:
    """An open device has loaded more activations, which have these indexes."""

    device_id: int
    indexes: tuple[int, ...]


@dataclass(slots=True)
class ActivationsRetired:
    """Some of a device's activations are wanted no more, once they have done what they hold."""

    device_id: int
    indexes: tuple[int, ...]


@dataclass(slots=True)
class DeviceRetired:
    """A device is wanted no more, once it has done what it holds."""

    device_id: int


@dataclass(slots=True)
class SetSizeChanged:
    """Every activation takes up to so many batches from now on."""

    set_size: int


@dataclass(slots=True)
class PolicyChanged:
    """Decisions follow other parameters from now on; the compiled sizes are the same."""

    policy: Policy


@dataclass(slots=True)
class Cancelled:
    """The caller no longer wants the request. No effect on one that is resolved already."""

    request_id: int


@dataclass(slots=True)
class DrainStarted:
    """Nothing new will arrive; finish what is there without waiting for company."""


@dataclass(slots=True)
class Closed:
    """Nothing new will arrive; cancel what is there."""


Event: TypeAlias = (
    Request
    | DeviceOpened
    | Completed
    | ReloadFailed
    | ActivationsAdded
    | ActivationsRetired
    | DeviceRetired
    | SetSizeChanged
    | PolicyChanged
    | Cancelled
    | DrainStarted
    | Closed
)
