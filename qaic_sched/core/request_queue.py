"""Requests in the order in which they are served: priority first, then the earliest deadline.

One without a deadline stands where it would with `PATIENCE_S`: so nobody waits for ever behind
those who are in a hurry. Equals are served as they came.

There are two of these queues: the queue proper and, when that is full, those that wait for room.
Leaving from the middle is lazy: the entry stays, marked by its request's state, and is skipped at
the front; entries are compacted away when the stale ones are over half.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, TypeAlias

from qaic_sched.core.model import Part, Request, RequestState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PATIENCE_S", "RequestQueue", "urgency"]

PATIENCE_S = 10.0
"""Seconds after which a request without a deadline is as urgent as one whose deadline is now."""

_Entry: TypeAlias = "tuple[float, int, Request]"


def urgency(request: Request) -> float:
    """What requests of one priority are served by, the least first."""
    deadline = request.deadline
    return request.accepted_at + PATIENCE_S if deadline is None else deadline


class _Lane:
    """Requests of one priority. Most come in the order of urgency: only the others need a heap."""

    __slots__ = ("early", "late")

    def __init__(self) -> None:
        #: In the order of urgency, as they came.
        self.late: deque[_Entry] = deque()
        #: A heap of those that came when a less urgent one stood in `late` already.
        self.early: list[_Entry] = []

    def push(self, request: Request) -> None:
        entry = (urgency(request), request.id, request)
        if not self.late or entry > self.late[-1]:
            self.late.append(entry)
        else:
            heappush(self.early, entry)

    def first(self) -> Request | None:
        """The most urgent entry, stale or not."""
        early, late = self.early, self.late
        if early and (not late or early[0] < late[0]):
            return early[0][2]
        return late[0][2] if late else None

    def pop(self) -> None:
        """Drop what `first` gives."""
        early, late = self.early, self.late
        if early and (not late or early[0] < late[0]):
            heappop(early)
        else:
            late.popleft()

    def compact(self, holds: Callable[[Request], bool]) -> bool:
        """Drop the stale entries; whether any entry is left."""
        self.late = deque(entry for entry in self.late if holds(entry[2]))
        self.early = [entry for entry in self.early if holds(entry[2])]
        heapify(self.early)
        return bool(self.late or self.early)

    def entries(self) -> list[_Entry]:
        """All entries in the order of service, stale ones included."""
        return sorted((*self.late, *self.early))


class RequestQueue:
    """Requests of one state, by priority (higher first), then urgency."""

    __slots__ = ("_lanes", "_order", "num_bytes", "num_requests", "num_stale", "samples", "state")

    def __init__(self, state: RequestState) -> None:
        self.state = state
        self.samples = 0
        """Samples not yet taken, over all requests here."""
        self.num_bytes = 0
        """Bytes of all inputs here; a request's count until its last sample is taken."""
        self.num_requests = 0
        self._lanes: dict[int, _Lane] = {}
        self._order: list[int] = []
        self.num_stale = 0

    def push(self, request: Request) -> None:
        """Bring a request in at its place; it takes this queue's state."""
        lane = self._lanes.get(request.priority)
        if lane is None:
            lane = self._lanes[request.priority] = _Lane()
            insort(self._order, request.priority)
        lane.push(request)
        request.state = self.state
        self.samples += request.samples
        self.num_bytes += request.num_bytes
        self.num_requests += 1

    def head(self) -> Request | None:
        """The request to be served next."""
        while self._order:
            priority = self._order[-1]
            lane = self._lanes[priority]
            while (request := lane.first()) is not None:
                if self._holds(request):
                    return request
                lane.pop()
                self.num_stale -= 1
            del self._lanes[priority]
            self._order.pop()
        return None

    def pop(self, request: Request) -> None:
        """Take the whole head out."""
        self._lanes[request.priority].pop()
        self._forget(request)
        self._compact_if_stale()

    def take(self, room: int) -> list[Part]:
        """Take up to `room` samples from the front, the last request's in part if need be."""
        parts: list[Part] = []
        while room and (request := self.head()) is not None:
            left = request.samples - request.cursor
            samples = left if left < room else room
            parts.append(Part(request, request.cursor, samples))
            if samples == left:
                self.pop(request)
            else:
                self.samples -= samples
            request.cursor += samples
            request.in_flight += samples
            room -= samples
        return parts

    def take_newest(self, room: int) -> list[Part]:
        """Take up to `room` samples of whole requests, the least urgent of the most urgent lane.

        From the front where that one is larger than the room, or partly dispatched.
        """
        if self.head() is None:
            return []
        late = self._lanes[self._order[-1]].late
        parts: list[Part] = []
        while late and room:
            request = late[-1][2]
            if self._holds(request):
                if request.cursor or request.samples > room:
                    break
                parts.append(Part(request, 0, request.samples))
                self._forget(request)
                request.cursor = request.in_flight = request.samples
                room -= request.samples
            else:
                self.num_stale -= 1
            late.pop()
        self._compact_if_stale()
        return parts or self.take(room)

    def leave(self, request: Request, state: RequestState) -> None:
        """Let a request go from wherever it stands, into another state."""
        self._forget(request)
        request.state = state
        self.num_stale += 1
        self._compact_if_stale()

    def oldest_at(self) -> float:
        """When the request that has been here longest was accepted; infinite if there is none.

        Looks at all of them: for a queue of less than a batch.
        """
        return min((request.accepted_at for request in self), default=float("inf"))

    def __iter__(self) -> Iterator[Request]:
        """All requests here, in the order of service."""
        for priority in reversed(self._order):
            for _, _, request in self._lanes[priority].entries():
                if self._holds(request):
                    yield request

    def _compact_if_stale(self) -> None:
        if self.num_stale <= self.num_requests:
            return
        self._lanes = {
            priority: lane for priority, lane in self._lanes.items() if lane.compact(self._holds)
        }
        self._order = sorted(self._lanes)
        self.num_stale = 0

    def _holds(self, request: Request) -> bool:
        return request.state is self.state and request.cursor < request.samples

    def _forget(self, request: Request) -> None:
        self.samples -= request.samples - request.cursor
        self.num_bytes -= request.num_bytes
        self.num_requests -= 1
