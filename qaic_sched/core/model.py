"""The nouns of the core: requests, their parts, batches, activations and answers.

Classes with one object per inference write their own `__init__`: that of a dataclass stays Python
code even where the core is compiled.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from qaic_sched.core.values import DeviceStatistics, Policy, Statistics, Tenant

if TYPE_CHECKING:
    from qaic_sched.core.speed_group import DeviceSpeed

__all__ = [
    "REQUEST_TRANSITIONS",
    "Activation",
    "Batch",
    "Completed",
    "DeviceNews",
    "DeviceStatistics",
    "Failure",
    "Fault",
    "Part",
    "Policy",
    "Request",
    "RequestState",
    "RetryGroup",
    "Statistics",
    "Tenant",
]


class RequestState(Enum):
    """The states of a request; the last five are final. `REQUEST_TRANSITIONS` has the changes."""

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


_WAITING: Final = RequestState.WAITING
_QUEUED: Final = RequestState.QUEUED
_IN_FLIGHT: Final = RequestState.IN_FLIGHT
_DONE: Final = RequestState.DONE
_FAILED: Final = RequestState.FAILED
_CANCELLED: Final = RequestState.CANCELLED
_EXPIRED: Final = RequestState.EXPIRED
_REJECTED: Final = RequestState.REJECTED
"""Module constants: looking up an Enum's member is slow on the hot path."""

REQUEST_TRANSITIONS: Final[tuple[tuple[RequestState | None, str, RequestState, str], ...]] = (
    (None, "arrives", _WAITING, "admission.arrive"),
    (None, "arrives", _QUEUED, "admission.arrive"),
    (None, "arrives", _REJECTED, "state._arrive"),
    (_WAITING, "room in the queue", _QUEUED, "admission.admit_waiting"),
    (_WAITING, "cancelled", _CANCELLED, "state._cancelled"),
    (_WAITING, "closed", _CANCELLED, "state._closed"),
    (_WAITING, "deadline passes", _EXPIRED, "scheduler_data._expire"),
    (_WAITING, "no device left", _FAILED, "dispatching._fail_without_devices"),
    (_QUEUED, "last samples sent", _IN_FLIGHT, "dispatching._send"),
    (_QUEUED, "cancelled", _CANCELLED, "state._cancelled"),
    (_QUEUED, "closed", _CANCELLED, "state._closed"),
    (_QUEUED, "deadline passes", _EXPIRED, "scheduler_data._expire"),
    (_QUEUED, "deadline is hopeless", _EXPIRED, "dispatching._drop_hopeless"),
    (_QUEUED, "no device left", _FAILED, "dispatching._fail_without_devices"),
    (_QUEUED, "batch fails", _FAILED, "recovery._fail"),
    (_QUEUED, "device is stuck", _FAILED, "recovery._fail"),
    (_IN_FLIGHT, "batch is answered", _DONE, "state._part_done"),
    (_IN_FLIGHT, "batch fails", _QUEUED, "recovery._send_again"),
    (_IN_FLIGHT, "batch fails", _FAILED, "recovery._fail"),
    (_IN_FLIGHT, "device is stuck", _QUEUED, "recovery._send_again"),
    (_IN_FLIGHT, "device is stuck", _FAILED, "recovery._fail"),
    (_QUEUED, "reported lost", _FAILED, "recovery._fail"),
    (_IN_FLIGHT, "reported lost", _QUEUED, "recovery._send_again"),
    (_IN_FLIGHT, "reported lost", _FAILED, "recovery._fail"),
    (_IN_FLIGHT, "cancelled", _CANCELLED, "state._cancelled"),
    (_IN_FLIGHT, "closed", _CANCELLED, "state._closed"),
    (_IN_FLIGHT, "deadline passes", _EXPIRED, "scheduler_data._expire"),
)
"""(state, event, next state, function that decides it); the state before arrival is None."""

_LONG_AGO: Final = float("-inf")


class Fault(Enum):
    """Why a device answered a batch with an error, or did not answer it.

    After `INPUT`, the values of some request are to blame, and never the device.
    """

    INPUT = "input"
    INFERENCE = "inference"
    LOST = "lost"
    RESTARTED = "restarted"
    STUCK = "stuck"


class DeviceNews(Enum):
    """What one model has learned about a device that the other models of the host should know."""

    LOST = "lost"
    RESTARTED = "restarted"
    SLOW = "slow"
    RELOADED = "reloaded"
    READY = "ready"


class Request:
    """One call of `run`, with any number of samples. For `handle`, it is the event of its arrival.

    A request is one object with a cursor. Samples before `cursor` have been put into batches: of
    these, `in_flight` are not answered yet, and the parts in `retrying` will be sent again.
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
        # Set by the caller, and never changed.
        self.id = id
        """Larger than the ids of all earlier requests."""
        self.samples = samples
        """Samples along the batch axis, at least 1."""
        self.accepted_at = accepted_at
        """When the caller submitted it."""
        self.deadline = deadline
        """When it expires unless it is done; None is never."""
        self.priority = priority
        """Higher priorities are served first."""
        self.num_bytes = num_bytes
        """Bytes of its inputs, for the bound `max_bytes`."""
        self.tenant = tenant
        """Name of the tenant that it counts for; None is a tenant, too."""

        # Set by the core.
        self.state = _WAITING
        """Where it is in its life; `REQUEST_TRANSITIONS` has the changes."""
        self.cursor = 0
        """Samples that were ever put into a batch; those to be retried stay included."""
        self.in_flight = 0
        """Samples on devices and not settled, each counted once however often it is hedged."""
        self.retrying: tuple[Part, ...] = ()
        """Parts that failed and will be sent again; they are not in `in_flight`."""
        self.last_batch: Batch | None = None
        """The batch whose answer resolved it, once it is done or failed; else None."""
        self.retry_after_s: float | None = None
        """When to try again, for a rejected request; None while nothing has been measured."""
        self.wait_s: float | None = None
        """The response time expected for a request that was rejected for its deadline."""

    @property
    def is_resolved(self) -> bool:
        """Whether it is in a final state."""
        state = self.state
        return not (state is _WAITING or state is _QUEUED or state is _IN_FLIGHT)

    def __repr__(self) -> str:
        return (
            f"<Request {self.id} {self.state.value}: {self.cursor} of {self.samples} dispatched, "
            f"{self.in_flight} in flight, {len(self.retrying)} parts retrying>"
        )


class Part:
    """Consecutive samples of one request that travel in one batch."""

    __slots__ = ("copies", "group", "is_settled", "offset", "request", "samples")

    def __init__(self, request: Request, offset: int, samples: int) -> None:
        self.request = request
        """The request that it belongs to, resolved or not."""
        self.offset = offset
        """Index of its first sample in the request."""
        self.samples = samples
        """Number of its samples."""
        self.copies = 0
        """Batches in flight that carry it, abandoned ones excluded; 2 where it is hedged."""
        self.is_settled = False
        """Whether a batch with it was answered without a fault; further answers are ignored."""
        self.group: RetryGroup | None = None
        """What is sent again together with it; None before its first failure."""


class Failure:
    """A failed inference of new requests: the fault of its device, or of one of the requests.

    Which, is known once its parts, sent again in `RetryGroup`s, are answered.
    """

    __slots__ = ("device_id", "is_proven", "may_be_requests", "num_open")

    def __init__(self, device_id: int) -> None:
        self.device_id = device_id
        """The device that failed."""
        self.num_open = 0
        """Groups with parts of it that are not answered yet."""
        self.may_be_requests = False
        """Whether one of its requests failed alone, or was resolved before it was answered."""
        self.is_proven = False
        """Whether it was the device's fault."""


class RetryGroup:
    """Parts of one failed batch that are sent again as one batch."""

    __slots__ = (
        "attempts",
        "failed_on",
        "failure",
        "is_suspect",
        "losses",
        "num_failed_together",
        "parts",
    )

    def __init__(self, parts: list[Part], failed_on: int, before: RetryGroup | None) -> None:
        self.parts = parts
        """Its parts, of as many requests; those of resolved requests leave while it waits."""
        self.failed_on = failed_on
        """The device to avoid, which failed it; -1 if any device will do."""
        self.attempts: int = before.attempts if before is not None else 0
        """Times that a batch with only one part of it failed, or was stuck, besides `losses`."""
        self.num_failed_together: int = before.num_failed_together if before is not None else 0
        """Times that the inference of a batch with it and other parts failed."""
        self.losses: int = before.losses if before is not None else 0
        """Times that it was on a device that was lost or restarted."""
        self.is_suspect: bool = before is not None and before.is_suspect
        """Whether an inference of it failed: a further failure is no sign against a device."""
        self.failure: Failure | None = None
        """The failure that its answer helps to explain, until then."""


class Activation:
    """One running instance of the program, with the batches that it holds."""

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
        """Its device."""
        self.index = index
        """Its index on the device; indexes may have gaps after a live change."""
        self.speed = speed
        """Its device's speed: one object shared by all activations of the device."""
        self.held: list[Batch] = []
        """Batches without an answer, abandoned ones included, in the order of execution."""
        self.completed_at = _LONG_AGO
        """When its last answer came: the next batch starts there."""
        self.busy_since = _LONG_AGO
        """When its current batch started: at its submission, or at the answer before it."""
        self.is_parked = is_parked
        """Whether it gets no batches: its device is in quarantine or on probation, or it retires.
        """
        self.is_retiring = False
        """Whether it is to be released once it holds nothing."""
        self.backlog_s = 0.0
        """Expected execution time of the batches that it holds; not kept while it is parked."""
        self.free_at = _LONG_AGO
        """When it is expected to have answered all that it holds; not kept while it is parked."""

    def __repr__(self) -> str:
        return f"<Activation {self.device_id}/{self.index}: {self.in_flight} in flight>"

    @property
    def in_flight(self) -> int:
        """Number of batches that it holds."""
        return len(self.held)


class Batch:
    """One inference on an activation: `samples` of requests, padded to `size`."""

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
        """Batches are numbered in the order of dispatch, hedges and retries included."""
        self.activation = activation
        """The activation that it was dispatched to."""
        self.size = size
        """Its compiled batch size, padding included."""
        self.samples = samples
        """Samples in it, padding excluded."""
        self.parts = parts
        """Its parts in the order of their samples; empty once it is abandoned."""
        self.submitted_at = submitted_at
        """When it was dispatched."""
        self.is_hedge = False
        """Whether it repeats a batch of a late activation."""
        self.is_abandoned = False
        """Whether its parts were sent elsewhere or failed: its answer only frees the slot."""
        self.expected_s = 0.0
        """Expected execution time when it was dispatched; 0 if nothing had been measured."""
        self.started_at = 0.0
        """When its execution started, known once it is answered."""
        self.completed_at = 0.0
        """When its answer came; 0 before."""

    @property
    def execute_s(self) -> float:
        """Execution time on the device, once it is answered."""
        return self.completed_at - self.started_at

    def unload(self) -> None:
        """Drop the parts, as no request waits for this batch any more."""
        self.parts = _NO_PARTS


_NO_PARTS: Final[list[Part]] = []
"""Shared by all unloaded batches; never changed."""


class Completed:
    """The device answered a batch: with outputs, or with an error if there is a `fault`."""

    __slots__ = ("batch_id", "completed_at", "fault")

    def __init__(self, batch_id: int, completed_at: float, fault: Fault | None = None) -> None:
        self.batch_id = batch_id
        """The batch that was answered."""
        self.completed_at = completed_at
        """When the answer came; not after the `now` of the call that takes it in."""
        self.fault = fault
        """What went wrong; None if there are outputs."""

    def __repr__(self) -> str:
        return f"Completed({self.batch_id}, {self.completed_at}, {self.fault})"
