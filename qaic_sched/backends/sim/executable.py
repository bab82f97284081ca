"""A program on one simulated device: when each inference starts, ends and fails.

Rules of this file:
- An inference's start and end are computed when it is submitted, and `completed_at` is that end;
  when the loop's timer fires changes neither, so a coarse or late timer costs no accuracy.
- Random numbers come from one stream per device and activation, drawn in the order of `submit`.
- There is no thread: all devices of a backend share one wakeup of the loop (`completions`).
"""

from __future__ import annotations

import asyncio
import math
from threading import Lock, get_ident
from typing import TYPE_CHECKING

import numpy as np

from qaic_sched.backends.base import Executable, closed_in_flight, unused_indexes
from qaic_sched.backends.sim.spec import ErrorFault, RejectFault, StallFault
from qaic_sched.errors import DeviceError, SchedulerClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from qaic_sched.backends.base import OnCompleted
    from qaic_sched.backends.sim.completions import Completions
    from qaic_sched.backends.sim.outages import Outages
    from qaic_sched.backends.sim.spec import SimSpec
    from qaic_sched.errors import DeviceErrorKind

__all__ = ["SimExecutable"]


class SimExecutable(Executable):
    """A program on one simulated device. Made by `SimBackend.load`.

    `check_fit` takes the number of activations and raises `ConfigError` if they do not fit;
    `stream_of` gives the random stream of an activation.
    """

    def __init__(
        self,
        device_id: int,
        spec: SimSpec,
        completions: Completions,
        outages: Outages,
        num_activations: int,
        check_fit: Callable[[int], None],
        stream_of: Callable[[int], Random],
    ) -> None:
        self.device_id = device_id
        self.program = spec.program()
        self.room = {}
        self._check_fit = check_fit
        self._stream_of = stream_of
        self._load_time_s = spec.load_time_s
        self._completions = completions
        self._thread_id = get_ident()
        self._lock = Lock()
        self._is_closed = False
        self._first_input = self.program.inputs[0].name
        self._execution_times_s = spec.execution_times_s(device_id)
        self._turnaround_s = spec.host_turnaround_s
        self._ends: dict[int, float] = {}
        self._streams: dict[int, Random] = {}
        self._add(range(num_activations))
        # Of a lognormal distribution with mean 1 and this coefficient of variation.
        self._sigma = math.sqrt(math.log1p(spec.service_time_cv**2))
        self._faults = [
            fault
            for fault in spec.faults
            if isinstance(fault, ErrorFault | StallFault) and fault.is_on(device_id)
        ]
        self._rejects = [
            fault
            for fault in spec.faults
            if isinstance(fault, RejectFault) and fault.is_on(device_id)
        ]
        self._outages = outages
        self._lost_at = outages.next_loss_at(completions.clock())
        self._is_random = bool(self._sigma or self._faults)
        is_troubled = bool(self._rejects) or outages.are_ahead(completions.clock())
        self._is_disturbed = self._is_random or is_troubled

    def submit(
        self, activation: int, inputs: Mapping[str, object], on_completed: OnCompleted
    ) -> None:
        """Start one inference, now or when the earlier ones of its activation are due."""
        if get_ident() == self._thread_id and not self._is_closed:
            self._start(activation, inputs, on_completed)
            return
        # Under the lock, so that no inference reaches the loop after `aclose` has failed the rest.
        with self._lock:
            self._check_open()
            loop = self._completions.loop
            loop.call_soon_threadsafe(self._start, activation, inputs, on_completed)

    def _check_open(self) -> None:
        if self._is_closed:
            raise SchedulerClosedError(f"sim device {self.device_id} was closed")

    async def load_more(self, count: int, set_size: int) -> Sequence[int]:
        """Load more, which takes `load_time_s` for each; `DeviceError` if the device is lost."""
        self._check_fit(self.num_activations + count)
        await asyncio.sleep(self._load_time_s * count)
        self._check_open()
        if self._completions.clock() >= self._lost_at:
            raise self._lost()
        return self._add(unused_indexes(self.room, count))

    async def unload(self, activations: Sequence[int]) -> None:
        """Remove activations, which takes no time."""
        for index in activations:
            del self.room[index], self._ends[index], self._streams[index]

    def _add(self, indexes: Sequence[int]) -> Sequence[int]:
        for index in indexes:
            self.room[index] = math.inf
            self._ends[index] = -math.inf
            self._streams[index] = self._stream_of(index)
        return indexes

    async def aclose(self) -> None:
        """Fail what is in flight with `DeviceError`, now."""
        with self._lock:
            self._is_closed = True
        now = self._completions.clock()
        for on_completed in self._completions.take(self):
            on_completed(closed_in_flight("sim", self.device_id), now)
        await asyncio.sleep(0)  # let inferences submitted by other threads fail first

    def _start(
        self, activation: int, inputs: Mapping[str, object], on_completed: OnCompleted
    ) -> None:
        now = self._completions.clock()
        if self._is_closed:  # since another thread submitted this
            on_completed(self._error("was closed before this inference began"), now)
            return
        previous = self._ends[activation]
        start = previous
        if previous <= now:
            start += self._turnaround_s
            if start < now:
                start = now
        rows = len(inputs[self._first_input])  # type: ignore[arg-type]
        execute_s = self._execution_times_s[rows]
        end = start + execute_s
        failure: DeviceError | None = None
        if self._is_disturbed:
            end, failure = self._disturbed(activation, now, start, execute_s)
            if failure is None and self._rejects:
                failure = self._rejected(inputs)
            if failure is not None:
                rows = 0  # nothing to compute
        self._ends[activation] = end
        self._completions.add(end, now, rows, inputs, on_completed, self, failure)

    def _disturbed(
        self, activation: int, now: float, start: float, execute_s: float
    ) -> tuple[float, DeviceError | None]:
        """When an inference ends, and its failure if any, with noise and faults applied."""
        is_failing = False
        if self._is_random:
            execute_s, is_failing = self._draw(self._streams[activation], execute_s)
        end = self._outages.end_of(start, execute_s)
        if end >= self._lost_at:
            return max(now, self._lost_at), self._lost()
        return end, self._error("failed an inference, a configured fault") if is_failing else None

    def _rejected(self, inputs: Mapping[str, object]) -> DeviceError | None:
        """The failure of an inference with a value that a fault rejects."""
        for fault in self._rejects:
            for name, values in inputs.items():
                if np.greater(np.asarray(values), fault.above).any():
                    what = f"rejected input {name!r}: it has a value above {fault.above:g}"
                    return self._error(what, fault.error)
        return None

    def _draw(self, stream: Random, execute_s: float) -> tuple[float, bool]:
        """Draw the execution time of one inference, and whether it fails."""
        if self._sigma:
            execute_s *= stream.lognormvariate(-(self._sigma**2) / 2, self._sigma)
        is_failing = False
        for fault in self._faults:
            if stream.random() < fault.probability:
                if isinstance(fault, StallFault):
                    execute_s += fault.for_s
                else:
                    is_failing = True
        return execute_s, is_failing

    def _lost(self) -> DeviceError:
        return self._error("was lost, a configured fault", "lost")

    def _error(self, what: str, kind: DeviceErrorKind = "inference") -> DeviceError:
        return DeviceError(f"sim device {self.device_id} {what}", self.device_id, kind=kind)
