"""The events that `SchedulerState.handle` takes. A `Request` is the event of its own arrival.

This module is never compiled, for the reasons given in `values`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from qaic_sched.core.model import Completed, DeviceNews, Policy, Request

__all__ = [
    "ActivationsAdded",
    "ActivationsRetired",
    "Cancelled",
    "Closed",
    "Completed",
    "DeviceOpened",
    "DeviceReported",
    "DeviceRetired",
    "DrainStarted",
    "Event",
    "LoopStalled",
    "PolicyChanged",
    "ReloadFailed",
    "SetSizeChanged",
]


@dataclass(slots=True)
class DeviceOpened:
    """A device has loaded the program, for the first time or again after a quarantine.

    Each activation takes up to `set_size` batches. A device that was reloaded holds no batch from
    before.
    """

    device_id: int
    num_activations: int
    set_size: int


@dataclass(slots=True)
class ReloadFailed:
    """A reload that the core asked for has failed."""

    device_id: int


@dataclass(slots=True)
class DeviceReported:
    """Another model has learned something about a device. Ignored if the device is not open."""

    device_id: int
    news: DeviceNews


@dataclass(slots=True)
class LoopStalled:
    """The event loop has not run for some time, up to now: the process or its loop stood still.

    It is the first event of its call, ahead of the answers that came meanwhile.
    """

    stalled_s: float


@dataclass(slots=True)
class ActivationsAdded:
    """An open device has loaded more activations, with these indexes."""

    device_id: int
    indexes: tuple[int, ...]


@dataclass(slots=True)
class ActivationsRetired:
    """Some of a device's activations are to be removed once they hold nothing."""

    device_id: int
    indexes: tuple[int, ...]


@dataclass(slots=True)
class DeviceRetired:
    """A device is to be removed once it holds nothing."""

    device_id: int


@dataclass(slots=True)
class SetSizeChanged:
    """Every activation takes up to `set_size` batches from now on."""

    set_size: int


@dataclass(slots=True)
class PolicyChanged:
    """Decisions follow another policy from now on; its compiled sizes are unchanged."""

    policy: Policy


@dataclass(slots=True)
class Cancelled:
    """The caller no longer wants the request. Ignored if the request is resolved already."""

    request_id: int


@dataclass(slots=True)
class DrainStarted:
    """No more requests will arrive. Finish the rest without waiting for fuller batches."""


@dataclass(slots=True)
class Closed:
    """No more requests will arrive. Cancel the rest."""


Event: TypeAlias = (
    Request
    | DeviceOpened
    | Completed
    | ReloadFailed
    | DeviceReported
    | LoopStalled
    | ActivationsAdded
    | ActivationsRetired
    | DeviceRetired
    | SetSizeChanged
    | PolicyChanged
    | Cancelled
    | DrainStarted
    | Closed
)
