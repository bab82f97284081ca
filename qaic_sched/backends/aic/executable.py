"""A program on one card: hands inferences to the vendor's runtime and brings the answers back.

Rules of the file:
- Everything of the runtime that can block is called on the threads of the device, all daemons:
  one that loads and submits, and one per activation that waits for answers, in the order of submit.
  So there are num_activations + 1 threads for each device, and while it loads more one for that.
- Each activation is an `InferenceSet` of its own, since a larger one would choose by itself. What
  `set_size` it is made with is the most that it can ever hold.
- One Context serves one device. Assumption (not verified on hardware): sharing one between devices
  may work, but nothing public says so, and no device should fall with another. Assumption (not
  verified on hardware): programs can be loaded in a Context on one thread while others run in it.
- Inputs are copied before they are submitted, outputs before they are handed out: whatever the
  hardware does later, it never does it in a caller's memory.
- Whoever takes an inference out of `_pending` answers it, so each is answered once.
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

from qaic_sched.backends.aic.activation import HANDLE_LIMIT_US, Activation, Flight
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
"""Longest that `aclose` waits for what the device holds."""


class AicExecutable(Executable):
    """A QPC's activations on one device. Made by `AicBackend.load`, which waits for `loaded`.

    After the device was lost or its cores restarted, every inference is answered with that error.
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
        self.loaded.set_running_or_notify_cancel()  # from here on nobody can cancel it
        self.clock = clock_of(loop)
        self.failure: DeviceError | None = None
        """What took the whole device or program away."""
        self._runtime = sdk.runtime
        self._file = file
        self._check_room = check_room
        self._loop = loop
        self._lock = threading.Lock()
        self._is_closed = False
        self._ids = itertools.count()
        self._pending: dict[int, Flight] = {}
        self._queue: SimpleQueue[Flight | None] = SimpleQueue()
        self._context: Any = None
        self._activations: dict[int, Activation] = {}
        name = f"qaic-aic-{device_id}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(
        self, activation: int, inputs: Mapping[str, object], on_completed: OnCompleted
    ) -> None:
        """Queue one inference; `SchedulerClosedError` once the executable was closed."""
        with self._lock:
            if self._is_closed:
                raise SchedulerClosedError(f"aic device {self.device_id} was closed")
            failure = self.failure
            if failure is None:
                flight = Flight(next(self._ids), activation, inputs, on_completed)
                self._pending[flight.id] = flight
                self._queue.put(flight)
            else:
                # Not by a thread of the device: they may all be stuck.
                self._loop.call_soon_threadsafe(on_completed, failure, self.clock())

    async def load_more(self, count: int, set_size: int) -> Sequence[int]:
        """Load so many programs more, on a thread for that; see the seam."""
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
        """End their threads, which give the programs back."""
        with self._lock:
            gone = [self._activations.pop(index) for index in activations]
        for index, activation in zip(activations, gone, strict=True):
            del self.room[index]
            activation.flights.put(None)
        await in_thread(partial(join_all, gone, CLOSE_LIMIT_S), f"qaic-aic-{self.device_id}-unload")

    def stop(self) -> None:
        """Let the threads end once the device has answered what it holds; waits for nothing."""
        with self._lock:
            self._is_closed = True
            self._queue.put(None)

    async def aclose(self) -> None:
        """Stop, and give the device back; what hangs is answered with an error and left behind."""
        self.stop()
        join = partial(join_all, self._threads(), CLOSE_LIMIT_S)
        if not await in_thread(join, f"qaic-aic-{self.device_id}-close"):
            logger.warning("aic device %d was still busy when it was closed", self.device_id)
        self._answer_all(closed_in_flight("aic", self.device_id))

    def answer(self, flight_id: int, answer: Tensors | DeviceError, completed_at: float) -> None:
        """Answer an inference, unless it is too late; on the device's threads."""
        flight = self._pending.pop(flight_id, None)
        if flight is None:
            return
        try:
            flight.on_completed(answer, completed_at)
        except Exception:
            logger.exception("aic device %d: who wanted an answer failed", self.device_id)

    def fail(self, error: DeviceError) -> None:
        """The device or its program is gone: answer all that it holds, and all that will come."""
        with self._lock:
            if self.failure is None:
                self.failure = error
                logger.warning("%s", error)
        self._answer_all(error)

    def _answer_all(self, error: DeviceError) -> None:
        now = self.clock()
        for flight_id in list(self._pending):
            self.answer(flight_id, error, now)

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
        while (flight := self._queue.get()) is not None:
            if self.failure is None:
                self._activations[flight.activation].start_inference(flight)
        with self._lock:
            for activation in self._activations.values():
                activation.flights.put(None)
            self._context = None

    def _load(self, count: int, set_size: int) -> list[tuple[Any, list[Any]]]:
        """Load programs, with all handles of each."""
        make = self._runtime.InferenceSet
        sets = [
            make(self._context, self._file.qpc, self.device_id, set_size, 1) for _ in range(count)
        ]
        return [(each, [self._handle(each) for _ in range(set_size)]) for each in sets]

    def _add(self, indexes: Sequence[int], loaded: list[tuple[Any, list[Any]]]) -> None:
        for index, pair in zip(indexes, loaded, strict=True):
            self._activations[index] = Activation(self, index, self._runtime, self._file, *pair)

    def _handle(self, inference_set: Any) -> Any:
        status, handle = inference_set.getAvailable(HANDLE_LIMIT_US)
        if status != self._runtime.QStatus.QS_SUCCESS:
            raise load_error(status, self.device_id)
        return handle

    def _load_error(self, error: Exception) -> Exception:
        if isinstance(error, SchedulerError):
            return error
        ours = load_error(error, self.device_id)
        # Without its traceback, whose frames would keep what was loaded on the device.
        ours.__cause__ = error.with_traceback(None)
        return ours

    def _threads(self) -> Iterator[threading.Thread]:
        """The threads of the device; its activations are known once the first has ended."""
        yield self._thread
        yield from self._activations.values()
