"""A program on one card: submits inferences to the vendor's runtime and passes on their results.

Rules of the file:
- Every call of the runtime that can block is made on a daemon thread of the device: one thread
  loads and submits, and one thread per activation waits for inferences, in the order of `submit`.
  A device has num_activations + 1 threads, and one more while it loads further activations.
- Each activation is an `InferenceSet` with one activation, because a larger set chooses the
  activation itself. The `set_size` that it is made with is the most that it can ever hold.
- One Context serves one device. Assumption (not verified on hardware): sharing one between devices
  may work, but no public document says so, and no device should fail because another does.
- Assumption (not verified on hardware): programs can be loaded in a Context on one thread while
  others run in it.
- Inputs are copied before they are submitted, outputs before they are handed out: the hardware
  never touches a caller's memory, even after a timeout.
- The thread that removes an inference from `_pending` completes it, so each completes once.
- Assumption (not verified on hardware): the binding lets other threads run while it waits.
"""

from __future__ import annotations

import itertools
import logging
import threading
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from qaic_sched.backends.aic.activation import HANDLE_LIMIT_US, AicActivation, AicInference
from qaic_sched.backends.aic.status import load_error
from qaic_sched.backends.base import Executable, closed_in_flight, unused_indexes
from qaic_sched.backends.threads import in_thread, join_all
from qaic_sched.clock import clock_of
from qaic_sched.errors import DeviceError, SchedulerClosedError, SchedulerError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from qaic_sched.backends.aic.qpc import QpcFile
    from qaic_sched.backends.aic.sdk import Sdk
    from qaic_sched.backends.base import OnCompleted
    from qaic_sched.program import Tensors

__all__ = ["AicExecutable"]

logger = logging.getLogger("qaic_sched")

CLOSE_LIMIT_S = 5.0
"""Longest time that `aclose` waits for the inferences that the device holds."""


class AicExecutable(Executable):
    """The activations of a QPC on one device. Made by `AicBackend.load`, which awaits `loaded`.

    `check_room(count, loaded)` raises unless the device has room for `count` activations besides
    the `loaded` ones. Once the device is lost or its cores restart, every inference fails with that
    error.
    """

    def __init__(
        self,
        sdk: Sdk,
        file: QpcFile,
        device_id: int,
        num_activations: int,
        set_size: int,
        loop: asyncio.AbstractEventLoop,
        check_room: Callable[[int, int], Awaitable[None]],
    ) -> None:
        self.device_id = device_id
        self.program = file.program
        self.room = dict.fromkeys(range(num_activations), set_size)
        self.loaded: Future[None] = Future()
        self.loaded.set_running_or_notify_cancel()  # it cannot be cancelled any more
        self.clock = clock_of(loop)
        self.failure: DeviceError | None = None
        """The error that ended the device or the program, if any."""
        self._runtime = sdk.runtime
        self._file = file
        self._check_room = check_room
        self._loop = loop
        self._lock = threading.Lock()
        self._is_closed = False
        self._ids = itertools.count()
        self._pending: dict[int, AicInference] = {}
        self._queue: SimpleQueue[AicInference | None] = SimpleQueue()
        self._context: Any = None
        self._activations: dict[int, AicActivation] = {}
        name = f"qaic-aic-{device_id}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(
        self, activation: int, inputs: Mapping[str, object], on_completed: OnCompleted
    ) -> None:
        """Queue one inference; `SchedulerClosedError` once the executable is closed."""
        with self._lock:
            if self._is_closed:
                raise SchedulerClosedError(f"aic device {self.device_id} was closed")
            failure = self.failure
            if failure is None:
                inference = AicInference(next(self._ids), activation, inputs, on_completed)
                self._pending[inference.id] = inference
                self._queue.put(inference)
            else:
                # On the loop, because every thread of the device may be stuck.
                self._loop.call_soon_threadsafe(on_completed, failure, self.clock())

    async def load_more(self, count: int, set_size: int) -> Sequence[int]:
        """Load `count` more programs, on a separate thread; see `Executable.load_more`."""
        await self._check_room(count, self.num_activations)
        name = f"qaic-aic-{self.device_id}-load"
        try:
            loaded = await in_thread(partial(self._load, count, set_size), name)
        except Exception as error:
            ours = self._load_error(error)
            raise ours.with_traceback(None) from ours.__cause__
        with self._lock:
            if self._is_closed:
                raise SchedulerClosedError(f"aic device {self.device_id} was closed")
            if self.failure is not None:
                raise self.failure
            indexes = unused_indexes(self.room, count)
            self._add(indexes, loaded)
        self.room.update(dict.fromkeys(indexes, set_size))
        return indexes

    async def unload(self, activations: Sequence[int]) -> None:
        """End the threads of these activations, which releases their programs."""
        with self._lock:
            gone = [self._activations.pop(index) for index in activations]
        for index, activation in zip(activations, gone, strict=True):
            del self.room[index]
            activation.started.put(None)
        await in_thread(partial(join_all, gone, CLOSE_LIMIT_S), f"qaic-aic-{self.device_id}-unload")

    def stop(self) -> None:
        """Let the threads end once the device has completed what it holds; does not wait."""
        with self._lock:
            self._is_closed = True
            self._queue.put(None)

    async def aclose(self) -> None:
        """Stop, and release the device; inferences that hang fail, their threads are abandoned."""
        self.stop()
        join = partial(join_all, self._threads(), CLOSE_LIMIT_S)
        if not await in_thread(join, f"qaic-aic-{self.device_id}-close"):
            logger.warning("aic device %d was still busy when it was closed", self.device_id)
        self._fail_all(closed_in_flight("aic", self.device_id))

    def complete(
        self, inference_id: int, result: Tensors | DeviceError, completed_at: float
    ) -> None:
        """Pass on the result of an inference, unless it has had one; on the device's threads."""
        inference = self._pending.pop(inference_id, None)
        if inference is None:
            return
        try:
            inference.on_completed(result, completed_at)
        except Exception:
            logger.exception("aic device %d: the callback of an inference failed", self.device_id)

    def fail(self, error: DeviceError) -> None:
        """Fail every inference that the device holds, and every later one: its program is gone."""
        with self._lock:
            if self.failure is None:
                self.failure = error
                logger.warning("%s", error)
        self._fail_all(error)

    def _fail_all(self, error: DeviceError) -> None:
        now = self.clock()
        for inference_id in list(self._pending):
            self.complete(inference_id, error, now)

    def _run(self) -> None:
        """Load, submit until the executable is closed, then let the activations end."""
        try:
            runtime, set_size = self._runtime, next(iter(self.room.values()))
            self._context = runtime.Context(runtime.QIDList([self.device_id]))
            self._add([*self.room], self._load(len(self.room), int(set_size)))
        except Exception as error:
            self.loaded.set_exception(self._load_error(error))
            return
        self.loaded.set_result(None)
        while (inference := self._queue.get()) is not None:
            if self.failure is None:
                self._activations[inference.activation].start_inference(inference)
        with self._lock:
            for activation in self._activations.values():
                activation.started.put(None)
            self._context = None

    def _load(self, count: int, set_size: int) -> list[tuple[Any, list[Any]]]:
        """Load `count` programs: the InferenceSet of each, and all its handles."""
        make = self._runtime.InferenceSet
        sets = [
            make(self._context, self._file.qpc, self.device_id, set_size, 1) for _ in range(count)
        ]
        return [(each, [self._handle(each) for _ in range(set_size)]) for each in sets]

    def _add(self, indexes: Sequence[int], loaded: list[tuple[Any, list[Any]]]) -> None:
        for index, pair in zip(indexes, loaded, strict=True):
            self._activations[index] = AicActivation(self, index, self._runtime, self._file, *pair)

    def _handle(self, inference_set: Any) -> Any:
        status, handle = inference_set.getAvailable(HANDLE_LIMIT_US)
        if status != self._runtime.QStatus.QS_SUCCESS:
            raise load_error(status, self.device_id)
        return handle

    def _load_error(self, error: Exception) -> Exception:
        if isinstance(error, SchedulerError):
            return error
        ours = load_error(error, self.device_id)
        # Without its traceback, whose frames would keep the loaded programs on the device.
        ours.__cause__ = error.with_traceback(None)
        return ours

    def _threads(self) -> Iterator[threading.Thread]:
        """The threads of the device; the activations are known once the first thread has ended."""
        yield self._thread
        yield from self._activations.values()
