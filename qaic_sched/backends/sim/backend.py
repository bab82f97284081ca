"""Simulated cards: modelled devices that keep exact times of their own on the loop's timers.

Rules of this file:
- An inference's start and end are computed when it is submitted, and `completed_at` is that end;
  when the loop's timer fired changes neither, so a coarse or late timer costs no accuracy.
- All devices of a backend share one heap and one wakeup of the loop (`answers.py`); there is no
  thread.
- What is random is drawn from one stream per device and activation, in the order of `submit`.
"""

from __future__ import annotations

import asyncio
import math
from functools import cached_property, partial
from pathlib import Path
from random import Random
from threading import Lock, get_ident
from typing import TYPE_CHECKING

from qaic_sched.backends.base import (
    Backend,
    DeviceInfo,
    Executable,
    check_fit,
    closed_in_flight,
    unused_indexes,
)
from qaic_sched.backends.sim.answers import Answers
from qaic_sched.backends.sim.model import Model
from qaic_sched.backends.sim.outages import Outages
from qaic_sched.backends.sim.spec import ErrorFault, StallFault, read_spec
from qaic_sched.errors import ConfigError, DeviceError, SchedulerClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qaic_sched.backends.base import OnCompleted
    from qaic_sched.backends.sim.spec import SimSpec
    from qaic_sched.config.keys import ModelOptions
    from qaic_sched.errors import DeviceErrorKind
    from qaic_sched.program import Program

__all__ = ["SimBackend", "SimExecutable"]


class SimBackend(Backend):
    """The devices of one `.sim.yaml` file, which is read at the first use."""

    kind = "sim"

    def __init__(self, model_path: str, options: ModelOptions) -> None:
        super().__init__(model_path, options)
        self._streams: dict[str, Random] = {}
        self._answers: Answers | None = None
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

    def _answers_on_this_loop(self) -> Answers:
        loop = asyncio.get_running_loop()
        if self._answers is None or self._answers.loop is not loop:
            self._answers = Answers(loop, Model(self.spec.program()))
        return self._answers


class SimExecutable(Executable):
    """A program on one simulated device. Made by `SimBackend.load`."""

    def __init__(
        self,
        device_id: int,
        spec: SimSpec,
        answers: Answers,
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
        self._thread_id = get_ident()
        self._lock = Lock()
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
        self._is_disturbed = self._is_random or outages.are_ahead(answers.clock())

    def submit(
        self, activation: int, inputs: Mapping[str, object], on_completed: OnCompleted
    ) -> None:
        """Start one inference, now or when the earlier ones of its activation are due."""
        if get_ident() == self._thread_id and not self._is_closed:
            self._start(activation, inputs, on_completed)
            return
        # The lock keeps an inference from coming to the loop when the last were answered.
        with self._lock:
            self._check_open()
            self._answers.loop.call_soon_threadsafe(self._start, activation, inputs, on_completed)

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
        for on_completed in self._answers.take(self):
            on_completed(closed_in_flight("sim", self.device_id), now)
        await asyncio.sleep(0)  # what other threads have submitted comes first

    def failure(self, fault: DeviceErrorKind) -> DeviceError:
        """What an inference with a fault ends with."""
        if fault == "lost":
            return self._error("was lost, as its faults say", "lost")
        return self._error("failed an inference, as its faults say")

    def _start(
        self, activation: int, inputs: Mapping[str, object], on_completed: OnCompleted
    ) -> None:
        now = self._answers.clock()
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
        service_s = self._service_times_s[rows]
        end = start + service_s
        fault: DeviceErrorKind | None = None
        if self._is_disturbed:
            end, fault = self._disturbed(activation, now, start, service_s)
            if fault is not None:
                rows = 0  # nothing to compute
        self._ends[activation] = end
        self._answers.add(end, now, rows, inputs, on_completed, self, fault)

    def _disturbed(
        self, activation: int, now: float, start: float, service_s: float
    ) -> tuple[float, DeviceErrorKind | None]:
        """When it ends and how it fails, if it does, with all that chance and faults do to it."""
        fault: DeviceErrorKind | None = None
        if self._is_random:
            service_s, fault = self._draw(self._streams[activation], service_s)
        end = self._outages.end_of(start, service_s)
        if end >= self._lost_at:
            return max(now, self._lost_at), "lost"
        return end, fault

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
