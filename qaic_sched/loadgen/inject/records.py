"""What a run leaves behind: one row per request, in arrays, and what devices did meanwhile.

Instants are nanoseconds since the run began; -1 is "never" or "not known".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from qaic_sched.loadgen.targets.base import Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qaic_sched.loadgen.targets.base import DeviceSample

__all__ = ["Records"]


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
    completed_ns: NDArray[np.int64]
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
            completed_ns=never(),
        )
