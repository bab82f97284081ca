"""The seam to what runs inferences: a `Backend` finds devices and loads, an `Executable` runs.

Rules of the seam:
- Nothing here blocks the event loop: coroutines wait, `submit` returns at once.
- A backend is made for one model and knows nothing of requests, queues or other devices; of other
  models it knows what they take of its devices.
- An activation serves its inferences one at a time, in the order of `submit`.
- What a backend raises is one of our errors; the vendor's or the library's is its `__cause__`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, Literal, TypeAlias

from qaic_sched.errors import ConfigError, DeviceError, NoDeviceError
from qaic_sched.program import Program, Tensors

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from qaic_sched.config.keys import ModelOptions

__all__ = [
    "Backend",
    "CoreDemand",
    "DeviceInfo",
    "Executable",
    "OnCompleted",
    "check_fit",
    "check_fit_together",
    "choose_devices",
    "closed_in_flight",
    "unused_indexes",
]

OnCompleted: TypeAlias = Callable[["Tensors | DeviceError", float], None]
"""`on_completed(outputs or error, completed_at)`; on any thread, once per submit, never inside it.

The outputs are the receiver's own: no buffer of them is used again. `completed_at` is read from
the clock of the loop that loaded the executable (`qaic_sched.clock.clock_of`).
"""


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What is known of one device. None where this kind of device does not tell."""

    device_id: int
    kind: str
    state: str
    cores: int
    cores_free: int
    memory_bytes: int | None = None
    memory_free_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    serial: str | None = None
    sku: str | None = None


@dataclass(frozen=True, slots=True)
class CoreDemand:
    """What a model takes of each device: activations, each of so many cores, or one where None."""

    num_activations: int
    aic_num_cores: int | None = None

    @property
    def cores_each(self) -> int:
        """Cores of one activation."""
        return self.aic_num_cores or 1

    @property
    def cores(self) -> int:
        """Cores of all activations."""
        return self.num_activations * self.cores_each


class Executable(ABC):
    """A program loaded on one device, once per activation."""

    device_id: int
    program: Program
    room: dict[int, float]
    """Its activations, by the index that `submit` takes: how many inferences each may hold,
    infinite where any `set_size` will do. They are 0, 1, … when it was just loaded."""

    selects_activation: bool = True
    """False where the device spreads inferences over its activations by itself: then
    `num_activations` is 1 here and the device is one pooled server."""

    @property
    def num_activations(self) -> int:
        """How many activations there are now."""
        return len(self.room)

    @abstractmethod
    def submit(
        self, activation: int, inputs: Mapping[str, object], on_completed: OnCompleted
    ) -> None:
        """Start one inference; thread-safe.

        `inputs` are C-contiguous arrays of the program's types, all with one compiled batch size
        of rows; they must not change until `on_completed` was called. The caller keeps at
        most `set_size` inferences on an activation.
        """

    @abstractmethod
    async def load_more(self, count: int, set_size: int) -> Sequence[int]:
        """Load so many activations more, beside those that go on working; their indexes.

        `ConfigError` if they cannot fit, `DeviceError` if the device fails: nothing has changed.
        """

    @abstractmethod
    async def unload(self, activations: Sequence[int]) -> None:
        """Give activations back that hold nothing, and get nothing any more."""

    @abstractmethod
    async def aclose(self) -> None:
        """Give the device back; idempotent.

        Waits a bounded time for what the device runs, then answers the rest with `DeviceError`:
        when this returns, every inference submitted has been answered.
        """


class Backend(ABC):
    """One model on one kind of device."""

    kind: str
    max_activations: int | None = None
    """Most activations on one device, of all models; None is as many as there are cores."""

    def __init__(self, model_path: str, options: ModelOptions) -> None:
        self.model_path = model_path
        self.options = options
        self.others: dict[str, CoreDemand] = {}
        """The demands of other models on the same devices, by name; set by `expect_other`."""

    def expect_other(self, name: str, demand: CoreDemand) -> None:
        """Take into account what another model demands of each device from now on."""
        self.others[name] = demand

    @abstractmethod
    async def find(self) -> list[DeviceInfo]:
        """The devices of this host, by ascending id. Loads nothing."""

    @abstractmethod
    async def describe(self) -> Program:
        """What the model takes and gives. Needs no device; raises `ConfigError` on a bad model."""

    async def select(self, devices: Literal["all"] | int | list[int]) -> list[int]:
        """The device ids that the option `devices` means; to be called before `load`.

        `"all"` is every device, a count the first so many, a list those. `ConfigError` names what
        is not there, `NoDeviceError` says that there is nothing at all.
        """
        found = [info.device_id for info in await self.find()]
        if not found:
            raise NoDeviceError(f"no {self.kind} device on this host")
        return choose_devices(devices, found, self.kind)

    async def check_room(
        self, device_ids: Sequence[int], demands: Mapping[str, CoreDemand]
    ) -> None:
        """Raise `ConfigError` unless several models, by name, fit on each device that is ready."""
        for device in await self.find():
            if device.device_id in device_ids and device.state == "ready":
                check_fit_together(device, demands, self.max_activations)

    @abstractmethod
    async def load(self, device_id: int, num_activations: int, set_size: int) -> Executable:
        """Load the program: `ConfigError` if it cannot fit, `DeviceError` if the device fails."""


def choose_devices(
    devices: Literal["all"] | int | list[int], found: list[int], kind: str
) -> list[int]:
    """Hold the option `devices` against the ids that exist; `ConfigError` names what is missing."""
    if devices == "all":
        return found
    if isinstance(devices, int):
        if not 1 <= devices <= len(found):
            raise ConfigError(f"devices: {devices} asked for, this host has {len(found)} {kind}")
        return found[:devices]
    missing = [device_id for device_id in devices if device_id not in found]
    if missing:
        raise ConfigError(f"devices: {missing} not on this host, which has {kind} devices {found}")
    return list(devices)


def check_fit(
    device: DeviceInfo, num_activations: int, aic_num_cores: int | None, most: int | None = None
) -> None:
    """Raise `ConfigError` unless the activations, at most `most`, fit on the device's free cores.

    Each needs `aic_num_cores`, or one where that is None.
    """
    each = aic_num_cores or 1
    fitting = device.cores_free // each
    limit = ""
    if most is not None:
        fitting, limit = min(fitting, most), f" and room for {most} activations at most"
    if num_activations > fitting:
        raise ConfigError(
            f"num_activations: {num_activations} of {each} cores (aic_num_cores) do not fit on "
            f"device {device.device_id}, which has {device.cores_free} of {device.cores} cores free"
            f"{limit}; {fitting} would fit"
        )


def check_fit_together(
    device: DeviceInfo, demands: Mapping[str, CoreDemand], most: int | None = None
) -> None:
    """Raise `ConfigError` unless the models, by name, fit on the device's free cores together.

    They may have at most `most` activations. The error says what each demands and what would fit.
    """
    free = device.cores_free - sum(demand.cores for demand in demands.values())
    limit = "" if most is None else f" and room for {most} activations at most"
    most = device.cores_free if most is None else most  # each activation has a core at least
    room = most - sum(demand.num_activations for demand in demands.values())
    if free >= 0 and room >= 0:
        return
    wanted = ", ".join(
        f"{name} {demand.cores} ({demand.num_activations} activations of {demand.cores_each})"
        for name, demand in demands.items()
    )
    fitting = {
        name: min((free + demand.cores) // demand.cores_each, room + demand.num_activations)
        for name, demand in demands.items()
    }
    some = " or ".join(f"{count} of {name}" for name, count in fitting.items() if count > 0)
    advice = f"{some} would fit beside the rest" if some else "more than one of them must want less"
    raise ConfigError(
        f"num_activations: the models want {device.cores_free - free} cores together: {wanted}; "
        f"device {device.device_id} has {device.cores_free} of {device.cores} cores free{limit}; "
        f"{advice}"
    )


def unused_indexes(used: Container[int], wanted: int) -> list[int]:
    """The lowest indexes that are not used yet, so many."""
    return list(islice((index for index in count() if index not in used), wanted))


def closed_in_flight(kind: str, device_id: int) -> DeviceError:
    """What answers an inference that its device has not finished when it is closed."""
    message = f"{kind} device {device_id} was closed with this inference in flight"
    return DeviceError(message, device_id, kind="stuck")
