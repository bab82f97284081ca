"""Baselines: what a competent user would write instead of the scheduler, on the same devices.

They have no deadlines, priorities, tenants, retries, hedges, health, queue limits or metrics: each
only sends inferences and returns answers, with one task per slot or with micro-batches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from qaic_sched.backends.choose import backend_for
from qaic_sched.config.layers import make_config
from qaic_sched.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from qaic_sched.backends.base import Executable
    from qaic_sched.program import Tensors

__all__ = ["MicroBatcher", "infer", "infer_on_thread", "load_all", "run_in_slots"]

Waiting: TypeAlias = "tuple[Tensors, asyncio.Future[Tensors]]"


@asynccontextmanager
async def load_all(
    path: str, num_activations: int = 1, set_size: int = 2, **options: Any
) -> AsyncIterator[list[Executable]]:
    """Load the program on every device and yield the bare executables."""
    config = make_config(path, **options)
    backend = backend_for(config)
    await backend.describe()
    device_ids = await backend.select(config.devices)
    loaded = [await backend.load(each, num_activations, set_size) for each in device_ids]
    try:
        yield loaded
    finally:
        for each in loaded:
            await each.aclose()


def infer(
    executable: Executable, activation: int, inputs: Mapping[str, object]
) -> asyncio.Future[Tensors]:
    """Run one inference on a device that answers on the loop's thread, as simulated cards do."""
    future: asyncio.Future[Tensors] = asyncio.get_running_loop().create_future()

    def on_completed(answer: Tensors | DeviceError, completed_at: float) -> None:
        _settle(future, answer)

    executable.submit(activation, inputs, on_completed)
    return future


def infer_on_thread(
    executable: Executable, activation: int, inputs: Mapping[str, object]
) -> asyncio.Future[Tensors]:
    """Run one inference on a device that answers on another thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Tensors] = loop.create_future()

    def on_completed(answer: Tensors | DeviceError, completed_at: float) -> None:
        loop.call_soon_threadsafe(_settle, future, answer)

    executable.submit(activation, inputs, on_completed)
    return future


def _settle(future: asyncio.Future[Tensors], answer: Tensors | DeviceError) -> None:
    if isinstance(answer, DeviceError):
        future.set_exception(answer)
    else:
        future.set_result(answer)


async def run_in_slots(
    executables: Sequence[Executable], set_size: int, inputs: Tensors, requests: int
) -> None:
    """Run large requests with the same inputs, split over one task per slot."""
    program = executables[0].program
    batch, [result] = program.max_batch_size, program.outputs
    [(name, rows)] = inputs.items()
    shape = (len(rows), *result.shape[1:])
    outputs = (np.empty(shape, result.dtype) for _ in range(requests))
    pieces = ((out, start) for out in outputs for start in range(0, len(rows), batch))

    async def keep_busy(executable: Executable, activation: int) -> None:
        for output, start in pieces:
            answer = await infer(executable, activation, {name: rows[start : start + batch]})
            output[start : start + batch] = answer[result.name]

    slots = [
        keep_busy(executable, activation)
        for _ in range(set_size)
        for executable in executables
        for activation in range(executable.num_activations)
    ]
    await asyncio.gather(*slots)


class MicroBatcher:
    """Collects samples until a batch is full or the oldest has waited `delay_s`, then sends it."""

    def __init__(self, executables: Sequence[Executable], set_size: int, delay_s: float) -> None:
        program = executables[0].program
        [self._input], [self._output] = program.inputs, program.outputs
        self._batch = program.max_batch_size
        self._delay_s = delay_s
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._free = deque(
            (executable, activation)
            for _ in range(set_size)
            for activation in range(executables[0].num_activations)
            for executable in executables
        )

    def submit(self, inputs: Tensors) -> asyncio.Future[Tensors]:
        """Queue one sample and return the future of its outputs."""
        future: asyncio.Future[Tensors] = self._loop.create_future()
        self._waiting.append((inputs, future))
        if len(self._waiting) >= self._batch:
            self._send()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._delay_s, self._send)
        return future

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self._free:
            slot = self._free.popleft()
            count = min(self._batch, len(self._waiting))
            taken = [self._waiting.popleft() for _ in range(count)]
            rows = np.empty(self._input.shape, self._input.dtype)
            np.concatenate([each[self._input.name] for each, _ in taken], out=rows[:count])
            self._run(slot, {self._input.name: rows}, [future for _, future in taken])

    def _run(
        self, slot: tuple[Executable, int], inputs: Tensors, futures: list[asyncio.Future[Tensors]]
    ) -> None:
        name = self._output.name

        def on_completed(answer: Tensors | DeviceError, completed_at: float) -> None:
            self._free.append(slot)
            for row, future in enumerate(futures):
                if isinstance(answer, DeviceError):
                    future.set_exception(answer)
                else:
                    future.set_result({name: answer[name][row : row + 1].copy()})
            if self._waiting and self._timer is None:
                self._send()

        executable, activation = slot
        executable.submit(activation, inputs, on_completed)
