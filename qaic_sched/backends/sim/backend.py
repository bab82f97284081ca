"""Simulated cards: modelled devices that keep exact times of their own on the loop's timers.

Rules of this file:
- An inference's start and end are computed when it is submitted, and `answered_at` is that end;
  when the loop's timer fired changes neither, so a coarse or late timer costs no accuracy.
- All devices of a backend share one heap and one wakeup of the loop; there is no thread.
- What is random is drawn from one stream per device and activation, in the order of `submit`.
"""

from __future__ import annotations

import asyncio
import math
import threading
from functools import cached_property, partial
from heapq import heapify, heappop, heappush
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from qaic_sched.backends.base import (
    Backend,
    DeviceInfo,
    Executable,
    check_fit,
    closed_in_flight,
    unused_indexes,
)
from qaic_sched.backends.sim.outages import Outages
from qaic_sched.backends.sim.spec import ErrorFault, StallFault, read_spec
from qaic_sched.clock import clock_of
from qaic_sched.errors import ConfigError, DeviceError, SchedulerClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from qaic_sched.backends.base import Done
    from qaic_sched.backends.sim.spec import SimSpec
    from qaic_sched.config_keys import ModelOptions
    from qaic_sched.errors import DeviceErrorKind
    from qaic_sched.program import Program, Tensors

__all__ = ["SimBackend", "SimExecutable"]

_FLOAT64 = np.dtype(np.float64)


class SimBackend(Backend):
    """The devices of one `.sim.yaml` file, which is read at the first use."""

    kind = "sim"

    def __init__(self, model_path: str, options: ModelOptions) -> None:
        super().__init__(model_path, options)
        self._streams: dict[str, Random] = {}
        self._answers: _Answers | None = None
        self._opened_at: float | None = None

    @cached_property
    def spec(self) -> SimSpec:
        """The file, read and checked; `ConfigError` names what is wrong in it."""
        return read_spec(Path(self.model_path))

    async def find(self) -> list[DeviceInfo]:
        """The devices that the file makes, all ready and free."""
        return [self._device(device_id) for device_id in range(self.spec.devices)]

    async def describe(self) -> Program:
        """The program of the file."""
        return self.spec.program()

    async def load(self, device_id: int, num_activations: int, set_size: int) -> SimExecutable:
        """Load the program, which takes `load_time_s` per activation; any `set_size` will do.

        `ConfigError` if the device does not exist or has too few cores beside what other models
        want.
        """
        spec = self.spec
        if device_id not in range(spec.devices):
            raise ConfigError(f"no sim device {device_id}: {self.model_path} makes {spec.devices}")
        self._check_fit(device_id, num_activations)
        await asyncio.sleep(spec.load_time_s * num_activations)
        answers = self._answers_on_this_loop()
        outages = self._outages_of(device_id, answers.clock())
        return SimExecutable(
            device_id,
            spec,
            answers,
            outages,
            num_activations,
            partial(self._check_fit, device_id),
            partial(self._stream, device_id),
        )

    def _check_fit(self, device_id: int, num_activations: int) -> None:
        device = self._device(device_id, sum(other.cores for other in self.others.values()))
        check_fit(device, num_activations, self.options.aic_num_cores)

    def _outages_of(self, device_id: int, now: float) -> Outages:
        """The device's outages, counted from the first load; `DeviceError` if it is lost now."""
        if self._opened_at is None:
            self._opened_at = now
        faults = [each for each in self.spec.faults if each.is_on(device_id)]
        outages = Outages(faults, self._opened_at)
        if outages.is_lost(now):
            raise DeviceError(f"sim device {device_id} is lost", device_id, kind="lost")
        return outages

    def _device(self, device_id: int, taken: int = 0) -> DeviceInfo:
        cores = self.spec.cores
        return DeviceInfo(device_id, self.kind, "ready", cores, max(0, cores - taken))

    def _stream(self, device_id: int, activation: int) -> Random:
        """The activation's random stream, which goes on where the last load of it left off."""
        key = f"{self.spec.seed}/{device_id}/{activation}"
        return self._streams.setdefault(key, Random(key))

    def _answers_on_this_loop(self) -> _Answers:
        loop = asyncio.get_running_loop()
        if self._answers is None or self._answers.loop is not loop:
            self._answers = _Answers(loop)
        return self._answers


class SimExecutable(Executable):
    """A program on one simulated device. Made by `SimBackend.load`."""

    def __init__(
        self,
        device_id: int,
        spec: SimSpec,
        answers: _Answers,
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
        self._answers = answers
        self._thread_id = threading.get_ident()
        self._lock = threading.Lock()
        self._is_closed = False
        self._first_input = self.program.inputs[0].name
        self._service_times_s = spec.service_times_s(device_id)
        self._turnaround_s = spec.host_turnaround_s
        self._ends: dict[int, float] = {}
        self._streams: dict[int, Random] = {}
        self._add(range(num_activations))
        # Mean 1 and this coefficient of variation.
        self._sigma = math.sqrt(math.log1p(spec.service_time_cv**2))
        self._faults = [
            fault
            for fault in spec.faults
            if isinstance(fault, ErrorFault | StallFault) and fault.is_on(device_id)
        ]
        self._outages = outages
        self._lost_at = outages.next_loss_at(answers.clock())
        self._is_random = bool(self._sigma or self._faults)
        self._model = _Model(self.program)

    def submit(self, activation: int, inputs: Mapping[str, object], done: Done) -> None:
        """Start one inference, now or when the earlier ones of its activation are due."""
        if threading.get_ident() == self._thread_id:
            self._check_open()
            self._start(activation, inputs, done)
            return
        # The lock keeps an inference from coming to the loop when the last were answered.
        with self._lock:
            self._check_open()
            self._answers.loop.call_soon_threadsafe(self._start, activation, inputs, done)

    def _check_open(self) -> None:
        if self._is_closed:
            raise SchedulerClosedError(f"sim device {self.device_id} was closed")

    async def load_more(self, count: int, set_size: int) -> Sequence[int]:
        """Load more, which takes `load_time_s` for each; `DeviceError` if the device is lost."""
        self._check_fit(self.num_activations + count)
        await asyncio.sleep(self._load_time_s * count)
        self._check_open()
        if self._answers.clock() >= self._lost_at:
            raise self._error("was lost, as its faults say", "lost")
        return self._add(unused_indexes(self.room, count))

    async def unload(self, activations: Sequence[int]) -> None:
        """Forget them, which takes no time."""
        for index in activations:
            del self.room[index], self._ends[index], self._streams[index]

    def _add(self, indexes: Sequence[int]) -> Sequence[int]:
        for index in indexes:
            self.room[index] = math.inf
            self._ends[index] = -math.inf
            self._streams[index] = self._stream_of(index)
        return indexes

    async def aclose(self) -> None:
        """Answer what is in flight with `DeviceError`, now."""
        with self._lock:
            self._is_closed = True
        now = self._answers.clock()
        for done in self._answers.take(self):
            done(closed_in_flight("sim", self.device_id), now)
        await asyncio.sleep(0)  # what other threads have submitted comes first

    def answer(
        self, inputs: Mapping[str, object], fault: DeviceErrorKind | None
    ) -> Tensors | DeviceError:
        """What an inference that is due ends with."""
        if fault == "lost":
            return self._error("was lost, as its faults say", "lost")
        if fault is not None:
            return self._error("failed an inference, as its faults say")
        return self._model(cast("Mapping[str, NDArray[np.generic]]", inputs))

    def _start(self, activation: int, inputs: Mapping[str, object], done: Done) -> None:
        now = self._answers.clock()
        if self._is_closed:  # since another thread submitted this
            done(self._error("was closed before this inference began"), now)
            return
        previous = self._ends[activation]
        start = previous if previous > now else max(now, previous + self._turnaround_s)
        rows = len(inputs[self._first_input])  # type: ignore[arg-type]
        service_s = self._service_times_s[rows]
        fault: DeviceErrorKind | None = None
        if self._is_random:
            service_s, fault = self._draw(self._streams[activation], service_s)
        end = self._outages.end_of(start, service_s)
        if end >= self._lost_at:
            end, fault = max(now, self._lost_at), "lost"
        self._ends[activation] = end
        self._answers.add(end, now, self, inputs, done, fault)

    def _draw(self, stream: Random, service_s: float) -> tuple[float, DeviceErrorKind | None]:
        """The inference's own service time, and how it fails, if it does."""
        if self._sigma:
            service_s *= stream.lognormvariate(-(self._sigma**2) / 2, self._sigma)
        failure: DeviceErrorKind | None = None
        for fault in self._faults:
            if stream.random() < fault.probability:
                if isinstance(fault, StallFault):
                    service_s += fault.for_s
                else:
                    failure = "inference"
        return service_s, failure

    def _error(self, what: str, kind: DeviceErrorKind = "inference") -> DeviceError:
        return DeviceError(f"sim device {self.device_id} {what}", self.device_id, kind=kind)


class _Model:
    """What a simulated program computes: the float64 mean of each row, in every element."""

    __slots__ = ("_count", "_inputs", "_outputs")

    def __init__(self, program: Program) -> None:
        self._inputs = [spec.name for spec in program.inputs]
        self._outputs = [
            (spec.name, spec.shape[1:], (-1, *[1] * (len(spec.shape) - 1)), spec.dtype)
            for spec in program.outputs
        ]
        # An array: numpy would convert a float at every call.
        self._count = np.array(sum(math.prod(each.shape[1:]) for each in program.inputs), _FLOAT64)

    # Any input may be NaN or infinite; what a cast makes of that is nobody's warning.
    @np.errstate(all="ignore")
    def __call__(self, inputs: Mapping[str, NDArray[np.generic]]) -> Tensors:
        """The outputs, in arrays of their own."""
        first, *others = self._inputs
        sums = _row_sums(inputs[first])
        for name in others:
            sums += _row_sums(inputs[name])
        sums /= self._count
        rows = len(sums)
        outputs: Tensors = {}
        for name, rest, column, dtype in self._outputs:
            outputs[name] = output = np.empty((rows, *rest), dtype)
            output[...] = sums.reshape(column)
        return outputs


def _row_sums(array: NDArray[np.generic]) -> NDArray[np.float64]:
    """The sum of each row, added in float64 in the order of `numpy.mean`, which is slower."""
    flat = array.reshape(len(array), -1)
    return cast("NDArray[np.float64]", np.add.reduce(flat, 1, _FLOAT64))


_InFlight: TypeAlias = (
    "tuple[float, int, SimExecutable, Mapping[str, object], Done, DeviceErrorKind | None]"
)


class _Answers:
    """What is in flight on all devices of a backend, and the loop's one wakeup for it."""

    __slots__ = ("_early_s", "_heap", "_sequence", "_wakeup", "_wakeup_at", "clock", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.clock = clock_of(loop)
        # A loop that needs a clock finer than its own has timers as coarse as that: we wake one
        # such step early and look again at each turn of the loop, for a step late idles a device.
        self._early_s = 0.0 if self.clock == loop.time else 0.001
        self._heap: list[_InFlight] = []
        self._sequence = 0
        self._wakeup: asyncio.Handle | None = None
        self._wakeup_at = math.inf

    def add(
        self,
        end: float,
        now: float,
        executable: SimExecutable,
        inputs: Mapping[str, object],
        done: Done,
        fault: DeviceErrorKind | None,
    ) -> None:
        """Answer at `end`; never before the caller's callback has returned."""
        self._sequence += 1
        heappush(self._heap, (end, self._sequence, executable, inputs, done, fault))
        if end < self._wakeup_at:
            self._wake_at(end, now)

    def take(self, executable: SimExecutable) -> list[Done]:
        """Forget the executable's inferences; what answers them, in the order of their ends."""
        taken = sorted(each for each in self._heap if each[2] is executable)
        self._heap[:] = [each for each in self._heap if each[2] is not executable]
        heapify(self._heap)
        self._wake_for_first()
        return [each[4] for each in taken]

    def _answer_due(self) -> None:
        """Answer everything that is due by now, but nothing that is submitted meanwhile."""
        now = self.clock()
        last = self._sequence
        heap = self._heap
        self._wakeup = None
        self._wakeup_at = -math.inf  # so that what is submitted meanwhile arms nothing
        try:
            while heap and heap[0][0] <= now and heap[0][1] <= last:
                end, _, executable, inputs, done, fault = heappop(heap)
                done(executable.answer(inputs, fault), end)
        finally:
            self._wake_for_first()

    def _wake_for_first(self) -> None:
        if self._wakeup is not None:
            self._wakeup.cancel()
            self._wakeup = None
        self._wakeup_at = math.inf
        if self._heap:
            self._wake_at(self._heap[0][0], self.clock())

    def _wake_at(self, end: float, now: float) -> None:
        """Replace the wakeup by one for what ends then; none for what hangs for ever."""
        if self._wakeup is not None:
            self._wakeup.cancel()
        if end == math.inf:
            return
        wake_at = end - self._early_s
        if wake_at <= now:
            self._wakeup_at = -math.inf
            self._wakeup = self.loop.call_soon(self._answer_due)
        else:
            self._wakeup_at = end
            self._wakeup = self.loop.call_at(wake_at, self._answer_due)
