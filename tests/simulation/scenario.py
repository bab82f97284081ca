"""Scenarios made from a seed: devices, policy, arrivals, faults, live changes, drain and close."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from qaic_sched.core.model import DeviceNews, Fault, Policy, Tenant

__all__ = [
    "Arrival",
    "Change",
    "DeviceFate",
    "Outage",
    "Pause",
    "Report",
    "Scenario",
    "make_scenario",
]

_NEVER = math.inf
_TENANTS: tuple[dict[str, Tenant], ...] = (
    {},
    {"a": Tenant(3.0), "b": Tenant(1.0)},
    {"a": Tenant(share=0.5), "c": Tenant(0.1, 0.3)},
)
_FULL_BATCH_S = 0.005
"""Execution time of a full batch on a device of normal speed, unless it takes no time at all."""
_SIZES = ((1,), (8,), (1, 2, 4, 8), (4,), (3, 5, 7), (2, 6), (1, 32))
_WORK = 6000
"""Limit of activations × requests in a scenario: each step of a large host is slow to check."""


@dataclass(frozen=True)
class Outage:
    """From `at` on a device is lost, has restarted, or is stuck; reloads fail before `until`."""

    kind: Fault
    at: float
    until: float


@dataclass(frozen=True)
class DeviceFate:
    """One device and its faults to come."""

    num_activations: int
    slowdown: float
    opens_at: float
    outages: tuple[Outage, ...]
    error_probability: float
    stall_probability: float
    stall_s: float
    warm_up_s: float
    """Extra time of the first inference after each load."""
    slows_at: float
    slows_by: float
    """Factor on each execution time from `slows_at` on ..."""
    reload_mends: bool
    """... until the next reload; otherwise for good."""

    def outage_at(self, at: float) -> Outage | None:
        """Return the outage at a time, if there is one."""
        return next((each for each in self.outages if each.at <= at < each.until), None)


@dataclass(frozen=True)
class Arrival:
    """One request to come; a culprit fails every batch that carries it."""

    at: float
    samples: int
    priority: int
    num_bytes: int
    tenant: str | None
    deadline: float | None
    cancelled_at: float | None
    culprit_of: Fault | None
    """How a batch that carries it fails; None if it does not."""


@dataclass(frozen=True)
class Change:
    """A live change of activations, devices, `set_size` or the policy.

    `choice` selects among the devices or activations that exist at that time.
    """

    at: float
    kind: str
    choice: int
    count: int
    policy: Policy


@dataclass(frozen=True)
class Pause:
    """The event loop stands still from `at` on; the devices run on, unless the process stops."""

    at: float
    for_s: float
    stops_process: bool
    unnoticed_s: float
    """Time from its beginning to the beat of the loop that fails."""


@dataclass(frozen=True)
class Report:
    """Another model reports a device; `choice` selects among the devices that exist by then."""

    at: float
    choice: int
    news: DeviceNews


@dataclass(frozen=True)
class Scenario:
    """A host and all events to come; times in seconds."""

    seed: int
    policy: Policy
    set_size: int
    devices: tuple[DeviceFate, ...]
    arrivals: tuple[Arrival, ...]
    full_s: float
    """Execution time of a full batch; `execute_s` has that of other sizes."""
    cv: float
    turnaround_s: float
    grid_s: float
    """Times are multiples of this, so that many events coincide; 0 means any time."""
    lag_s: float
    """Mean delay of a late wakeup of the host."""
    load_s: float
    close_s: float
    """A reload closes the device, which takes `close_s`, then loads it."""
    reload_failure_probability: float
    drain_at: float
    close_at: float
    changes: tuple[Change, ...]
    pauses: tuple[Pause, ...]
    reports: tuple[Report, ...]

    def snap(self, seconds: float) -> float:
        """Round a time up to the grid."""
        return math.ceil(seconds / self.grid_s) * self.grid_s if self.grid_s else seconds

    @property
    def ample_s(self) -> float:
        """Three execution times on the slowest device."""
        slowest = max(each.slowdown * each.slows_by for each in self.devices)
        largest = self.policy.max_batch_size
        if self.policy.takes_any_size:
            largest = max(largest, *(each.samples for each in self.arrivals))
        return 3 * self.execute_s(largest) * slowest

    def execute_s(self, size: int) -> float:
        """Return the execute time of a batch size on a device of normal speed."""
        return self.full_s * (0.4 + 0.6 * size / self.policy.max_batch_size)

    def describe(self) -> str:
        """Return the scenario in a few lines."""
        lines = [
            f"seed {self.seed}: {len(self.devices)} devices, set_size {self.set_size}, "
            f"{len(self.arrivals)} requests, cv {self.cv}, grid {self.grid_s:g} s, "
            f"lag {self.lag_s:g} s, drain at {self.drain_at:g}, close at {self.close_at:g}",
            f"{self.policy}",
        ]
        lines += [f"{each}" for each in (*self.changes, *self.pauses, *self.reports)]
        lines += [f"device {index}: {fate}" for index, fate in enumerate(self.devices)]
        return "\n".join(lines)


def make_scenario(seed: int) -> Scenario:
    """Make the scenario of a seed; equal seeds make equal scenarios."""
    return _Maker(seed).make()


class _Maker:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        random = self.random
        self.grid_s = random.choice((0.0, 0.0, 2**-10, 2**-8))
        self.sizes = random.choice(_SIZES)
        # A separate stream: most hosts are as they would be without it.
        self.rows = Random(f"{seed} rows").choice(("shared",) * 7 + ("padded", "padded", "any"))
        self.full_s = 0.0 if random.random() < 0.03 else _FULL_BATCH_S
        self.num_activations = random.choice((1, 1, 1, 2, 2, 3, 4, random.randint(1, 8)))
        is_large = random.random() < 0.12
        self.num_devices = random.randint(9, 64) if is_large else random.choice((1, 1, 2, 3, 4, 8))
        # To detect a slow device takes many requests, and mostly no other trouble.
        self.grows_slow = random.random() < 0.1
        self.is_calm = self.grows_slow and random.random() < 0.7
        if self.grows_slow:
            self.num_activations, self.num_devices = random.choice((1, 1, 2)), random.randint(2, 4)

    def make(self) -> Scenario:
        random, policy = self.random, self._policy()
        num_slots = self.num_devices * self.num_activations
        count = random.randint(1, max(6, min(120, _WORK // (num_slots + 20))))
        load = random.choice((0.03, 0.3, 0.8, 0.95, 1.5, 4.0))
        if self.grows_slow:
            count, load = random.randint(200, 500), random.choice((0.6, 0.8))
        samples = self._request_sizes(count)
        rate = load * num_slots * self.sizes[-1] / (self.full_s or _FULL_BATCH_S)
        span_s = max(sum(samples) / rate, 4 * _FULL_BATCH_S)
        return Scenario(
            seed=self.seed,
            policy=policy,
            set_size=random.choice((1, 2, 2, 3, 4)),
            devices=tuple(self._devices(span_s)),
            arrivals=tuple(self._arrivals(samples, span_s)),
            full_s=self.full_s,
            cv=random.choice((0.0, 0.0, 0.05, 0.05, 0.3, 1.0)),
            turnaround_s=random.choice((0.0, 0.0003)),
            grid_s=self.grid_s,
            lag_s=random.choice((0.0, 0.0, 0.0005, 0.01)),
            load_s=random.choice((0.0, 0.05, 1.0)),
            close_s=random.choice((0.0, 0.0, 0.01, 0.5)),
            reload_failure_probability=random.choice((0.0, 0.0, 0.3, 0.7)),
            drain_at=self._sometimes(0.2, span_s),
            close_at=self._sometimes(0.15, span_s),
            changes=tuple(self._changes(span_s)),
            pauses=tuple(self._pauses(span_s)),
            reports=tuple(self._reports(span_s)),
        )

    def _pauses(self, span_s: float) -> Iterator[Pause]:
        # Streams of their own, as for changes.
        random = Random(f"{self.seed} pauses")
        if random.random() < 0.6:
            return
        at = 0.0
        for _ in range(random.choice((1, 1, 2, 5))):
            at = self._snap(at + random.uniform(0.0, span_s))
            for_s = self._snap(random.choice((0.05, 0.3, 2.0, 20.0)) * random.uniform(0.5, 1.5))
            yield Pause(at, for_s, random.random() < 0.5, random.uniform(0.0, 0.02))
            at += for_s

    def _reports(self, span_s: float) -> Iterator[Report]:
        random = Random(f"{self.seed} reports")
        if self.is_calm or random.random() < 0.6:
            return
        liked = random.choices(list(DeviceNews), k=random.randint(1, 4))
        for _ in range(random.choice((1, 3, 10))):
            at = self._snap(random.uniform(0.0, 1.2 * span_s))
            yield Report(at, random.randrange(1000), random.choice(liked))

    def _changes(self, span_s: float) -> Iterator[Change]:
        # A separate stream: the host of a seed is the same with and without its changes.
        random = Random(f"{self.seed} changes")
        if random.random() < 0.5:
            return
        kinds = ("grow", "shrink", "add", "remove", "set_size", "policy")
        liked = random.choices(kinds, k=random.randint(1, 6))
        for _ in range(random.choice((1, 3, 8, 30))):
            yield Change(
                at=self._snap(random.uniform(0.0, 1.2 * span_s)),
                kind=random.choice(liked),
                choice=random.randrange(1000),
                count=random.randint(1, 4),
                policy=self._policy(random),
            )

    def _policy(self, random: Random | None = None) -> Policy:
        random, largest = random or self.random, self.sizes[-1]
        policy = Policy(
            batch_sizes=self.sizes,
            max_samples=random.choice((1, largest, 3 * largest, 64, 1000, 65536)),
            max_bytes=random.choice((None, None, 20, 200)),
            waits_when_full=random.random() < 0.5,
            max_queue_delay_s=random.choice((0.0, 0.0, 0.002, 0.02)),
            max_attempts=random.choice((1, 2, 2, 2, 3, 4)),
            retry_max_extra=random.choice((0.2, 0.2, 0.0, 1.0)),
            hedge_after=random.choice((None, 3.0, 3.0, 1.5)),
            hedge_max_extra=random.choice((0.01, 0.01, 0.1, 0.5)),
            dispatch_timeout_s=random.choice((None, None, 0.02, 0.1, 1.0)),
            tenants=random.choice(_TENANTS),
            shares_rows=self.rows == "shared",
            takes_any_size=self.rows == "any",
        )
        calm = replace(policy, max_samples=65536, max_bytes=None, dispatch_timeout_s=None)
        return calm if self.is_calm else policy

    def _sometimes(self, probability: float, span_s: float) -> float:
        at = self._snap(self.random.uniform(0.0, 1.3 * span_s))
        return at if self.random.random() < probability and not self.is_calm else _NEVER

    def _snap(self, seconds: float) -> float:
        return math.ceil(seconds / self.grid_s) * self.grid_s if self.grid_s else seconds

    def _request_sizes(self, count: int) -> list[int]:
        random, largest = self.random, self.sizes[-1]
        most = random.choice((1, 1, largest, 2 * largest, 5 * largest))
        most = 2 * largest if self.is_calm else most
        giants = random.choice((0.0, 0.0, 0.03))
        sizes = [
            20 * largest + 3 if random.random() < giants else random.randint(1, most)
            for _ in range(count)
        ]
        return [(each - 1) % largest + 1 for each in sizes] if self.rows == "padded" else sizes

    def _arrivals(self, samples: list[int], span_s: float) -> Iterator[Arrival]:
        random = self.random
        stays = random.choice(("none", "none", "generous", "tight", "past", "mixed", "mixed"))
        stays = "none" if self.is_calm else stays
        priorities = random.choice(((0,), (0,), (-1, 0, 1), (0, 0, 0, 5)))
        cancels = random.choice((0.0, 0.0, 0.1, 0.5))
        poison = random.choice((0.0, 0.0, 0.05, 0.2))
        tenants = random.choice(((None,), ("a", "b"), (None, "a", "b", "b"), tuple("abcdefgh")))
        max_bytes = random.choice((0, 4, 30))
        culprits = Random(f"{self.seed} culprits")
        faults = culprits.choice(
            ((Fault.INPUT,), (Fault.INFERENCE,), (Fault.INPUT, Fault.INFERENCE))
        )
        for at, count in zip(self._times(len(samples), span_s), samples, strict=True):
            stay_s = self._stay_s(stays)
            gives_up_s = random.choice((0.0, 0.0, random.uniform(0, 8 * _FULL_BATCH_S)))
            yield Arrival(
                at=at,
                samples=count,
                priority=random.choice(priorities),
                num_bytes=random.randint(0, max_bytes),
                tenant=random.choice(tenants),
                deadline=None if stay_s is None else self._snap(at + stay_s),
                cancelled_at=self._snap(at + gives_up_s) if random.random() < cancels else None,
                culprit_of=culprits.choice(faults) if random.random() < poison else None,
            )

    def _stay_s(self, stays: str) -> float | None:
        random = self.random
        if stays == "mixed":
            stays = random.choice(("none", "generous", "tight", "tight", "past"))
        if stays == "none":
            return None
        if stays == "past":
            return random.choice((0.0, -_FULL_BATCH_S))
        most_s = 10.0 if stays == "generous" else 5 * _FULL_BATCH_S
        return random.uniform(0.1 * most_s, most_s)

    def _times(self, count: int, span_s: float) -> list[float]:
        random = self.random
        pattern = random.choice(("poisson", "poisson", "bursts", "at once"))
        pattern = "poisson" if self.grows_slow else pattern
        if pattern == "at once":
            return [0.0] * count
        bursts = count if pattern == "poisson" else max(1, count // random.randint(2, 20))
        starts = [self._snap(random.uniform(0.0, span_s)) for _ in range(bursts)]
        return sorted(starts if bursts == count else random.choices(starts, k=count))

    def _devices(self, span_s: float) -> Iterator[DeviceFate]:
        random = self.random
        speeds = random.choice(("equal", "equal", "mixed", "one slow"))
        faulty = random.choice((0.0, 0.0, 0.2, 0.6, 1.0))
        errors = random.choice((0.0, 0.0, 0.01, 0.3))
        stalls = random.choice((0.0, 0.0, 0.01, 0.1))
        warm_up_s = random.choice((0.0, 0.0, 0.0, 20 * _FULL_BATCH_S))
        faulty = 0.0 if self.is_calm else faulty
        slow = random.choice((0.3, 0.5, 1.0)) if self.grows_slow else 0.0
        slows_by = random.choice((3.0, 12.0, 20.0, 50.0))
        opens_late = random.random() < 0.1
        is_mixed = random.random() < 0.2
        for index in range(self.num_devices):
            slowdown = random.choice((3.0, 10.0)) if speeds == "one slow" and not index else 1.0
            if speeds == "mixed":
                slowdown = random.lognormvariate(0.0, 0.5)
            is_faulty = random.random() < faulty
            grows_slow = random.random() < slow
            yield DeviceFate(
                num_activations=random.randint(1, 4) if is_mixed else self.num_activations,
                slowdown=slowdown,
                opens_at=self._snap(random.uniform(0.0, span_s)) if opens_late else 0.0,
                outages=tuple(self._outages(span_s)) if is_faulty else (),
                error_probability=1.0 if is_faulty and random.random() < 0.1 else errors,
                stall_probability=stalls,
                stall_s=12 * _FULL_BATCH_S,
                warm_up_s=warm_up_s,
                slows_at=self._snap(random.uniform(0.0, span_s / 2)) if grows_slow else _NEVER,
                slows_by=slows_by if grows_slow else 1.0,
                reload_mends=random.random() < 0.5,
            )

    def _outages(self, span_s: float) -> Iterator[Outage]:
        random, at = self.random, 0.0
        for _ in range(random.randint(1, 3)):
            kind = random.choice((Fault.LOST, Fault.RESTARTED, Fault.STUCK))
            at = self._snap(at + random.uniform(0.0, span_s))
            lasts_s = random.choice((span_s / 4, span_s, 0.5, 5.0, _NEVER))
            until = at if kind is Fault.RESTARTED else at + lasts_s
            yield Outage(kind, at, until)
            at = until
            if at == _NEVER:
                return
