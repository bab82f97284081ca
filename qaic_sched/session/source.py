"""The source that sessions load their program from, shared by the devices of a host."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from qaic_sched.session.loop_thread import finish_alone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qaic_sched.backends.base import Backend, Executable
    from qaic_sched.program import Program
    from qaic_sched.session.loop_thread import LoopThread

__all__ = ["ProgramSource"]


class ProgramSource:
    """A backend that several sessions may share, each with a separate event loop.

    `device_ids` are the selected devices that share the host: each gets its share, however many of
    them are loaded. Any other device gets what it would get alone.
    """

    def __init__(self, backend: Backend, device_ids: Sequence[int] = ()) -> None:
        self._backend = backend
        self._shared = self._selected = list(device_ids)
        # A backend must not be used by two loops at once.
        self._lock = Lock()

    def describe(self) -> Program:
        """Describe the model; blocks, and raises the errors of the backend."""
        with self._lock:
            return finish_alone(self._backend.describe())

    def load(
        self, thread: LoopThread, device_id: int, num_activations: int, set_size: int
    ) -> Executable:
        """Load the program on the thread's loop; blocks, and raises the errors of the backend."""
        with self._lock:
            return thread.finish(self._load(device_id, num_activations, set_size))

    async def _load(self, device_id: int, num_activations: int, set_size: int) -> Executable:
        wanted = self._shared if device_id in self._shared else [device_id]
        if wanted != self._selected:
            self._selected = await self._backend.select(wanted)
        return await self._backend.load(device_id, num_activations, set_size)
