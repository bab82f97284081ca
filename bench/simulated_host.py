"""A simulated host under the bare core, or under a baseline policy, with the same arrivals.

There is no event loop and there are no arrays: events from a heap drive `SchedulerState`, so that
100,000 requests take seconds. Execution times are drawn in the order of inferences, so that every
policy meets the same times.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from itertools import cycle
from random import Random
from typing import TYPE_CHECKING, Protocol

from qaic_sched.core.events import Completed, DeviceOpened
from qaic_sched.core.model import Policy, Request, RequestState
from qaic_sched.core.state import SchedulerState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = [
    "Host",
    "least_in_flight",
    "poisson",
    "power_of_two",
    "round_robin",
    "run_baseline",
    "run_core",
]


@dataclass(frozen=True)
class Host:
    """Devices with equal activations; each activation runs one inference at a time."""

    devices: int = 8
    num_activations: int = 2
    execute_s: dict[int, float] = field(default_factory=lambda: {1: 0.005})
    """Mean execution time in seconds, by compiled batch size."""
    cv: float = 0.05
    turnaround_s: float = 0.0003
    slowdown: dict[int, float] = field(default_factory=dict)
    """Device -> factor by which its execution times are longer."""
    stall_probability: float = 0.0
    stall_s: float = 0.0
    seed: int = 1

    @property
    def capacity(self) -> float:
        """Samples per second of all devices if the turnaround is hidden."""
        speeds = (1 / self.slowdown.get(each, 1.0) for each in range(self.devices))
        size, execute_s = max(self.execute_s.items())
        mean_s = execute_s + self.stall_probability * self.stall_s
        return size * self.num_activations * sum(speeds) / mean_s

    def variations(self) -> Iterator[tuple[float, float]]:
        """Yield, per inference, the factor of its mean execution time and its stall in seconds."""
        random = Random(self.seed)
        sigma = math.sqrt(math.log1p(self.cv**2))
        while True:
            is_stalled = self.stall_probability and random.random() < self.stall_probability
            factor = random.lognormvariate(-(sigma**2) / 2, sigma)
            yield factor, self.stall_s if is_stalled else 0.0


def poisson(rate: float, count: int, seed: int = 0) -> list[float]:
    """Draw `count` Poisson arrival times at a rate per second."""
    random = Random(seed)
    at = 0.0
    times = []
    for _ in range(count):
        at += random.expovariate(rate)
        times.append(at)
    return times


class _Card:
    """The times when each activation is free, exactly as on a simulated card."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._ends: dict[tuple[int, int], float] = {}
        self._variations = host.variations()

    def end_of(self, now: float, device_id: int, activation: int, size: int = 1) -> float:
        """Start an inference now, or after the earlier ones, and return when it ends."""
        key = device_id, activation
        previous = self._ends.get(key, -math.inf)
        start = previous if previous > now else max(now, previous + self._host.turnaround_s)
        factor, stall_s = next(self._variations)
        execute_s = factor * self._host.execute_s[size] + stall_s
        self._ends[key] = end = start + execute_s * self._host.slowdown.get(device_id, 1.0)
        return end

    def stop(self, device_id: int, activation: int, end: float) -> None:
        """End the newest inference of an activation early, at `end`."""
        self._ends[device_id, activation] = end


@dataclass
class CoreRun:
    """The result of a run through the core; latencies are those of done requests, in seconds."""

    latencies: list[float]
    share_done: float
    num_hedges: int
    ends: list[tuple[float, Request]]
    """Time and request of each done request."""


def run_core(
    host: Host,
    arrivals: Sequence[float],
    policy: Policy,
    *,
    set_size: int = 2,
    deadline_s: float | None = None,
    tenants: Sequence[str] | None = None,
) -> CoreRun:
    """Run single-sample requests through the core on a host; `tenants` names the tenant of each."""
    core = SchedulerState(policy)
    opened = [DeviceOpened(each, host.num_activations, set_size) for each in range(host.devices)]
    core.handle(0.0, opened)
    card = _Card(host)
    ends: list[tuple[float, int]] = []
    done: list[tuple[float, Request]] = []
    arrived = 0
    while arrived < len(arrivals) or core.requests:
        now = min(
            arrivals[arrived] if arrived < len(arrivals) else math.inf,
            ends[0][0] if ends else math.inf,
            core.next_wakeup() or math.inf,
        )
        events: list[Request | Completed] = []
        while ends and ends[0][0] <= now:
            end, batch_id = heapq.heappop(ends)
            events.append(Completed(batch_id, end))
        while arrived < len(arrivals) and arrivals[arrived] <= now:
            at = arrivals[arrived]
            deadline = None if deadline_s is None else at + deadline_s
            tenant = None if tenants is None else tenants[arrived]
            events.append(Request(arrived, 1, at, deadline, tenant=tenant))
            arrived += 1
        commands = core.handle(now, events)
        for batch in commands.dispatch:
            activation = batch.activation
            end = card.end_of(now, activation.device_id, activation.index, batch.size)
            heapq.heappush(ends, (end, batch.id))
        done += [(now, each) for each in commands.resolve if each.state is RequestState.DONE]
    latencies = [at - request.accepted_at for at, request in done]
    return CoreRun(latencies, len(done) / len(arrivals), core.hedging.num_hedges, done)


class Chooser(Protocol):
    """Chooses the activation of the next request from the number of requests each one holds."""

    def __call__(self, held: list[int]) -> int: ...


def round_robin(count: int) -> Chooser:
    """Choose the activations in turn."""
    turns = cycle(range(count))
    return lambda held: next(turns)


def least_in_flight(count: int) -> Chooser:
    """Choose the first activation with the fewest requests."""
    return lambda held: held.index(min(held))


def power_of_two(count: int) -> Chooser:
    """Choose the less loaded of two random activations."""
    random = Random(0)

    def choose(held: list[int]) -> int:
        first, second = random.randrange(count), random.randrange(count)
        return first if held[first] <= held[second] else second

    return choose


def run_baseline(
    host: Host,
    arrivals: Sequence[float],
    make: Callable[[int], Chooser],
    outages: Mapping[int, tuple[float, float]] | None = None,
) -> list[float]:
    """Return the latency of every request when each joins the queue of an activation on arrival.

    A free activation takes as many requests from its queue as the largest compiled size holds.
    `outages` maps a device to the time it is lost and the time it is back: requests on it fail at
    once and have an infinite latency.
    """
    return _Queues(host, arrivals, make, outages or {}).run()


class _Queues:
    """One first-in, first-out queue per activation of a host."""

    def __init__(
        self,
        host: Host,
        arrivals: Sequence[float],
        make: Callable[[int], Chooser],
        outages: Mapping[int, tuple[float, float]],
    ) -> None:
        self._sizes = sorted(host.execute_s)
        self._arrivals = arrivals
        self._outages = outages
        self._places = [(d, a) for a in range(host.num_activations) for d in range(host.devices)]
        self._choose = make(len(self._places))
        self._card = _Card(host)
        self._queues: list[deque[int]] = [deque() for _ in self._places]
        self._held = [0] * len(self._places)
        self._ends: list[tuple[float, int, list[int]]] = []
        self._latencies = [math.inf] * len(arrivals)

    def run(self) -> list[float]:
        """Let all requests arrive and all inferences end; returns the latencies."""
        for number, at in enumerate(self._arrivals):
            self._end_until(at)
            place = self._choose(self._held)
            self._queues[place].append(number)
            self._held[place] += 1
            if self._held[place] == len(self._queues[place]):
                self._start(place, at)
        self._end_until(math.inf)
        return self._latencies

    def _start(self, place: int, now: float) -> None:
        queue = self._queues[place]
        batch = [queue.popleft() for _ in range(min(len(queue), self._sizes[-1]))]
        size = next(each for each in self._sizes if each >= len(batch))
        # Queued on the activation since its arrival, which hides the turnaround.
        end = self._card.end_of(self._arrivals[batch[0]], *self._places[place], size)
        lost_at, back_at = self._outages.get(self._places[place][0], (math.inf, -math.inf))
        if now < back_at and end > lost_at:
            end = max(now, lost_at)
            self._card.stop(*self._places[place], end)
        else:
            for number in batch:
                self._latencies[number] = end - self._arrivals[number]
        heapq.heappush(self._ends, (end, place, batch))

    def _end_until(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            end, place, batch = heapq.heappop(self._ends)
            self._held[place] -= len(batch)
            if self._queues[place]:
                self._start(place, end)
