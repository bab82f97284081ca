"""The pool: opens the program on every device, submits batches, brings answers to the loop.

Devices answer on threads of their own or on the event loop. Both go through one inbox, and the
loop is woken once for all answers that are in it by then. Only the answer of a probe takes another
way: a probe belongs to no batch.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, TypeVar

import anyio

from qaic_sched.clock import clock_of
from qaic_sched.errors import DeviceError
from qaic_sched.scheduler.failures import batch_error
from qaic_sched.scheduler.probe_inputs import first_row_of, guesses, probe_of
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
"""Seconds after which a load has hung, on any backend.

A backend whose loads can hang bounds its own steps, because it knows what it can stop; this limit
must be longer than their sum. The longest are those of `aic`: 570 s for the SDK, the QPC, a query
of the device, and 300 s of loading. Here alone are bounded `load_more` and backends without limits.
"""
PROBE_LIMIT_S = 10.0
"""The least number of seconds for the first inference of a reloaded device, which may be slow."""
_MAY_BE_INPUTS = ("input", "inference")
"""Kinds of failure of which the values of the inputs may be the cause."""


class Flight:
    """A batch on its device, with everything that must not change until the device answers."""

    __slots__ = ("_is_refused", "_pool", "answer", "batch", "buffer", "completed_at")

    def __init__(self, pool: Pool, batch: Batch) -> None:
        self._pool = pool
        self._is_refused = False
        self.batch = batch
        self.buffer: BatchBuffer | None = None
        self.answer: object
        """The outputs or the error; whatever else a backend may give as one is the shell's."""
        self.completed_at: float

    def __call__(self, answer: object, completed_at: float) -> None:
        """Take the answer, as the `on_completed` that the device was given; on any thread."""
        if self._is_refused:
            return
        self.answer = answer
        self.completed_at = completed_at
        self._pool.completed(self)

    def refuse(self, error: DeviceError, now: float) -> None:
        """Complete the batch with an error: it was not sent, or not as it should have been.

        The device may have taken it all the same: its answer is ignored, and the buffer that it
        may still hold is not used again.
        """
        self.buffer = None
        self(error, now)
        self._is_refused = True


class _Probe:
    """An inference that shows if a device works; keeps its inputs until the answer."""

    def __init__(self, executable: Executable, inputs: Tensors) -> None:
        self.inputs = inputs
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Tensors | DeviceError] = self._loop.create_future()
        executable.submit(0, self.inputs, self._completed)

    def _completed(self, answer: Tensors | DeviceError, _completed_at: float) -> None:
        with suppress(RuntimeError):  # the loop may be closed by the time of the answer
            self._loop.call_soon_threadsafe(self._set_answer, answer)

    def _set_answer(self, answer: Tensors | DeviceError) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)


class Pool:
    """One executable per device. All methods but `completed` belong to the loop's thread."""

    def __init__(self, backend: Backend, program: Program) -> None:
        self.executables: dict[int, Executable] = {}
        """By device id."""
        self._backend = backend
        self._buffers = BatchBuffers(program)
        self._program = program
        self._wants_sample = True
        """Whether no inference has worked yet, nor is one awaited whose inputs were copied."""
        self._sampled: Flight | None = None
        """The inference that is awaited."""
        self._sample: Tensors = {}
        """A copy of the first row of its inputs, or of those of the first that has worked."""
        self._has_worked = False
        self._loop = asyncio.get_running_loop()
        self._clock = clock_of(self._loop)
        self._loop_thread = get_ident()
        self._inbox: deque[Flight] = deque()
        self._on_completed: Callable[[], object]
        self._is_woken = False
        self._is_closed = False
        self._num_activations = self._set_size = 0
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    def deliver_to(self, on_completed: Callable[[], object]) -> None:
        """Call `on_completed()` on the loop whenever there are flights for `take_completed`.

        Set this before the first `submit`.
        """
        self._on_completed = on_completed

    def plan(self, num_activations: int, set_size: int) -> None:
        """Set the activations per device and the `set_size` of every load from now on."""
        self._num_activations, self._set_size = num_activations, set_size

    @property
    def planned(self) -> tuple[int, int]:
        """The activations per device and the `set_size` that were last planned."""
        return self._num_activations, self._set_size

    def changing(self, device_id: int) -> asyncio.Lock:
        """Return the lock to hold while a device is loaded, resized or closed."""
        return self._locks[device_id]

    async def open(self, device_ids: Sequence[int], num_activations: int, set_size: int) -> None:
        """Load the program on all devices at once; on failure close the devices that loaded."""
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
        """Close a device, load it again and probe it with inputs that have worked.

        Closing answers every inference that the device still holds. Raises `DeviceError` if the
        probe fails, or takes longer than `limit_s` or 10 s, whichever is more. If no inputs have
        worked yet, an inference that fails proves nothing against a device that answers it.
        """
        await self.executables[device_id].aclose()
        await self._load(device_id)
        executable = self.executables[device_id]
        limit_s = max(limit_s or 0.0, PROBE_LIMIT_S)
        with anyio.move_on_after(limit_s):
            answer = await self._probe(executable)
            if isinstance(answer, DeviceError):
                message = f"device {device_id} was loaded and failed an inference: {answer}"
                error = DeviceError(message, device_id, kind=answer.kind)
                error.__cause__ = answer  # compiled, `raise ... from` loses it here
                raise error
            return executable
        message = f"device {device_id} was loaded and did not answer within {limit_s:g} s"
        raise DeviceError(message, device_id, kind="stuck")

    async def _probe(self, executable: Executable) -> Tensors | DeviceError | None:
        """Run an inference on a reloaded device; return None if the answer proves nothing."""
        if self._has_worked:
            return await _Probe(executable, probe_of(self._program, self._sample)).answer
        for inputs in guesses(executable.program):
            answer = await _Probe(executable, inputs).answer
            if not isinstance(answer, DeviceError) or answer.kind not in _MAY_BE_INPUTS:
                return answer
        return None

    async def load(self, device_id: int) -> Executable:
        """Load the program on one more device."""
        await self._load(device_id)
        return self.executables[device_id]

    async def load_more(self, device_id: int, count: int) -> Sequence[int]:
        """Load `count` more activations on a device and return their indexes."""
        load = self.executables[device_id].load_more(count, self._set_size)
        return await _bounded(load, device_id)

    async def close(self, device_id: int) -> None:
        """Close one device for good."""
        await self.executables[device_id].aclose()
        del self.executables[device_id]

    async def aclose(self) -> None:
        """Close all devices, even while being cancelled; idempotent.

        Each device bounds the time that its closing takes.
        """
        with anyio.CancelScope(shield=True):
            closings = [each.aclose() for each in self.executables.values()]
            failures = await asyncio.gather(*closings, return_exceptions=True)
        self._is_closed = True
        for failure in filter(None, failures):
            raise failure

    def submit(self, batch: Batch, sources: Sequence[Tensors]) -> None:
        """Send a batch to its activation; `sources` has the request's inputs for each part.

        If its inputs cannot be gathered, or the backend raises, the batch completes with that
        error: whatever the reason, it is of no concern to other batches.
        """
        activation = batch.activation
        executable = self.executables[activation.device_id]
        flight = Flight(self, batch)
        step = "its inputs cannot be gathered"
        try:
            inputs = self._inputs(flight, batch, sources)
            if self._wants_sample:
                self._wants_sample, self._sampled = False, flight
                self._sample = first_row_of(self._program, inputs)
            step = "the backend did not accept an inference"
            executable.submit(activation.index, inputs, flight)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            if not isinstance(error, DeviceError):
                error = batch_error(batch, step, error)
            flight.refuse(error, self._clock())

    def completed(self, flight: Flight) -> None:
        """Put a flight that was answered into the inbox; on any thread."""
        self._inbox.append(flight)
        if self._is_woken:
            return
        self._is_woken = True
        if get_ident() == self._loop_thread:
            self._loop.call_soon(self._deliver)
        elif not self._is_closed:
            self._loop.call_soon_threadsafe(self._deliver)

    def take_completed(self) -> list[Flight]:
        """Return the flights answered since the last call, and free their input buffers."""
        # Before the inbox is emptied: a thread that appends from here on wakes the loop again.
        self._is_woken = False
        take = self._inbox.popleft
        flights = [take() for _ in range(len(self._inbox))]
        if self._sampled is not None and self._sampled in flights:
            self._has_worked = isinstance(self._sampled.answer, dict)
            self._wants_sample, self._sampled = not self._has_worked, None
        for flight in flights:
            if flight.buffer is not None:
                self._buffers.give_back(flight.batch.size, flight.buffer)
        return flights

    async def _load(self, device_id: int) -> None:
        load = self._backend.load(device_id, self._num_activations, self._set_size)
        self.executables[device_id] = await _bounded(load, device_id)

    def _inputs(self, flight: Flight, batch: Batch, sources: Sequence[Tensors]) -> Tensors:
        part, source = batch.parts[0], sources[0]
        if part.samples != batch.size:
            flight.buffer = buffer = self._gather(batch, sources)
            return buffer
        if part.samples == part.request.samples:
            return source
        end = part.offset + part.samples
        return {name: rows[part.offset : end] for name, rows in source.items()}

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
            self._on_completed()


async def _bounded(load: Awaitable[T], device_id: int) -> T:
    try:
        with anyio.fail_after(LOAD_LIMIT_S):
            return await load
    except TimeoutError as error:
        message = f"device {device_id}: the program was not loaded within {LOAD_LIMIT_S:g} s"
        raise DeviceError(message, device_id) from error
