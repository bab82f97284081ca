"""A model on one CPU device: a thread for each activation, which runs ONNX Runtime.

Rules of the file:
- An activation is one ONNX Runtime session on one thread, pinned to its device's cores before
  the session is made, so that the session's own threads inherit the pinning.
- Nothing of an inference is kept by an idle activation, neither inputs nor outputs.
- Whoever takes an inference out of `held` answers it, so each is answered once.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, as_completed
from functools import partial
from math import inf
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from qaic_sched.backends.base import Executable, closed_in_flight, unused_indexes
from qaic_sched.backends.cpu.cores import pin_to
from qaic_sched.backends.cpu.onnx_model import first_line
from qaic_sched.backends.threads import in_thread, join_all
from qaic_sched.errors import DeviceError, SchedulerClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from qaic_sched.backends.base import OnCompleted
    from qaic_sched.program import Program, Tensors

__all__ = ["Activation", "CpuExecutable", "Flight"]

logger = logging.getLogger("qaic_sched")

CLOSE_LIMIT_S = 5.0
"""Longest that `aclose` waits for inferences that are running or queued on the device."""


class CpuExecutable(Executable):
    """A model's activations on one device, none at first.

    `open_session(cores of the device, activations then)` is called on each activation's own thread.
    Those that are loaded together divide the cores with those that are there; they keep what they
    have.
    """

    def __init__(
        self,
        device_id: int,
        program: Program,
        cores: Sequence[int],
        open_session: Callable[[int, int], Any],
    ) -> None:
        self.device_id = device_id
        self.program = program
        self.room = {}
        self._cores = cores
        self._open_session = open_session
        self._lock = threading.Lock()
        self._is_closed = False
        self._activations: dict[int, Activation] = {}

    async def load_more(self, count: int, set_size: int) -> Sequence[int]:
        """Open so many sessions more, each on a thread of its own; any `set_size` will do."""
        self._require_open()
        activations = self.num_activations + count
        open_session = partial(self._open_session, len(self._cores), activations)
        new = {
            index: Activation(self.device_id, index, self._cores, open_session)
            for index in unused_indexes(self.room, count)
        }
        try:
            await in_thread(partial(_wait_loaded, new.values()))
            with self._lock:
                self._require_open()
                self._activations.update(new)
        except BaseException:
            _stop(new.values())
            raise
        self.room.update(dict.fromkeys(new, inf))
        return list(new)

    async def unload(self, activations: Sequence[int]) -> None:
        """End their threads, and with them their sessions."""
        gone = [self._activations.pop(index) for index in activations]
        for index in activations:
            del self.room[index]
        _stop(gone)
        join = partial(join_all, gone, CLOSE_LIMIT_S)
        await in_thread(join, f"qaic-cpu-{self.device_id}-unload")

    def submit(
        self, activation: int, inputs: Mapping[str, object], on_completed: OnCompleted
    ) -> None:
        """Queue one inference; `SchedulerClosedError` once the executable was closed."""
        # The lock keeps an inference from slipping in behind the end of the queue, unanswered.
        with self._lock:
            self._require_open()
            self._activations[activation].take(Flight(inputs, on_completed))

    def stop(self) -> None:
        """Let every activation end once it has done what it holds; waits for nothing."""
        with self._lock:
            self._is_closed = True
            _stop(self._activations.values())

    async def aclose(self) -> None:
        """Stop, and wait a bounded time; what hangs is answered with an error and left behind."""
        self.stop()
        join = partial(join_all, self._activations.values(), CLOSE_LIMIT_S)
        if await in_thread(join, f"qaic-cpu-{self.device_id}-close"):
            return
        logger.warning("cpu device %d was still busy when it was closed", self.device_id)
        for activation in self._activations.values():
            activation.answer_all(closed_in_flight("cpu", self.device_id))

    def _require_open(self) -> None:
        if self._is_closed:
            raise SchedulerClosedError(f"cpu device {self.device_id} was closed")


def _wait_loaded(activations: Iterable[Activation]) -> None:
    """Block until every activation is ready; raise as soon as one failed."""
    for loaded in as_completed([activation.loaded for activation in activations]):
        loaded.result()


def _stop(activations: Iterable[Activation]) -> None:
    for activation in activations:
        activation.queue.put(None)


class Flight:
    """One inference between `submit` and its answer."""

    __slots__ = ("inputs", "on_completed")

    def __init__(self, inputs: Mapping[str, object], on_completed: OnCompleted) -> None:
        self.inputs = inputs
        self.on_completed = on_completed


class Activation(threading.Thread):
    """One ONNX Runtime session on a thread of its own, which serves a queue in order.

    `loaded` is done when the session was made, or holds the `DeviceError` that prevented it.
    `queue` takes None to end. `held` are the inferences that are not answered yet.
    """

    def __init__(
        self, device_id: int, index: int, cores: Sequence[int], open_session: Callable[[], Any]
    ) -> None:
        super().__init__(name=f"qaic-cpu-{device_id}-{index}", daemon=True)
        self.loaded: Future[None] = Future()
        self.queue: SimpleQueue[Flight | None] = SimpleQueue()
        self.held: set[Flight] = set()
        self._device_id = device_id
        self._index = index
        self._cores = cores
        self._open_session = open_session
        self.start()

    def take(self, flight: Flight) -> None:
        """Queue an inference behind those that are held."""
        self.held.add(flight)
        self.queue.put(flight)

    def run(self) -> None:
        """Pin the thread, open the session, and answer until the end of the queue."""
        try:
            pin_to(self._cores)
            session = self._open_session()
        except Exception as error:
            self.loaded.set_exception(self._failure("loading", error))
            return
        self.loaded.set_result(None)
        output_names = [value.name for value in session.get_outputs()]
        while (flight := self.queue.get()) is not None:
            if flight in self.held:
                self._answer(flight, self._infer(session, output_names, flight.inputs))
            del flight

    def answer_all(self, error: DeviceError) -> None:
        """Answer all that is held with an error; what the session makes of it is dropped."""
        for flight in list(self.held):
            self._answer(flight, error)

    def _infer(
        self, session: Any, output_names: list[str], inputs: Mapping[str, object]
    ) -> Tensors | DeviceError:
        """Run one inference; its outputs, or its failure."""
        try:
            return dict(zip(output_names, session.run(output_names, inputs), strict=True))
        except Exception as error:
            return self._failure("an inference", error)

    def _answer(self, flight: Flight, answer: Tensors | DeviceError) -> None:
        """Hand an answer over, unless the inference has had one."""
        try:
            self.held.remove(flight)
        except KeyError:
            return
        try:
            flight.on_completed(answer, time.monotonic())
        except Exception:
            logger.exception("%s: the receiver of an inference's outputs failed", self.name)

    def _failure(self, what: str, error: Exception) -> DeviceError:
        """Our error, with the library's as its cause."""
        where = f"cpu device {self._device_id}, activation {self._index}"
        failure = DeviceError(f"{where}: {what} failed: {first_line(error)}", self._device_id)
        # Without its traceback, whose frames would keep the inference's inputs alive.
        failure.__cause__ = error.with_traceback(None)
        return failure
