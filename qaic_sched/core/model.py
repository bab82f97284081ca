"""The nouns of the core: requests, their parts, batches, activations and answers.

Those of which every inference makes one write their `__init__` themselves: that of a dataclass is
Python even where the core is compiled.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from qaic_sched.core.values import DeviceStatistics, Policy, Statistics, Tenant

if TYPE_CHECKING:
    from qaic_sched.core.service_times import DeviceSpeed

__all__ = [
    "Activation",
    "Batch",
    "Completed",
    "DeviceStatistics",
    "Fault",
    "Part",
    "Policy",
    "Request",
    "RequestState",
    "Statistics",
    "Tenant",
]


class RequestState(Enum):
    """Where a request is in its life; the last five are final."""

    WAITING = "waiting"
    QUEUED = "queued"
    IN_FLIGHT = "in_flight"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REJECTED = "rejected"

    # States are compared by identity and counted in a dict per request: Enum's own hash is slow.
    __hash__ = object.__hash__


_LONG_AGO: Final = float("-inf")
_WAITING: Final = RequestState.WAITING
_QUEUED: Final = RequestState.QUEUED
_IN_FLIGHT: Final = RequestState.IN_FLIGHT
"""Names like these spare the hot path the slow look-up of an Enum's member."""


class Fault(Enum):
    """Why a device answered a batch with an error, or did not answer it."""

    INFERENCE = "inference"
    LOST = "lost"
    RESTARTED = "restarted"
    STUCK = "stuck"


class Request:
    """One call of `run`, however many samples it has; handed to `handle`, it is its own arrival.

    The first block is the caller's and never changes, the second is the core's own. A request is
    one object with a cursor: samples before `cursor` have been put into batches, of which
    `in_flight` are not yet answered and those of the parts in `retrying` are to be tried again.
    """

    __slots__ = (
        "accepted_at",
        "cursor",
        "deadline",
        "id",
        "in_flight",
        "last_batch",
        "num_bytes",
        "priority",
        "retry_after_s",
        "retrying",
        "samples",
        "state",
        "tenant",
        "wait_s",
    )

    def __init__(
        self,
        id: int,  # noqa: A002 - its name in every log
        samples: int,
        accepted_at: float,
        deadline: float | None = None,
        priority: int = 0,
        num_bytes: int = 0,
        tenant: str | None = None,
    ) -> None:
        self.id = id
        self.samples = samples
        self.accepted_at = accepted_at
        self.deadline = deadline
        self.priority = priority
        self.num_bytes = num_bytes
        self.tenant = tenant

        self.state = _WAITING
        self.cursor = 0
        self.in_flight = 0
        self.retrying: tuple[Part, ...] = ()
        self.last_batch: Batch | None = None
        """The batch whose answer resolved the request, once it is done or failed."""
        self.retry_after_s: float | None = None
        """When to come again, for a rejected request; None while nothing has been measured."""
        self.wait_s: float | None = None
        """How long it would have taken, for one rejected because that is beyond its deadline."""

    @property
    def is_resolved(self) -> bool:
        """Whether the caller has its answer, of whatever kind."""
        state = self.state
        return not (state is _WAITING or state is _QUEUED or state is _IN_FLIGHT)

    def __repr__(self) -> str:
        return (
            f"<Request {self.id} {self.state.value}: {self.cursor} of {self.samples} dispatched, "
            f"{self.in_flight} in flight, {len(self.retrying)} parts retrying>"
        )


class Part:
    """Consecutive samples of one request that travel in one batch."""

    __slots__ = (
        "attempts",
        "copies",
        "failed_on",
        "is_settled",
        "losses",
        "offset",
        "request",
        "samples",
    )

    def __init__(self, request: Request, offset: int, samples: int) -> None:
        self.request = request
        self.offset = offset
        self.samples = samples
        self.copies = 0
        """How many batches in flight carry it: more than one where it is hedged."""
        self.is_settled = False
        """Whether a batch with it was answered: the other copies reach nobody."""
        self.attempts = 0
        """How many times all its copies have failed, by the fault of the inference perhaps."""
        self.losses = 0
        """How many times it was on a device that went away."""
        self.failed_on = -1
        """The device of the last failure, once there was one."""


class Activation:
    """One running instance of the program, and what it holds."""

    __slots__ = (
        "backlog_s",
        "busy_since",
        "completed_at",
        "device_id",
        "free_at",
        "held",
        "index",
        "is_parked",
        "is_retiring",
        "speed",
    )

    def __init__(
        self, device_id: int, index: int, speed: DeviceSpeed, *, is_parked: bool = False
    ) -> None:
        self.device_id = device_id
        self.index = index
        self.speed = speed
        """Its device's: the same object for all of them."""
        self.held: list[Batch] = []
        """Its batches, in the order in which it serves them."""
        self.completed_at = _LONG_AGO
        """When it last answered: a batch queued behind another starts there."""
        self.busy_since = _LONG_AGO
        """When it began what it is at: its oldest batch was submitted, or the one before
        answered."""
        self.is_parked = is_parked
        """Whether it is to be given nothing: its device is in quarantine or on probation, or it is
        retiring."""
        self.is_retiring = False
        """Whether it is to be given back once it holds nothing."""
        self.backlog_s = 0.0
        """Seconds expected for all that it holds."""
        self.free_at = _LONG_AGO
        """When it is expected to have done all that it holds."""

    def __repr__(self) -> str:
        return f"<Activation {self.device_id}/{self.index}: {self.in_flight} in flight>"

    @property
    def in_flight(self) -> int:
        """How many batches it holds."""
        return len(self.held)


class Batch:
    """What goes to an activation as one inference: `samples` of requests, padded to `size`."""

    __slots__ = (
        "activation",
        "completed_at",
        "expected_s",
        "id",
        "is_abandoned",
        "is_hedge",
        "parts",
        "samples",
        "size",
        "started_at",
        "submitted_at",
    )

    def __init__(
        self,
        id: int,  # noqa: A002 - its name in every log
        activation: Activation,
        size: int,
        samples: int,
        parts: list[Part],
        submitted_at: float,
    ) -> None:
        self.id = id
        self.activation = activation
        self.size = size
        self.samples = samples
        self.parts = parts
        self.submitted_at = submitted_at
        self.is_hedge = False
        """Whether it repeats what a late activation holds."""
        self.is_abandoned = False
        """Whether its parts were given up on: when it is answered it frees its slot, no more."""
        self.expected_s = 0.0
        """Seconds expected from start to answer."""
        self.started_at = 0.0
        self.completed_at = 0.0

    @property
    def execute_s(self) -> float:
        """Seconds from start to answer, once answered."""
        return self.completed_at - self.started_at

    def unload(self) -> None:
        """Forget the parts: nobody waits for them here any more."""
        self.parts = _NOTHING


_NOTHING: Final[list[Part]] = []
"""What all unloaded batches share, and nobody adds to."""


class Completed:
    """The device answered a batch, with outputs or, given a `fault`, with an error."""

    __slots__ = ("batch_id", "completed_at", "fault")

    def __init__(self, batch_id: int, completed_at: float, fault: Fault | None = None) -> None:
        self.batch_id = batch_id
        self.completed_at = completed_at
        self.fault = fault

    def __repr__(self) -> str:
        return f"Completed({self.batch_id}, {self.completed_at}, {self.fault})"
