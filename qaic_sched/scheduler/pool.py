"""Opens and closes the program on every device, submits batches, and brings answers to the loop.

Answers come from device threads or from the loop itself; they go through one inbox, and the loop
is woken once for as many as are there by then. Only a probe's answer goes its own way: it is of no
batch.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, TypeVar

import anyio
import numpy as np

from qaic_sched.errors import DeviceError
from qaic_sched.tensors import BatchBuffers, gather

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qaic_sched.backends.base import Backend, Executable
    from qaic_sched.core.model import Batch
    from qaic_sched.program import Program, Tensors
    from qaic_sched.tensors import BatchBuffer

__all__ = ["Flight", "Pool"]

T = TypeVar("T")

LOAD_LIMIT_S = 600.0
"""A load that takes longer has hung."""
PROBE_LIMIT_S = 10.0
"""So long a device that was reloaded has for its first inference, which may be a slow one."""


class Flight:
    """A batch on its device, and all that must stay untouched until the device answers."""

    __slots__ = ("_pool", "answer", "batch", "buffer", "completed_at")

    def __init__(self, pool: Pool, batch: Batch, buffer: BatchBuffer | None) -> None:
        self._pool = pool
        self.batch = batch
        self.buffer = buffer
        self.answer: Tensors | DeviceError
        self.completed_at: float

    def __call__(self, answer: Tensors | DeviceError, completed_at: float) -> None:
        """Take the device's answer, as the `done` that the device was given; on any thread."""
        self.answer = answer
        self.completed_at = completed_at
        self._pool.completed(self)


class _Probe:
    """An inference of zeros that shows whether a device works; it keeps its inputs till then."""

    def __init__(self, executable: Executable) -> None:
        program = executable.program
        first = slice(1 if program.is_batched else 0, None)
        rows = program.batch_sizes[:1]
        self.inputs: Tensors = {
            each.name: np.zeros((*rows, *each.shape[first]), each.dtype) for each in program.inputs
        }
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Tensors | DeviceError] = self._loop.create_future()
        executable.submit(0, self.inputs, self._done)

    def _done(self, answer: Tensors | DeviceError, _answered_at: float) -> None:
        with suppress(RuntimeError):  # the loop may be closed by the time that this is answered
            self._loop.call_soon_threadsafe(self._settle, answer)

    def _settle(self, answer: Tensors | DeviceError) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)


class Pool:
    """One executable per device. All methods but `completed` belong to the loop's thread."""

    def __init__(self, backend: Backend, program: Program) -> None:
        self.on_completed: Callable[[], object]
        """What to call, on the loop, when flights were answered that it has not taken yet."""
        self.executables: dict[int, Executable] = {}
        self._backend = backend
        self._buffers = BatchBuffers(program)
        self._loop = asyncio.get_running_loop()
        self._loop_thread = get_ident()
        self._inbox: deque[Flight] = deque()
        self._is_woken = False
        self._is_closed = False
        self._num_activations = self._set_size = 0
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    def plan(self, num_activations: int, set_size: int) -> None:
        """Load so many activations per device, of this `set_size`, from now on."""
        self._num_activations, self._set_size = num_activations, set_size

    @property
    def planned(self) -> tuple[int, int]:
        """The activations per device and the `set_size` that `plan` said last."""
        return self._num_activations, self._set_size

    def changing(self, device_id: int) -> asyncio.Lock:
        """What is held while a device is loaded, resized or closed: one of them at a time."""
        return self._locks[device_id]

    async def open(self, device_ids: Sequence[int], num_activations: int, set_size: int) -> None:
        """Load the program on all devices at once; on failure close those that succeeded."""
        self.plan(num_activations, set_size)
        loads = [self._load(each) for each in device_ids]
        try:
            failures = await asyncio.gather(*loads, return_exceptions=True)
            for failure in filter(None, failures):
                raise failure
        except BaseException:
            await self.aclose()
            raise
        self.executables = {each: self.executables[each] for each in device_ids}

    async def reload(self, device_id: int, limit_s: float | None = None) -> Executable:
        """Close a device, which answers all that it holds, load it anew, and try it.

        `DeviceError` unless it runs an inference of zeros within `limit_s`, 10 s at least.
        """
        await self.executables[device_id].aclose()
        await self._load(device_id)
        executable = self.executables[device_id]
        limit_s = max(limit_s or 0.0, PROBE_LIMIT_S)
        with anyio.move_on_after(limit_s):
            answer = await _Probe(executable).answer
            if isinstance(answer, DeviceError):
                message = f"device {device_id} was loaded and failed an inference: {answer}"
                error = DeviceError(message, device_id, kind=answer.kind)
                error.__cause__ = answer  # `raise ... from` loses it where this is compiled
                raise error
            return executable
        message = f"device {device_id} was loaded and did not answer within {limit_s:g} s"
        raise DeviceError(message, device_id, kind="stuck")

    async def load(self, device_id: int) -> Executable:
        """Load the program on one more device."""
        await self._load(device_id)
        return self.executables[device_id]

    async def load_more(self, device_id: int, count: int) -> Sequence[int]:
        """Load so many activations more on a device; their indexes."""
        load = self.executables[device_id].load_more(count, self._set_size)
        return await _bounded(load, device_id)

    async def close(self, device_id: int) -> None:
        """Close one device for good."""
        await self.executables[device_id].aclose()
        del self.executables[device_id]

    async def aclose(self) -> None:
        """Close all devices, also while being cancelled; each bounds its own time. Idempotent."""
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*(each.aclose() for each in self.executables.values()))
        self._is_closed = True

    def submit(self, batch: Batch, sources: Sequence[Tensors]) -> None:
        """Send a batch to its activation; `sources` are the inputs of the request of each part."""
        part, source = batch.parts[0], sources[0]
        inputs: Tensors
        if part.samples != batch.size:
            inputs = buffer = self._gather(batch, sources)
        elif part.samples == part.request.samples:
            inputs, buffer = source, None
        else:
            end = part.offset + part.samples
            inputs, buffer = {name: rows[part.offset : end] for name, rows in source.items()}, None
        activation = batch.activation
        flight = Flight(self, batch, buffer)
        self.executables[activation.device_id].submit(activation.index, inputs, flight)

    def completed(self, flight: Flight) -> None:
        """Put an answered flight into the inbox; on any thread."""
        self._inbox.append(flight)
        if self._is_woken:
            return
        self._is_woken = True
        if get_ident() == self._loop_thread:
            self._loop.call_soon(self._deliver)
        elif not self._is_closed:
            self._loop.call_soon_threadsafe(self._deliver)

    def take_completed(self) -> list[Flight]:
        """The flights that were answered since the last call; their buffers are free again."""
        # Before the inbox is emptied: whoever appends from here on wakes the loop again.
        self._is_woken = False
        take = self._inbox.popleft
        flights = [take() for _ in range(len(self._inbox))]
        for flight in flights:
            if flight.buffer is not None:
                self._buffers.give_back(flight.batch.size, flight.buffer)
        return flights

    async def _load(self, device_id: int) -> None:
        load = self._backend.load(device_id, self._num_activations, self._set_size)
        self.executables[device_id] = await _bounded(load, device_id)

    def _gather(self, batch: Batch, sources: Sequence[Tensors]) -> BatchBuffer:
        buffer = self._buffers.take(batch.size)
        parts = [
            (source, part.offset, part.samples)
            for source, part in zip(sources, batch.parts, strict=True)
        ]
        gather(buffer, parts)
        return buffer

    def _deliver(self) -> None:
        if self._inbox:
            self.on_completed()


async def _bounded(load: Awaitable[T], device_id: int) -> T:
    try:
        with anyio.fail_after(LOAD_LIMIT_S):
            return await load
    except TimeoutError as error:
        message = f"device {device_id}: the program was not loaded within {LOAD_LIMIT_S:g} s"
        raise DeviceError(message, device_id) from error
