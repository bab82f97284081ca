"""A program loaded on one device for blocking callers, with the event loop that it runs on.

Each inference completes exactly once: by the device, or because the session gives up on it.
"""

from __future__ import annotations

import asyncio
import copy
import weakref
from typing import TYPE_CHECKING

from qaic_sched.errors import DeviceError, InputError
from qaic_sched.session.loop_thread import LoopThread
from qaic_sched.session.slots import SlotGate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    from qaic_sched.backends.base import Executable
    from qaic_sched.program import Tensors
    from qaic_sched.session.source import ProgramSource

    Result: TypeAlias = "Tensors | Exception"
    """Outputs, or the error of the inference."""
    Receiver: TypeAlias = Callable[[Result, float], None]
    """`on_completed(result, completed_at)`, with a time of `time.monotonic`."""

__all__ = ["LoadedProgram", "own_error"]

SILENCE_S = 60.0
"""How long a draining session waits for the next completion before it gives up on the device.

The driver of a device fails a stuck inference by itself after about 30 s.
"""


class LoadedProgram:
    """One program on one device, loaded on construction and released by `close`.

    Construction blocks, and raises the errors of the backend.
    """

    def __init__(
        self, source: ProgramSource, device_id: int, num_activations: int, set_size: int
    ) -> None:
        self._thread = LoopThread()
        try:
            self._executable = source.load(self._thread, device_id, num_activations, set_size)
        except BaseException:
            self._thread.stop()
            self._thread.join()
            raise
        self.program = self._executable.program
        if self._executable.selects_activation:
            self.slots = SlotGate(num_activations, set_size)
        else:
            self.slots = SlotGate(1, num_activations * set_size)
        self._inferences: set[_Completion] = set()
        is_over = asyncio.Event()
        self._closed = self._thread.start(_close_when(is_over, self._executable, self._thread))
        # Called by `close`, or, without waiting, when this object is collected.
        self._release = weakref.finalize(self, self._thread.set, is_over)

    def submit(self, activation: int, inputs: Mapping[str, object], on_completed: Receiver) -> None:
        """Start an inference in a slot that the caller holds; never blocks, never raises.

        `on_completed` is called once, on any thread, and must release the slot.
        """
        inference = _Completion(self._inferences, on_completed)
        self._inferences.add(inference)
        try:
            self._executable.submit(activation, inputs, inference)
        except Exception as error:
            inference(error, 0.0)

    def close(self) -> None:
        """Finish inferences in flight, then release the device. Call it again if interrupted."""
        is_idle = self.slots.drain(SILENCE_S)
        self._release()
        try:
            self._closed.result()
        finally:
            if not is_idle:
                self._give_up()
        self._thread.join()

    def _give_up(self) -> None:
        self.slots.dismiss()
        device_id = self._executable.device_id
        error = DeviceError(
            f"device {device_id} was closed, because it completed nothing for {SILENCE_S:g} s",
            device_id,
        )
        for inference in list(self._inferences):
            inference(error, 0.0)


def own_error(error: Exception) -> Exception:
    """Return the error for one caller: a copy of a `DeviceError`, with a separate traceback.

    A device may fail many inferences with one error object. One that is about the values of the
    inputs becomes an `InputError`.
    """
    if not isinstance(error, DeviceError):
        return error
    own: Exception
    if error.kind == "input":
        own = InputError(f"the values of the inputs were rejected: {error}")
    else:
        own = copy.copy(error)
    own.__cause__ = error
    return own


class _Completion:
    """The `on_completed` of one inference, which passes on the first result only."""

    __slots__ = ("_on_completed", "_pending")

    def __init__(self, pending: set[_Completion], on_completed: Receiver) -> None:
        self._pending = pending
        self._on_completed = on_completed

    def __call__(self, result: Result, completed_at: float) -> None:
        try:
            self._pending.remove(self)
        except KeyError:
            return
        self._on_completed(result, completed_at)


async def _close_when(is_over: asyncio.Event, executable: Executable, thread: LoopThread) -> None:
    await is_over.wait()
    try:
        await executable.aclose()
    finally:
        thread.stop()
