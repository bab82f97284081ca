"""Deadlines of unresolved requests, the next one first."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from qaic_sched.core.model import Request

__all__ = ["Deadlines"]

_NEVER: Final = float("inf")


class Deadlines:
    """A heap with lazy removal: resolved requests are skipped, and dropped once over half."""

    __slots__ = ("_heap", "_stale")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []
        """(deadline, request id, request) of requests with a deadline, some resolved already."""
        self._stale = 0
        """Entries of resolved requests."""

    def __len__(self) -> int:
        """Count the entries, stale ones included."""
        return len(self._heap)

    def add(self, request: Request) -> None:
        """Watch a request if it has a deadline."""
        if request.deadline is not None:
            heappush(self._heap, (request.deadline, request.id, request))

    def forget(self, request: Request) -> None:
        """Stop watching a request; call it once when the request is resolved."""
        if request.deadline is None:
            return
        self._stale += 1
        if self._stale > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if not entry[2].is_resolved]
            heapify(self._heap)
            self._stale = 0

    def next_at(self) -> float:
        """Return the next deadline, or infinity if there is none."""
        while self._heap:
            deadline, _, request = self._heap[0]
            if not request.is_resolved:
                return deadline
            heappop(self._heap)
            self._stale -= 1
        return _NEVER

    def overdue(self, now: float) -> Request | None:
        """Return a request whose deadline has passed, if there is one."""
        return self._heap[0][2] if self.next_at() <= now else None
