"""A model on one CPU device: one thread per activation, which runs ONNX Runtime.

Rules of the file:
- An activation is one ONNX Runtime session on one thread, which is pinned to the cores of its
  device before the session is made, so that the threads of the session inherit the pinning.
- An idle activation keeps neither inputs nor outputs.
- Outputs share no memory with inputs, which the caller may change. ONNX Runtime 1.19 to 1.31
  returns an output that is an input as the caller's own array.
- The thread that removes an inference from `held` completes it, so each completes once.
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

import numpy as np

from qaic_sched.backends.base import Executable, closed_in_flight, unused_indexes
from qaic_sched.backends.cpu.cores import pin_to
from qaic_sched.backends.cpu.onnx_model import first_line, is_invalid_argument
from qaic_sched.backends.threads import in_thread, join_all
from qaic_sched.errors import DeviceError, SchedulerClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from qaic_sched.backends.base import OnCompleted
    from qaic_sched.errors import DeviceErrorKind
    from qaic_sched.program import Program, Tensors

__all__ = ["CpuActivation", "CpuExecutable", "CpuInference"]

logger = logging.getLogger("qaic_sched")

CLOSE_LIMIT_S = 5.0
"""Longest that `aclose` waits for inferences that run or are queued on the device."""


class CpuExecutable(Executable):
    """The activations of a model on one device; none at first.

    `open_session(number of cores, number of activations)` is called on the thread of each
    activation. New activations get their share of the cores; earlier ones keep their threads.
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
        self._activations: dict[int, CpuActivation] = {}

    async def load_more(self, count: int, set_size: int) -> Sequence[int]:
        """Open `count` more sessions, each on a new thread; any `set_size` will do."""
        self._require_open()
        activations = self.num_activations + count
        open_session = partial(self._open_session, len(self._cores), activations)
        new = {
            index: CpuActivation(self.device_id, index, self._cores, open_session)
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
        """End the threads of these activations, and with them their sessions."""
        gone = [self._activations.pop(index) for index in activations]
        for index in activations:
            del self.room[index]
        _stop(gone)
        join = partial(join_all, gone, CLOSE_LIMIT_S)
        await in_thread(join, f"qaic-cpu-{self.device_id}-unload")

    def submit(
        self, activation: int, inputs: Mapping[str, object], on_completed: OnCompleted
    ) -> None:
        """Queue one inference; `SchedulerClosedError` once the executable is closed."""
        # Under the lock, so that no inference is queued behind the end marker and never completes.
        with self._lock:
            self._require_open()
            self._activations[activation].take(CpuInference(inputs, on_completed))

    def stop(self) -> None:
        """Let every activation end once it has completed what it holds; does not wait."""
        with self._lock:
            self._is_closed = True
            _stop(self._activations.values())

    async def aclose(self) -> None:
        """Stop, and wait a bounded time; inferences that hang fail, their threads are abandoned."""
        self.stop()
        join = partial(join_all, self._activations.values(), CLOSE_LIMIT_S)
        if await in_thread(join, f"qaic-cpu-{self.device_id}-close"):
            return
        logger.warning("cpu device %d was still busy when it was closed", self.device_id)
        for activation in self._activations.values():
            activation.fail_all(closed_in_flight("cpu", self.device_id))

    def _require_open(self) -> None:
        if self._is_closed:
            raise SchedulerClosedError(f"cpu device {self.device_id} was closed")


def _wait_loaded(activations: Iterable[CpuActivation]) -> None:
    """Block until every activation is ready; raise as soon as one fails."""
    for loaded in as_completed([activation.loaded for activation in activations]):
        loaded.result()


def _stop(activations: Iterable[CpuActivation]) -> None:
    for activation in activations:
        activation.queue.put(None)


class CpuInference:
    """One inference between `submit` and its completion."""

    __slots__ = ("inputs", "on_completed")

    def __init__(self, inputs: Mapping[str, object], on_completed: OnCompleted) -> None:
        self.inputs = inputs
        self.on_completed = on_completed


class CpuActivation(threading.Thread):
    """One ONNX Runtime session on a thread, which runs the inferences of a queue in order.

    `loaded` is done once the session is open, or holds the `DeviceError` that prevented it. None
    in `queue` ends the thread. `held` are the inferences that have not completed.
    """

    def __init__(
        self, device_id: int, index: int, cores: Sequence[int], open_session: Callable[[], Any]
    ) -> None:
        super().__init__(name=f"qaic-cpu-{device_id}-{index}", daemon=True)
        self.loaded: Future[None] = Future()
        self.queue: SimpleQueue[CpuInference | None] = SimpleQueue()
        self.held: set[CpuInference] = set()
        self._device_id = device_id
        self._index = index
        self._cores = cores
        self._open_session = open_session
        self._aliases: list[tuple[str, str]] | None = None
        """Outputs and the inputs whose memory they are; None before the first inference."""
        self.start()

    def take(self, inference: CpuInference) -> None:
        """Queue an inference behind the others."""
        self.held.add(inference)
        self.queue.put(inference)

    def run(self) -> None:
        """Pin the thread, open the session, and run inferences until the end of the queue."""
        try:
            pin_to(self._cores)
            session = self._open_session()
        except Exception as error:
            self.loaded.set_exception(self._failure("loading", error))
            return
        self.loaded.set_result(None)
        output_names = [value.name for value in session.get_outputs()]
        while (inference := self.queue.get()) is not None:
            if inference in self.held:
                self._complete(inference, self._infer(session, output_names, inference.inputs))
            del inference

    def fail_all(self, error: DeviceError) -> None:
        """Fail every held inference; late results of the session are dropped."""
        for inference in list(self.held):
            self._complete(inference, error)

    def _infer(
        self, session: Any, output_names: list[str], inputs: Mapping[str, object]
    ) -> Tensors | DeviceError:
        """Run one inference; return its outputs or its error."""
        try:
            outputs = dict(zip(output_names, session.run(output_names, inputs), strict=True))
            self._separate(outputs, inputs)
            return outputs
        except Exception as error:
            kind: DeviceErrorKind = "input" if is_invalid_argument(error) else "inference"
            return self._failure("an inference", error, kind)

    def _separate(self, outputs: Tensors, inputs: Mapping[str, Any]) -> None:
        """Copy the outputs that are memory of an input.

        Which are is a plan of the session: the first inference looks for them, all others know.
        """
        aliases = self._aliases
        if aliases is None:
            aliases = [
                (name, given)
                for name, output in outputs.items()
                for given, array in inputs.items()
                if np.may_share_memory(output, array)
            ]
            # An array without elements shares nothing: that says nothing of other shapes.
            if all(array.size for array in inputs.values()):
                self._aliases = aliases
        for name, given in aliases:
            if np.may_share_memory(outputs[name], inputs[given]):
                outputs[name] = outputs[name].copy()

    def _complete(self, inference: CpuInference, result: Tensors | DeviceError) -> None:
        """Pass on a result, unless the inference has had one."""
        try:
            self.held.remove(inference)
        except KeyError:
            return
        try:
            inference.on_completed(result, time.monotonic())
        except Exception:
            logger.exception("%s: the callback of an inference failed", self.name)

    def _failure(
        self, what: str, error: Exception, kind: DeviceErrorKind = "inference"
    ) -> DeviceError:
        """A `DeviceError` with the error of the library as its cause."""
        where = f"cpu device {self._device_id}, activation {self._index}"
        message = f"{where}: {what} failed: {first_line(error)}"
        failure = DeviceError(message, self._device_id, kind=kind)
        # Without its traceback, whose frames would keep the inputs alive.
        failure.__cause__ = error.with_traceback(None)
        return failure
