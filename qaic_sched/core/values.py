"""The frozen values of the core: policies go in, statistics come out.

This module is never compiled. Compiled frozen classes cannot be copied or pickled, and they lose
the annotations that the reader of event logs needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["DeviceStatistics", "Policy", "Statistics", "Tenant"]


@dataclass(frozen=True, slots=True)
class Tenant:
    """How much of the service one tenant gets."""

    weight: float = 1.0
    """How much it gets, relative to the weights of the other tenants."""
    share: float = 0.0
    """The fraction of all samples that it is guaranteed, from 0 to 1; 0 is no guarantee."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The parameters of every decision."""

    batch_sizes: tuple[int, ...] = (1,)
    """The program's compiled batch sizes, ascending."""
    shares_rows: bool = True
    """Whether requests may share an inference and be split; otherwise a batch is one request."""
    takes_any_size: bool = False
    """Whether a batch has the size of its request, whatever that is, instead of a compiled one;
    only without `shares_rows`."""
    max_samples: int = 65536
    """Most samples that may be queued; samples in flight do not count."""
    max_bytes: int | None = None
    """Most input bytes that may be queued; None is no bound."""
    waits_when_full: bool = True
    """Whether a request beyond the bounds waits for room; otherwise it is rejected."""
    max_queue_delay_s: float = 0.0
    """Longest time that a partial batch waits for more samples."""
    max_attempts: int = 2
    """Attempts that each part of a request has, the first one included."""
    retry_max_extra: float = 0.2
    """Most retries of failed inferences, as a fraction of all inferences, beyond the reserve."""
    hedge_after: float | None = 3.0
    """An inference is late, and hedged, after this many mean execution times; None is never."""
    hedge_max_extra: float = 0.01
    """Most hedges, as a fraction of all inferences."""
    dispatch_timeout_s: float | None = None
    """Seconds after which an inference counts as stuck; None derives them from measured times."""
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    """Configured tenants by name; any other tenant has the default weight and no share."""

    @property
    def max_batch_size(self) -> int:
        """Most samples in one inference."""
        return self.batch_sizes[-1]


@dataclass(frozen=True, slots=True)
class DeviceStatistics:
    """One device at one instant."""

    state: str
    """`ready`, `probation`, `quarantined` or `retiring`."""
    num_activations: int
    """Activations that are loaded, used or not."""
    in_flight: int
    """Batches that the device holds."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Gauges at one instant, in requests unless the name says otherwise.

    `accepted` = done + failed + cancelled + expired + waiting + queued + in flight, always.
    """

    accepted: int
    """Requests ever accepted; rejected ones are not among them."""
    done: int
    failed: int
    cancelled: int
    expired: int
    rejected: int
    waiting: int
    """Requests that wait for room in the queue."""
    queued: int
    """Requests with samples to dispatch, or to dispatch again."""
    in_flight: int
    """Requests whose unanswered samples are all on devices."""
    queued_samples: int
    """Samples never dispatched; `max_samples` bounds them."""
    queued_bytes: int
    """Input bytes of queued requests; `max_bytes` bounds them."""
    devices: dict[int, DeviceStatistics]
    """By device id."""
