"""Simulated time, and simulated devices that answer in order, late, or never."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import TypeAlias

from qaic_sched.backends.base import unused_indexes
from qaic_sched.core.events import ActivationsAdded, Completed, DeviceOpened, ReloadFailed
from qaic_sched.core.model import Batch, Fault
from tests.simulation.scenario import DeviceFate, Outage, Scenario

__all__ = ["PlayedDevice", "Report", "Timeline"]

_FAILS_AFTER_S = 0.0001
"""How soon a lost device answers a new batch."""

Report: TypeAlias = Callable[
    [int, int, "ActivationsAdded | Completed | DeviceOpened | ReloadFailed"], None
]
"""Takes the device, the activation (-1 for the device itself) and the event."""


class Timeline:
    """Actions in the order of their times, then in the order in which they were planned."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._sequence = 0

    def call_at(self, at: float, action: Callable[[float], None]) -> None:
        """Plan an action, called with its time; infinity is never."""
        if at < math.inf:
            self._sequence += 1
            heappush(self._heap, (at, self._sequence, action))

    def next_at(self) -> float:
        """Return when the next action is due; infinity if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def delay(self, seconds: float) -> None:
        """Put off all that is planned."""
        self._heap = [(at + seconds, *rest) for at, *rest in self._heap]

    def run_until(self, now: float) -> None:
        """Run all actions that are due, including those that they plan."""
        while self._heap and self._heap[0][0] <= now:
            at, _, action = heappop(self._heap)
            action(at)


class PlayedDevice:
    """One device: each activation serves one batch at a time, in order."""

    def __init__(
        self,
        device_id: int,
        fate: DeviceFate,
        scenario: Scenario,
        timeline: Timeline,
        report: Report,
        set_size: Callable[[], int],
    ) -> None:
        self.id = device_id
        self.fate = fate
        self._scenario = scenario
        self._random = Random(f"{scenario.seed} device {device_id}")
        self._timeline = timeline
        self._report = report
        self._set_size = set_size
        self.num_activations = fate.num_activations
        """Activations that the next load makes."""
        self.is_growing = False
        self.is_gone = False
        """Whether it was closed for good."""
        self._loads = 0
        self._held: dict[int, list[Batch]] = {index: [] for index in range(fate.num_activations)}
        self._broken: Fault | None = None
        self._is_cold = True
        self._is_mended = False
        self._epoch = 0
        """Incremented when all held batches fail: ends planned before that are void."""

    @property
    def holds_any(self) -> bool:
        """Whether a batch has no answer yet."""
        return any(self._held.values())

    def open(self, at: float) -> None:
        """Report that the program is loaded."""
        self._report(self.id, -1, DeviceOpened(self.id, len(self._held), self._set_size()))

    def grow(self, count: int, at: float) -> None:
        """Load more activations."""
        self.num_activations += count
        self.is_growing = True
        grown = partial(self._grown, count, self._loads)
        self._timeline.call_at(at + self._scenario.load_s, grown)

    def unload(self, indexes: tuple[int, ...]) -> None:
        """Release activations that hold nothing."""
        for index in indexes:
            assert not self._held.pop(index), "an activation with a batch is unloaded"

    def submit(self, batch: Batch, now: float) -> None:
        """Accept a batch."""
        index = batch.activation.index
        held = self._held[index]
        held.append(batch)
        if self._broken is not None:
            self._timeline.call_at(now + _FAILS_AFTER_S, partial(self._fail_all, self._broken))
        elif len(held) == 1:
            self._start(index, now + self._scenario.turnaround_s)

    def strike(self, outage: Outage, at: float) -> None:
        """Be lost, or restart: all batches fail until a reload, held ones included."""
        if outage.kind is not Fault.STUCK:
            self._broken = outage.kind
            self._fail_all(outage.kind, at)

    def reload(self, now: float) -> None:
        """Close the device and load it again, or fail to."""
        self._timeline.call_at(now + self._scenario.close_s, self._close)

    def close(self, at: float) -> None:
        """Fail all held batches."""
        self._broken = self._broken or Fault.LOST
        self._fail_all(Fault.LOST, at)

    def leave(self, now: float) -> None:
        """Close for good."""
        self._timeline.call_at(now + self._scenario.close_s, self._left)

    def _left(self, at: float) -> None:
        self.close(at)
        self.is_gone = True

    def _grown(self, count: int, loads: int, _at: float) -> None:
        self.is_growing = False
        if loads == self._loads:  # else a reload has made the wanted number
            new = unused_indexes(self._held, count)
            self._held.update((index, []) for index in new)
            self._report(self.id, -1, ActivationsAdded(self.id, tuple(new)))

    def _close(self, at: float) -> None:
        self._loads += 1
        self.close(at)
        self._timeline.call_at(at + self._scenario.load_s, self._loaded)

    def _loaded(self, at: float) -> None:
        fails = self._random.random() < self._scenario.reload_failure_probability
        if fails or self.fate.outage_at(at) is not None:
            self._report(self.id, -1, ReloadFailed(self.id))
            return
        self._broken = None
        self._is_cold = True
        self._is_mended = at >= self.fate.slows_at and self.fate.reload_mends
        self._held = {index: [] for index in range(self.num_activations)}
        self.open(at)

    def _start(self, index: int, at: float) -> None:
        end = self._scenario.snap(at + self._execute_s(self._held[index][0], at))
        stuck = self.fate.outage_at(end)
        if stuck is not None and stuck.kind is Fault.STUCK:
            end = stuck.until
        self._timeline.call_at(end, partial(self._finish, index, self._epoch))

    def _execute_s(self, batch: Batch, at: float) -> float:
        scenario, random = self._scenario, self._random
        execute_s = scenario.execute_s(batch.size) * self.fate.slowdown
        if at >= self.fate.slows_at and not self._is_mended:
            execute_s *= self.fate.slows_by
        if scenario.cv:
            sigma = math.sqrt(math.log1p(scenario.cv**2))
            execute_s *= random.lognormvariate(-(sigma**2) / 2, sigma)
        if random.random() < self.fate.stall_probability:
            execute_s += self.fate.stall_s
        if self._is_cold:
            self._is_cold = False
            execute_s += self.fate.warm_up_s
        return execute_s

    def _finish(self, index: int, epoch: int, at: float) -> None:
        if epoch != self._epoch:
            return
        held = self._held[index]
        batch = held.pop(0)
        arrivals = self._scenario.arrivals
        fails = self._random.random() < self.fate.error_probability
        culprits = (arrivals[part.request.id].culprit_of for part in batch.parts)
        fault = Fault.INFERENCE if fails else next(filter(None, culprits), None)
        self._report(self.id, index, Completed(batch.id, at, fault))
        if held:
            self._start(index, at)

    def _fail_all(self, fault: Fault, at: float) -> None:
        self._epoch += 1
        for index, held in self._held.items():
            for batch in held:
                self._report(self.id, index, Completed(batch.id, at, fault))
            held.clear()
