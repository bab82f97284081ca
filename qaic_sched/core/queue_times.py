"""When the oldest request of a queue came, and the earliest deadline in it.

Rules of this file:
- Both are heaps with lazy removal: a request that left the queue is skipped at the top.
- A queue keeps them only from the first question on, and drops them when most entries are stale.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qaic_sched.core.model import Request

__all__ = ["QueueTimes"]

_NEVER: Final = float("inf")


class QueueTimes:
    """The arrivals and deadlines of the requests in a queue, the earliest first."""

    __slots__ = ("_arrivals", "_deadlines", "_holds")

    def __init__(self, requests: Iterable[Request], holds: Callable[[Request], bool]) -> None:
        self._holds = holds
        """Returns whether a request is still in the queue."""
        here = list(requests)
        self._arrivals = [(each.accepted_at, each.id, each) for each in here]
        """A heap of all requests, some of which have left."""
        self._deadlines = [
            (each.deadline, each.id, each) for each in here if each.deadline is not None
        ]
        """A heap of those with a deadline."""
        heapify(self._arrivals)
        heapify(self._deadlines)

    def __len__(self) -> int:
        """Count the entries, stale ones included."""
        return len(self._arrivals)

    def add(self, request: Request) -> None:
        """Add a request that comes to the queue."""
        heappush(self._arrivals, (request.accepted_at, request.id, request))
        if request.deadline is not None:
            heappush(self._deadlines, (request.deadline, request.id, request))

    def oldest_at(self) -> float:
        """Return when the oldest request was accepted; infinity if there is none."""
        while self._arrivals:
            accepted_at, _, request = self._arrivals[0]
            if self._holds(request):
                return accepted_at
            heappop(self._arrivals)
        return _NEVER

    def earliest_deadline(self) -> float:
        """Return the earliest deadline; infinity if there is none."""
        while self._deadlines:
            deadline, _, request = self._deadlines[0]
            if self._holds(request):
                return deadline
            heappop(self._deadlines)
        return _NEVER
