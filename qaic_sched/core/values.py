"""The frozen values of the core: the policy's numbers go in, the statistics come out.

They are never compiled: compiled classes can be neither copied nor pickled where they are frozen,
and do not keep the types of their attributes, by which an event log's reader goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["DeviceStatistics", "Policy", "Statistics", "Tenant"]


@dataclass(frozen=True, slots=True)
class Tenant:
    """What one tenant may expect: its weight among others, and a part that is its own."""

    weight: float = 1.0
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Policy:
    """The parameters of every decision.

    `batch_sizes` are the program's compiled sizes, ascending. `max_bytes` None is no bound.
    `waits_when_full` says whether a request beyond the bound waits for room or is rejected.
    """

    batch_sizes: tuple[int, ...] = (1,)
    max_samples: int = 65536
    max_bytes: int | None = None
    waits_when_full: bool = True
    max_queue_delay_s: float = 0.0
    max_attempts: int = 2
    retry_max_extra: float = 0.2
    """Most retries of failed inferences, as a share of all, beyond what is in reserve."""
    hedge_after: float | None = 3.0
    """An inference is late after so many mean service times, and hedged; None is never."""
    hedge_max_extra: float = 0.01
    """Most hedges, as a share of all inferences."""
    dispatch_timeout_s: float | None = None
    """When an inference counts as stuck; None is by what was measured."""
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    """Those that are not as all others, by name."""

    @property
    def max_batch_size(self) -> int:
        """Most samples in one inference."""
        return self.batch_sizes[-1]


@dataclass(frozen=True, slots=True)
class DeviceStatistics:
    """One device now: its health, and `in_flight` batches on `num_activations` activations."""

    state: str
    num_activations: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Gauges at one instant, in requests; the bound is on `queued_samples` and `queued_bytes`.

    `accepted` = done + failed + cancelled + expired + waiting + queued + in flight, always.
    """

    accepted: int
    done: int
    failed: int
    cancelled: int
    expired: int
    rejected: int
    waiting: int
    queued: int
    in_flight: int
    queued_samples: int
    queued_bytes: int
    devices: dict[int, DeviceStatistics]
