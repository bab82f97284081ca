"""The backend of simulated devices: reads the `.sim.yaml` file and loads its program."""

from __future__ import annotations

import asyncio
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from qaic_sched.backends.base import Backend, DeviceInfo, check_fit
from qaic_sched.backends.sim.completions import Completions
from qaic_sched.backends.sim.executable import SimExecutable
from qaic_sched.backends.sim.model import SimModel
from qaic_sched.backends.sim.outages import Outages
from qaic_sched.backends.sim.spec import read_spec
from qaic_sched.errors import ConfigError, DeviceError
from qaic_sched.program import Rows

if TYPE_CHECKING:
    from qaic_sched.backends.base import Executable, RowsWish
    from qaic_sched.backends.sim.spec import SimSpec
    from qaic_sched.config.keys import ModelOptions
    from qaic_sched.program import Program

__all__ = ["SimBackend"]


class SimBackend(Backend):
    """The devices of one `.sim.yaml` file, which is read on first use."""

    kind = "sim"

    def __init__(self, model_path: str, options: ModelOptions) -> None:
        super().__init__(model_path, options)
        self._streams: dict[str, Random] = {}
        self._completions: Completions | None = None
        self._opened_at: float | None = None

    @cached_property
    def spec(self) -> SimSpec:
        """The file, read and checked; `ConfigError` names the key that is wrong."""
        return read_spec(Path(self.model_path))

    async def find(self) -> list[DeviceInfo]:
        """The devices that the file describes, all ready and free."""
        return [self._device(device_id) for device_id in range(self.spec.devices)]

    async def describe(self) -> Program:
        """The program that the file describes."""
        return self.spec.program()

    async def settle_rows(
        self, wish: RowsWish, executable: Executable | None = None
    ) -> Program | None:
        """See `Backend.settle_rows`; simulated devices need no trial."""
        program = await self.describe()
        if wish == "own" or not program.is_batched:
            return await super().settle_rows(wish, executable)
        return program.using(Rows.SHARED, "simulated devices compute each row by itself")

    async def load(self, device_id: int, num_activations: int, set_size: int) -> SimExecutable:
        """Load the program, which takes `load_time_s` per activation; any `set_size` will do.

        `ConfigError` if the device does not exist, or has too few cores after the demand of other
        models is subtracted.
        """
        spec = self.spec
        if device_id not in range(spec.devices):
            raise ConfigError(
                f"devices: there is no sim device {device_id}: {self.model_path} describes"
                f" {spec.devices} (`devices`)"
            )
        self._check_fit(device_id, num_activations)
        await asyncio.sleep(spec.load_time_s * num_activations)
        completions = self._completions_on_this_loop()
        outages = self._outages_of(device_id, completions.clock())
        return SimExecutable(
            device_id,
            spec,
            completions,
            outages,
            num_activations,
            partial(self._check_fit, device_id),
            partial(self._stream, device_id),
        )

    def _check_fit(self, device_id: int, num_activations: int) -> None:
        device = self._device(device_id, sum(other.cores for other in self.others.values()))
        check_fit(device, num_activations, self.options.aic_num_cores)

    def _outages_of(self, device_id: int, now: float) -> Outages:
        """The device's outages, counted from the first load; `DeviceError` if it is lost now."""
        if self._opened_at is None:
            self._opened_at = now
        faults = [each for each in self.spec.faults if each.is_on(device_id)]
        outages = Outages(faults, self._opened_at)
        if outages.is_lost(now):
            raise DeviceError(f"sim device {device_id} is lost", device_id, kind="lost")
        return outages

    def _device(self, device_id: int, taken: int = 0) -> DeviceInfo:
        cores = self.spec.cores
        return DeviceInfo(device_id, self.kind, "ready", cores, max(0, cores - taken))

    def _stream(self, device_id: int, activation: int) -> Random:
        """The activation's random stream, which continues where its last load left off."""
        key = f"{self.spec.seed}/{device_id}/{activation}"
        return self._streams.setdefault(key, Random(key))

    def _completions_on_this_loop(self) -> Completions:
        loop = asyncio.get_running_loop()
        if self._completions is None or self._completions.loop is not loop:
            self._completions = Completions(loop, SimModel(self.spec.program()))
        return self._completions
