"""A program loaded on one device for blocking callers, with the event loop that it lives on.

Each inference is answered exactly once, by the device or by giving up on it.
"""

from __future__ import annotations

import asyncio
import copy
import weakref
from typing import TYPE_CHECKING

from qaic_sched.errors import DeviceError
from qaic_sched.session.loop_thread import LoopThread
from qaic_sched.session.slots import SlotLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    from qaic_sched.backends.base import Executable
    from qaic_sched.program import Tensors
    from qaic_sched.session.source import ProgramSource

    Answer: TypeAlias = "Tensors | Exception"
    """Outputs, or what went wrong."""
    Completed: TypeAlias = Callable[[Answer, float], None]
    """`answered(answer, completed_at)`, at a time of `time.monotonic`."""

__all__ = ["LoadedProgram", "own_error"]

SILENCE_S = 60.0
"""Longest that a device may answer nothing while a session drains; then it is given up.

A card's driver fails a stuck inference by itself after about 30 s.
"""


class LoadedProgram:
    """One program on one device, loaded by construction and given back by `close`.

    Construction blocks and raises what the backend raises.
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
            self.slots = SlotLedger(num_activations, set_size)
        else:
            self.slots = SlotLedger(1, num_activations * set_size)
        self._inferences: set[_Inference] = set()
        is_over = asyncio.Event()
        self._closed = self._thread.start(_close_when(is_over, self._executable, self._thread))
        # Called by `close`, or when the owner has dropped this: then nobody waits.
        self._give_back = weakref.finalize(self, self._thread.set, is_over)

    def submit(self, activation: int, inputs: Mapping[str, object], answered: Completed) -> None:
        """Start an inference in a slot that the caller holds; never blocks, never raises.

        `answered` is called once, on any thread; it gives the slot back.
        """
        inference = _Inference(self._inferences, answered)
        self._inferences.add(inference)
        try:
            self._executable.submit(activation, inputs, inference)
        except Exception as error:
            inference(error, 0.0)

    def close(self) -> None:
        """Let those in flight finish, then give the device back. Repeat it if interrupted."""
        is_idle = self.slots.drain(SILENCE_S)
        self._give_back()
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
            f"device {device_id} was closed, it had answered nothing for {SILENCE_S:g} s", device_id
        )
        for inference in list(self._inferences):
            inference(error, 0.0)


def own_error(error: Exception) -> Exception:
    """The error to raise to one caller: a device may give many callers one and the same.

    Each then gets a traceback of its own.
    """
    if not isinstance(error, DeviceError):
        return error
    own = copy.copy(error)
    own.__cause__ = error
    return own


class _Inference:
    """The `done` of one inference: only its first answer counts."""

    __slots__ = ("_answered", "_pending")

    def __init__(self, pending: set[_Inference], answered: Completed) -> None:
        self._pending = pending
        self._answered = answered

    def __call__(self, answer: Answer, completed_at: float) -> None:
        try:
            self._pending.remove(self)
        except KeyError:
            return
        self._answered(answer, completed_at)


async def _close_when(is_over: asyncio.Event, executable: Executable, thread: LoopThread) -> None:
    await is_over.wait()
    try:
        await executable.aclose()
    finally:
        thread.stop()
