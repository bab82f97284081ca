"""The interface of backends: a `Backend` finds devices and loads, an `Executable` runs inferences.

Rules of the interface:
- Nothing blocks the event loop: coroutines wait, `submit` returns at once.
- A backend serves one model and knows nothing of requests or queues; of other models it knows only
  how many cores of its devices they take.
- An activation runs its inferences one after the other, in the order of `submit`.
- Backends raise errors of `qaic_sched.errors`; the vendor's or the library's error is `__cause__`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, Literal, TypeAlias

from qaic_sched.errors import ConfigError, DeviceError, NoDeviceError
from qaic_sched.program import Program, Rows, Tensors

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from qaic_sched.config.keys import ModelOptions

__all__ = [
    "Backend",
    "CoreDemand",
    "DeviceInfo",
    "Executable",
    "OnCompleted",
    "RowsWish",
    "check_fit",
    "check_fit_together",
    "choose_devices",
    "closed_in_flight",
    "unused_indexes",
]

OnCompleted: TypeAlias = Callable[["Tensors | DeviceError", float], None]
"""`on_completed(outputs or error, completed_at)`, called once per `submit` and never inside it.

It may be called on any thread. The outputs belong to the receiver: their memory is not reused.
`completed_at` is a time of the clock of the loop that loaded the executable
(`qaic_sched.clock.clock_of`).
"""


RowsWish: TypeAlias = Literal["auto", "shared", "own"]
"""What the user says about the rows of several requests in one inference."""


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """The description of one device; None for what this kind of device does not report."""

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
    """A model's demand for cores of each device; `aic_num_cores` is per activation, None for 1."""

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
    """Activation index, as `submit` takes it -> the most inferences that it may hold, infinite
    where any `set_size` will do. The indexes after loading are 0, 1, …"""

    selects_activation: bool = True
    """False if the device distributes inferences over its activations itself: then
    `num_activations` is 1 and the device is one pooled server."""

    @property
    def num_activations(self) -> int:
        """The number of activations now."""
        return len(self.room)

    @abstractmethod
    def submit(
        self, activation: int, inputs: Mapping[str, object], on_completed: OnCompleted
    ) -> None:
        """Start one inference; thread-safe.

        `inputs` are C-contiguous arrays of the program's dtypes with a compiled batch size of rows,
        or any number if the program says so; they must not change until `on_completed` is called.
        The caller keeps at most `set_size` inferences on an activation.
        """

    @abstractmethod
    async def load_more(self, count: int, set_size: int) -> Sequence[int]:
        """Load `count` more activations while the others go on; returns their indexes.

        Raises `ConfigError` if they do not fit, `DeviceError` if the device fails; then nothing has
        changed.
        """

    @abstractmethod
    async def unload(self, activations: Sequence[int]) -> None:
        """Release activations that hold no inference and get no new one."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release the device; idempotent.

        Waits a bounded time for inferences in flight, then fails the rest with `DeviceError`: when
        this returns, every submitted inference has completed.
        """


class Backend(ABC):
    """One model on one kind of device."""

    kind: str
    max_activations: int | None = None
    """Most activations on one device, of all models together; None for one per core."""

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
        """Describe the program of the model; needs no device. `ConfigError` on a bad model."""

    async def settle_rows(
        self, wish: RowsWish, executable: Executable | None = None
    ) -> Program | None:
        """Decide how requests use the batch axis, once; returns the program with the decision.

        `wish` is the option `batching.rows`. Returns None if only a device can tell: call it again
        with an executable that is loaded and holds nothing. Executables that are loaded later run
        the program as it was decided.
        """
        program = await self.describe()
        if not program.is_batched:
            return program
        if wish == "own":
            return program.using(Rows.PADDED, "batching.rows: own")
        return program.using(Rows.SHARED, "rows are not tried on this kind of device")

    async def select(self, devices: Literal["all"] | int | list[int]) -> list[int]:
        """Resolve the option `devices` to device ids; call this before `load`.

        `"all"` means every device, a count the first `count`, a list those ids. Raises
        `ConfigError` naming devices that do not exist, `NoDeviceError` if there is no device.
        """
        found = [info.device_id for info in await self.find()]
        if not found:
            raise NoDeviceError(f"this host has no {self.kind} device")
        return choose_devices(devices, found, self.kind)

    async def check_room(
        self, device_ids: Sequence[int], demands: Mapping[str, CoreDemand]
    ) -> None:
        """Raise `ConfigError` unless the models, by name, fit together on each ready device."""
        for device in await self.find():
            if device.device_id in device_ids and device.state == "ready":
                check_fit_together(device, demands, self.max_activations)

    @abstractmethod
    async def load(self, device_id: int, num_activations: int, set_size: int) -> Executable:
        """Load the program: `ConfigError` if it does not fit, `DeviceError` if the device fails."""


def choose_devices(
    devices: Literal["all"] | int | list[int], found: list[int], kind: str
) -> list[int]:
    """Resolve the option `devices` among the ids `found`; `ConfigError` names missing ids."""
    if devices == "all":
        return found
    if isinstance(devices, int):
        if not 1 <= devices <= len(found):
            raise ConfigError(
                f"devices: got {devices}; this host has {len(found)} {kind} device(s) to use"
            )
        return found[:devices]
    missing = [device_id for device_id in devices if device_id not in found]
    if missing:
        raise ConfigError(f"devices: {missing} not on this host; its {kind} devices are {found}")
    return list(devices)


def check_fit(
    device: DeviceInfo, num_activations: int, aic_num_cores: int | None, most: int | None = None
) -> None:
    """Raise `ConfigError` unless the activations fit on the device's free cores.

    Each needs `aic_num_cores`, or one core if that is None. The device takes at most `most`
    activations, if given.
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
    """Raise `ConfigError` unless the models, by name, fit together on the device's free cores.

    The device takes at most `most` activations, if given. The error lists each model's demand and
    what would fit.
    """
    free = device.cores_free - sum(demand.cores for demand in demands.values())
    limit = "" if most is None else f" and room for {most} activations at most"
    most = device.cores_free if most is None else most  # each activation takes at least one core
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
    advice = f"{some} would fit beside the rest" if some else "reduce more than one of them"
    raise ConfigError(
        f"num_activations: the models want {device.cores_free - free} cores together: {wanted}; "
        f"device {device.device_id} has {device.cores_free} of {device.cores} cores free{limit}; "
        f"{advice}"
    )


def unused_indexes(used: Container[int], wanted: int) -> list[int]:
    """The `wanted` lowest indexes that are not used."""
    return list(islice((index for index in count() if index not in used), wanted))


def closed_in_flight(kind: str, device_id: int) -> DeviceError:
    """The error of an inference that is still in flight when its device is closed."""
    message = f"{kind} device {device_id} was closed with this inference in flight"
    return DeviceError(message, device_id, kind="stuck")
