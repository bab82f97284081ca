"""Carries out a live change: loads the capacity to add, then releases the capacity to remove.

Rules of this file:
- Loading comes before releasing, so that capacity never falls below the smaller of before and
  after.
- A device in quarantine is left alone: its next reload loads what is planned at that time.
- If a load fails, the capacity added so far is released, the old stays, and the error is raised.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from qaic_sched.core.events import ActivationsAdded, SetSizeChanged
from qaic_sched.errors import NoDeviceError, SchedulerError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from qaic_sched.backends.base import Executable
    from qaic_sched.scheduler.shell import Shell

__all__ = ["Layout", "LiveChange"]

logger = logging.getLogger("qaic_sched")


class Layout(NamedTuple):
    """The devices in use, and the activations and `set_size` on each."""

    device_ids: list[int]
    num_activations: int
    set_size: int


class LiveChange:
    """One change of a shell's layout; changes must not overlap."""

    def __init__(self, shell: Shell, wanted: Layout) -> None:
        self._shell = shell
        self._pool = shell.pool
        self._wanted = wanted

    async def apply(self) -> None:
        """Change to the wanted layout, or restore the old one and raise the error."""
        was = Layout([*self._pool.executables], *self._pool.planned)
        self._pool.plan(self._wanted.num_activations, self._wanted.set_size)
        try:
            await self._load(self._wanted)
            await self._widen(self._wanted)
            self._require_live(was)
        except SchedulerError:
            self._pool.plan(was.num_activations, was.set_size)
            await self._restore(was)
            raise
        await self._release(self._wanted)
        self._shell.count_slots()

    async def _load(self, layout: Layout) -> None:
        await _all(self._bring(each, layout.num_activations) for each in layout.device_ids)

    async def _bring(self, device_id: int, num_activations: int) -> None:
        """Open a device, or load the activations that it lacks."""
        async with self._pool.changing(device_id):
            executable = self._pool.executables.get(device_id)
            if executable is None:
                executable = await self._pool.load(device_id)
                self._shell.opened(device_id, executable.num_activations)
            elif not self._shell.is_quarantined(device_id):
                await self._load_more(device_id, num_activations - executable.num_activations)

    async def _load_more(self, device_id: int, count: int) -> None:
        if count > 0:
            indexes = await self._pool.load_more(device_id, count)
            self._shell.post(ActivationsAdded(device_id, tuple(indexes)))
            self._count(device_id)

    async def _widen(self, layout: Layout) -> None:
        """Make room for a larger `set_size`.

        Activations whose room is fixed are replaced one after the other. The old one is unloaded
        before the new one is loaded, because both may need the same cores; but an activation that
        is the only one working is unloaded last.
        """
        if layout.set_size <= self._shell.core.set_size:
            return
        for device_id in layout.device_ids:
            while (index := await self._narrow(device_id, layout.set_size)) is not None:
                executable = self._pool.executables[device_id]
                if executable.num_activations > 1:
                    await self._unload(device_id, executable, (index,))
                    await self._load_one(device_id)
                elif self._others_work(device_id):
                    await self._remove(device_id)
                    await self._bring(device_id, layout.num_activations)
                else:
                    await self._load_one(device_id)
                    await self._unload(device_id, executable, (index,))
        self._shell.post(SetSizeChanged(layout.set_size))

    def _others_work(self, device_id: int) -> bool:
        others = {*self._pool.executables} - {device_id}
        return not all(map(self._shell.is_quarantined, others))

    async def _narrow(self, device_id: int, set_size: int) -> int | None:
        """Return an activation with room for fewer than `set_size` inferences, if there is one."""
        async with self._pool.changing(device_id):
            if self._shell.is_quarantined(device_id):
                return None
            room = self._pool.executables[device_id].room
            return next((index for index, its in room.items() if its < set_size), None)

    async def _load_one(self, device_id: int) -> None:
        async with self._pool.changing(device_id):
            if not self._shell.is_quarantined(device_id):
                await self._load_more(device_id, 1)

    def _require_live(self, was: Layout) -> None:
        goes = {*was.device_ids} - {*self._wanted.device_ids}
        if goes and all(map(self._shell.is_quarantined, self._wanted.device_ids)):
            raise NoDeviceError(
                f"devices: {sorted(goes)} cannot be removed while all others are in quarantine: "
                f"try again when one is ready"
            )

    async def _restore(self, was: Layout) -> None:
        try:
            await self._load(was)
        except SchedulerError as error:
            logger.warning("after a change that failed, less is loaded than before: %s", error)
        await self._release(was)

    async def _release(self, layout: Layout) -> None:
        if layout.set_size < self._shell.core.set_size:
            self._shell.post(SetSizeChanged(layout.set_size))
        await _all(
            self._trim(each, layout.num_activations)
            if each in layout.device_ids
            else self._remove(each)
            for each in self._pool.executables
        )

    async def _trim(self, device_id: int, num_activations: int) -> None:
        async with self._pool.changing(device_id):
            if self._shell.is_quarantined(device_id):
                return
            executable = self._pool.executables[device_id]
            extra = sorted(executable.room)[num_activations:]
        if extra:
            await self._unload(device_id, executable, tuple(extra))

    async def _unload(
        self, device_id: int, executable: Executable, indexes: tuple[int, ...]
    ) -> None:
        """Unload activations, unless a reload has replaced them meanwhile."""
        if self._shell.is_quarantined(device_id) or not self._has(device_id, executable):
            return
        if await self._shell.retire(device_id, indexes):
            async with self._pool.changing(device_id):
                if self._has(device_id, executable):
                    await executable.unload(indexes)
                    self._count(device_id)

    def _has(self, device_id: int, executable: Executable) -> bool:
        return self._pool.executables[device_id] is executable

    async def _remove(self, device_id: int) -> None:
        await self._shell.retire_device(device_id)
        async with self._pool.changing(device_id):
            await self._pool.close(device_id)
            self._shell.metrics.add_device(device_id, 0, self._shell.clock())

    def _count(self, device_id: int) -> None:
        number = self._pool.executables[device_id].num_activations
        self._shell.metrics.add_device(device_id, number, self._shell.clock())


async def _all(works: Iterable[Coroutine[None, None, None]]) -> None:
    """Run all at once; when all have ended, raise the first failure."""
    for failure in await asyncio.gather(*works, return_exceptions=True):
        if failure is not None:
            raise failure
