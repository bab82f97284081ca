"""What a run leaves behind: one row per request, in arrays, and what devices did meanwhile.

Instants are nanoseconds since the run began; -1 is "never" or "not known".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qaic_sched.program import Tensors

__all__ = ["DeviceSample", "Inference", "Outcome", "Records", "Reply"]


class Outcome(IntEnum):
    """What became of a request, as its caller saw it."""

    DONE = 0
    FAILED = 1
    EXPIRED = 2
    REJECTED = 3
    CANCELLED = 4
    UNRESOLVED = 5
    """No answer until the run gave up: the target died, or hangs."""


@dataclass(slots=True)
class Inference:
    """The inference that answered a request, in seconds of the loop's clock."""

    id: int
    device_id: int
    activation: int
    submitted_at: float
    started_at: float
    answered_at: float


@dataclass(slots=True)
class Reply:
    """What a target says of one request."""

    outcome: Outcome
    outputs: Tensors | None = None
    problem: str | None = None
    """What the caller was told instead of outputs."""
    inference: Inference | None = None
    """Where it ran; None from targets that do not tell, and where it ran in several."""


@dataclass(slots=True)
class DeviceSample:
    """The running totals of every device at one instant, from the target's own metrics."""

    at_ns: int
    queued_samples: int
    busy_s: dict[int, float]
    """Execute time by device so far, summed over its activations."""
    inferences: dict[int, int]
    """Inferences that ran by device so far, failed ones included: `busy_s` has their time too."""


@dataclass(slots=True)
class Records:
    """One row per request that was due, in the order in which they were planned."""

    planned_ns: NDArray[np.int64]
    """When it should have been sent; in a closed loop, when its caller was free to."""
    sent_ns: NDArray[np.int64]
    done_ns: NDArray[np.int64]
    outcome: NDArray[np.int8]
    inference: NDArray[np.int64]
    """Id of the inference that answered it."""
    device: NDArray[np.int32]
    activation: NDArray[np.int32]
    submitted_ns: NDArray[np.int64]
    started_ns: NDArray[np.int64]
    answered_ns: NDArray[np.int64]
    ended_ns: int = 0
    """When the last answer had come, or the run gave up."""
    problems: dict[str, int] = field(default_factory=dict)
    """What callers were told, and how often: the first few kinds."""
    device_samples: list[DeviceSample] = field(default_factory=list)
    """At the beginning, about a hundred times on the way, and at the end."""

    @classmethod
    def for_requests(cls, planned_ns: NDArray[np.int64]) -> Records:
        """Rows for requests of which nothing has happened yet."""
        count = len(planned_ns)

        def never() -> NDArray[np.int64]:
            return np.full(count, -1, np.int64)

        return cls(
            planned_ns,
            sent_ns=never(),
            done_ns=never(),
            outcome=np.full(count, Outcome.UNRESOLVED, np.int8),
            inference=never(),
            device=np.full(count, -1, np.int32),
            activation=np.full(count, -1, np.int32),
            submitted_ns=never(),
            started_ns=never(),
            answered_ns=never(),
        )
