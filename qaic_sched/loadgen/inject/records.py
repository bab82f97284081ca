"""The raw records of a run: one row per request, in arrays, and samples of the devices.

Instants are nanoseconds since the start of the run; -1 means never or not known.
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
    """One row per request that was due, in the order of the planned instants."""

    planned_ns: NDArray[np.int64]
    """When the request was due; in a closed loop, when its caller was free to send it."""
    sent_ns: NDArray[np.int64]
    done_ns: NDArray[np.int64]
    outcome: NDArray[np.int8]
    inference: NDArray[np.int64]
    """Id of the inference that answered the request."""
    device: NDArray[np.int32]
    activation: NDArray[np.int32]
    submitted_ns: NDArray[np.int64]
    started_ns: NDArray[np.int64]
    completed_ns: NDArray[np.int64]
    ended_ns: int = 0
    """The instant of the last answer, or of the end of the drain."""
    problems: dict[str, int] = field(default_factory=dict)
    """Error message -> number of requests, for the first few messages."""
    device_samples: list[DeviceSample] = field(default_factory=list)
    """About a hundred, the first at the start and the last at the end."""

    @classmethod
    def for_requests(cls, planned_ns: NDArray[np.int64]) -> Records:
        """Make rows for requests that are planned and not sent yet."""
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
