"""A device that the test controls: inferences complete at once, or when the test says so."""

from __future__ import annotations

import asyncio
import math
import signal
import threading
import time
from contextlib import contextmanager
from functools import partial
from queue import Queue
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import pytest

from qaic_sched.backends.base import Backend, DeviceInfo, Executable, OnCompleted
from qaic_sched.config.keys import ModelOptions
from qaic_sched.errors import DeviceError
from qaic_sched.program import Program, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

__all__ = [
    "PATIENCE_S",
    "ScriptedBackend",
    "ScriptedExecutable",
    "Submitted",
    "interrupted_when",
    "rows",
    "session_threads",
    "until",
]

PATIENCE_S = 10.0
"""The longest wait in a test, after which it fails."""

PROGRAM = Program.of(
    [TensorSpec("x", (4, 2), np.dtype("f4"))], [TensorSpec("y", (4,), np.dtype("f4"))], [1, 4]
)


def until(condition: Callable[[], object]) -> None:
    """Wait until other threads make the condition true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0)


def session_threads() -> list[threading.Thread]:
    """The event loop threads of sessions."""
    return [each for each in threading.enumerate() if each.name == "qaic_sched session"]


@contextmanager
def interrupted_when(condition: Callable[[], object]) -> Iterator[None]:
    """Press Ctrl-C once the condition is true, and expect it to end the block.

    The signal is repeated until it is noticed: one that comes just before a wait for a lock does
    not end that wait.
    """
    is_noticed = threading.Event()

    def notice(*_: object) -> None:
        if not is_noticed.is_set():
            is_noticed.set()
            raise KeyboardInterrupt

    def press() -> None:
        until(condition)
        while not is_noticed.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            is_noticed.wait(0.02)

    before = signal.signal(signal.SIGINT, notice)
    finger = threading.Thread(target=press)
    finger.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        is_noticed.set()
        finger.join()
        signal.signal(signal.SIGINT, before)


class Submitted(NamedTuple):
    activation: int
    inputs: Mapping[str, Any]
    on_completed: OnCompleted

    def complete(self) -> None:
        """Complete with the mean of each row."""
        self.on_completed({"y": self.inputs["x"].mean(axis=1)}, time.monotonic())

    def fail(self, error: DeviceError) -> None:
        """Complete with an error."""
        self.on_completed(error, time.monotonic())


class ScriptedExecutable(Executable):
    program = PROGRAM

    def __init__(self, backend: ScriptedBackend, device_id: int, num_activations: int) -> None:
        self.backend = backend
        self.device_id = device_id
        self.room = dict.fromkeys(range(num_activations), math.inf)
        self.selects_activation = backend.selects_activation
        self.loop = asyncio.get_running_loop()
        self.thread = threading.current_thread()
        self.submitted: Queue[Submitted] = Queue()
        self.is_closed = False

    def submit(
        self, activation: int, inputs: Mapping[str, object], on_completed: OnCompleted
    ) -> None:
        if self.backend.refusal is not None:
            raise self.backend.refusal
        inference = Submitted(activation, inputs, on_completed)
        self.backend.num_submitted += 1
        if self.backend.completes_at_once:
            self.loop.call_soon_threadsafe(partial(self._complete, inference))
        else:
            self.submitted.put(inference)

    def next(self) -> Submitted:
        """The next submitted inference."""
        return self.submitted.get(timeout=PATIENCE_S)

    async def load_more(self, count: int, set_size: int) -> NoReturn:
        raise NotImplementedError("a Session loads again")

    async def unload(self, activations: object) -> NoReturn:
        raise NotImplementedError("a Session loads again")

    async def aclose(self) -> None:
        self.is_closed = True
        if self.backend.close_error is not None:
            raise self.backend.close_error

    def _complete(self, inference: Submitted) -> None:
        if self.backend.error is None:
            inference.complete()
        else:
            inference.fail(self.backend.error)


class ScriptedBackend(Backend):
    kind = "scripted"

    def __init__(self, *, completes_at_once: bool = True, selects_activation: bool = True) -> None:
        super().__init__("scripted", ModelOptions())
        self.completes_at_once = completes_at_once
        self.selects_activation = selects_activation
        self.error: DeviceError | None = None
        self.refusal: Exception | None = None
        self.load_error: Exception | None = None
        self.close_error: Exception | None = None
        self.hangs_on_load = False
        self.num_described = 0
        self.num_submitted = 0
        self.loads: list[tuple[int, int, int]] = []
        self.executables: list[ScriptedExecutable] = []

    async def find(self) -> list[DeviceInfo]:
        return [DeviceInfo(each, self.kind, "ready", 1, 1) for each in range(4)]

    async def describe(self) -> Program:
        self.num_described += 1
        return PROGRAM

    async def load(self, device_id: int, num_activations: int, set_size: int) -> Executable:
        self.loads.append((device_id, num_activations, set_size))
        if self.hangs_on_load:
            await asyncio.Event().wait()
        if self.load_error is not None:
            raise self.load_error
        assert all(each.is_closed for each in self.executables), "the device is still taken"
        self.executables.append(ScriptedExecutable(self, device_id, num_activations))
        return self.executables[-1]


def rows(*values: float) -> dict[str, NDArray[np.float32]]:
    """Inputs whose outputs are these values."""
    return {"x": np.repeat(np.array(values, np.float32), 2).reshape(-1, 2)}
