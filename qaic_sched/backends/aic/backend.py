"""The backend of physical cards: finds devices, reads or compiles the model, and loads it.

The vendor's runtime is called in threads with time limits, because a device in trouble may never
answer. `AicExecutable` runs the inferences.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

import anyio

from qaic_sched.backends.aic.compiler import AIC_COMPILER
from qaic_sched.backends.aic.devices import find_cards, query_card
from qaic_sched.backends.aic.executable import AicExecutable
from qaic_sched.backends.aic.qpc import read_qpc
from qaic_sched.backends.aic.sdk import import_sdk
from qaic_sched.backends.base import Backend, DeviceInfo, check_fit, choose_devices
from qaic_sched.backends.compiling.compile import compile_model
from qaic_sched.backends.compiling.container import kind_of
from qaic_sched.backends.compiling.folder import digest_of
from qaic_sched.backends.loaded_trial import try_loaded
from qaic_sched.backends.row_finding import apply, recall, remember
from qaic_sched.backends.threads import in_thread
from qaic_sched.errors import ConfigError, DeviceError, NoDeviceError
from qaic_sched.program import Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.backends.aic.qpc import QpcFile
    from qaic_sched.backends.aic.sdk import Sdk
    from qaic_sched.backends.base import Executable, RowsWish
    from qaic_sched.config.keys import ModelOptions
    from qaic_sched.program import Program

__all__ = ["AicBackend"]

logger = logging.getLogger("qaic_sched")

T = TypeVar("T")

CALL_LIMIT_S = 120.0
"""Longest time that loading the vendor's libraries, or reading a QPC, may take."""
LOAD_LIMIT_S = 300.0
"""Longest time that loading a program on a device may take.

With `CALL_LIMIT_S` for the SDK, again for the QPC, and `QUERY_LIMIT_S`, `load` takes at most 570 s.
So its threads stop before the scheduler's pool gives up on the load, after 600 s.
"""
MAX_ACTIVATIONS = 16
"""The DMA channels of a device; each activation needs one."""


class AicBackend(Backend):
    """One model on the cards of this host; an ONNX model is compiled for them first."""

    kind = "aic"
    max_activations = MAX_ACTIVATIONS

    def __init__(self, model_path: str, options: ModelOptions) -> None:
        super().__init__(model_path, options)
        self._sdk: Sdk | None = None
        self._file: QpcFile | None = None
        self._path = model_path

    async def find(self) -> list[DeviceInfo]:
        """The devices that QAIC_VISIBLE_DEVICES lets this process see, in any state."""
        return await find_cards(await self._binding())

    async def select(self, devices: Literal["all"] | int | list[int]) -> list[int]:
        """See `Backend.select`; `"all"` and a count choose among the devices that are ready."""
        found = await self.find()
        if isinstance(devices, list) and found:
            return choose_devices(devices, [each.device_id for each in found], self.kind)
        ready = [each.device_id for each in found if each.state == "ready"]
        others = ", ".join(
            f"{each.device_id} is {each.state}" for each in found if each.state != "ready"
        )
        if not ready:
            raise NoDeviceError(f"no aic device on this host is ready: {others or 'there is none'}")
        if others:
            logger.warning("aic devices left out because they are not ready: %s", others)
        return choose_devices(devices, ready, self.kind)

    async def describe(self) -> Program:
        """Describe the model, compiling it first if need be. Needs the SDK, but no device."""
        return (await self._read()).program

    async def settle_rows(
        self, wish: RowsWish, executable: Executable | None = None
    ) -> Program | None:
        """See `Backend.settle_rows`; only a loaded program can be tried."""
        file = await self._read()
        program = file.program
        if not program.is_batched:
            return program
        if wish == "shared" or (wish == "auto" and program.max_batch_size == 1):
            reason = "an inference has a single row" if wish == "auto" else "batching.rows: shared"
            return program.using(Rows.SHARED, reason)
        is_fp16 = self.options.convert_to_fp16
        key = [self.kind, await in_thread(partial(digest_of, self._path)), is_fp16]
        finding = await in_thread(partial(recall, key))
        if finding is None:
            if executable is None:
                return None
            finding = await try_loaded(program, executable, is_fp16=is_fp16)
            await in_thread(partial(remember, key, finding))
        return apply(program, finding, wish=wish)

    async def load(self, device_id: int, num_activations: int, set_size: int) -> AicExecutable:
        """Load `num_activations` programs, each with room for `set_size` inferences.

        `ConfigError` if they do not fit on the cores that are free now.
        """
        sdk, file = await self._binding(), await self._read()
        check_room = partial(self._check_room, sdk, device_id)
        await check_room(num_activations, 0)
        loop = asyncio.get_running_loop()
        executable = AicExecutable(
            sdk, file, device_id, num_activations, set_size, loop, check_room
        )
        try:
            with anyio.fail_after(LOAD_LIMIT_S):
                await asyncio.wrap_future(executable.loaded)
        except TimeoutError as error:
            executable.stop()
            raise _too_slow(f"loading on device {device_id}", LOAD_LIMIT_S, device_id) from error
        except BaseException:
            executable.stop()
            raise
        return executable

    async def _check_room(self, sdk: Sdk, device_id: int, count: int, loaded: int) -> None:
        """Raise unless the device is ready and has room for `count` more besides `loaded`."""
        device = await query_card(sdk, device_id)
        if device.state != "ready":
            raise DeviceError(
                f"aic device {device_id} is not ready, it is {device.state}: see `qaic-util -q`",
                device_id,
                kind="restarted" if device.state == "initializing" else "lost",
            )
        # Assumption (not verified on hardware): nothing public says how many cores a QPC was
        # compiled for, so without the option each activation is taken to need one.
        # The runtime already counts the cores of other models as taken, but not their channels.
        others = sum(other.num_activations for other in self.others.values())
        most = MAX_ACTIVATIONS - loaded - others
        check_fit(device, count, self.options.aic_num_cores, most)

    async def _binding(self) -> Sdk:
        if self._sdk is None:
            self._sdk = await self._call(import_sdk, "loading the SDK")
        return self._sdk

    async def _read(self) -> QpcFile:
        if self._file is None:
            sdk, path = await self._binding(), self.model_path
            if kind_of(path) is None:
                if not self.options.compile:
                    raise ConfigError(
                        f"compile: false: cards run compiled models only, not {path}: leave it out"
                    )
                path = self._path = await compile_model(path, AIC_COMPILER, self.options)
            self._file = await self._call(partial(read_qpc, sdk, path), f"reading {path}")
        return self._file

    async def _call(self, function: Callable[[], T], what: str) -> T:
        try:
            return await in_thread(function, "qaic-aic-open", CALL_LIMIT_S)
        except TimeoutError as error:
            raise _too_slow(what, CALL_LIMIT_S) from error


def _too_slow(what: str, limit_s: float, device_id: int | None = None) -> DeviceError:
    message = f"aic: {what} has not ended within {limit_s:g} s: see `dmesg`"
    return DeviceError(message, device_id, kind="stuck")
