"""Requests in the order in which they are served.

Rules of this file:
- The higher priority first; inside a priority whose tenant is behind (`tenants`); of one tenant
  the most urgent (`line`). A tenant whose guaranteed share is behind goes before all of that.
- Priorities are strict, but for a bound on starvation: one sample in `RELIEF` goes to a priority
  that others pass over.
- Leaving from the middle is lazy: the entry stays, marked by its request's state, and is skipped
  at the front; entries are compacted away when the stale ones are over half.

There are two of these queues: the queue proper and, when that is full, those that wait for room.
"""

from __future__ import annotations

from bisect import insort
from heapq import heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Final

from qaic_sched.core.line import Line
from qaic_sched.core.model import Part, Request, RequestState
from qaic_sched.core.tenants import Tenants

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qaic_sched.core.model import Tenant
    from qaic_sched.core.tenants import Account

__all__ = ["RELIEF", "RequestQueue"]

RELIEF: Final = 50
"""A priority that others pass over gets one sample in so many."""
_NOBODY: Mapping[str, Tenant] = {}


class _Lane:
    """Requests of one priority: a line per tenant, and whose turn it is."""

    __slots__ = ("_sequence", "_turns", "lines", "only", "priority", "relief_at", "samples")

    def __init__(self, priority: int, relief_at: int) -> None:
        self.priority = priority
        self.samples = 0
        """Samples not yet taken."""
        self.relief_at = relief_at
        """With so many samples served, the lane has been passed over for too long."""
        self.lines: dict[Account, Line] = {}
        self.only: Line | None = None
        """The line, where there is just one."""
        #: One entry per line, by the clock that its tenant had when it was put here.
        self._turns: list[tuple[float, int, Line]] = []
        self._sequence = 0

    def line_of(self, account: Account) -> Line:
        """The tenant's line, new if need be."""
        line = self.lines.get(account)
        if line is None:
            line = self.lines[account] = Line(self.priority, account)
            self.only = None if self.only or len(self.lines) > 1 else line
            self._push_turn(line)
        return line

    def drop(self, line: Line) -> None:
        """Forget a line that nobody stands in."""
        del self.lines[line.account]
        self.only = next(iter(self.lines.values())) if len(self.lines) == 1 else None

    def next_line(self) -> Line:
        """The line of the tenant whose clock is furthest behind; there is one."""
        turns = self._turns
        while True:
            clock, _, line = turns[0]
            if self.lines.get(line.account) is not line:
                heappop(turns)
            elif len(self.lines) > 1 and line.account.clock > clock:
                self._sequence += 1
                heapreplace(turns, (line.account.clock, self._sequence, line))
            else:
                return line

    def keep(self, lines: list[Line]) -> None:
        """Drop all other lines."""
        self.lines = {line.account: line for line in lines}
        self.only = lines[0] if len(lines) == 1 else None
        self._turns.clear()
        for line in lines:
            self._push_turn(line)

    def _push_turn(self, line: Line) -> None:
        self._sequence += 1
        heappush(self._turns, (line.account.clock, self._sequence, line))


class RequestQueue:
    """Requests of one state; `tenants` are those that are not as all others."""

    __slots__ = (
        "_lanes",
        "_order",
        "_relief_at",
        "_served",
        "num_bytes",
        "num_requests",
        "num_stale",
        "samples",
        "state",
        "tenants",
    )

    def __init__(self, state: RequestState, tenants: Mapping[str, Tenant] = _NOBODY) -> None:
        self.state = state
        self.samples = 0
        """Samples not yet taken, over all requests here."""
        self.num_bytes = 0
        """Bytes of all inputs here; a request's count until its last sample is taken."""
        self.num_requests = 0
        self.tenants = Tenants(tenants)
        self._lanes: dict[int, _Lane] = {}
        self._order: list[int] = []
        self._served = 0
        #: No lane has been passed over for too long before so many samples are served.
        self._relief_at = 0
        self.num_stale = 0

    def push(self, request: Request) -> None:
        """Bring a request in at its place; it takes this queue's state."""
        priority = request.priority
        lane = self._lanes.get(priority)
        if lane is None:
            lane = self._lanes[priority] = _Lane(priority, self._served + RELIEF)
            self._relief_at = min(self._relief_at, lane.relief_at)
            insort(self._order, priority)
        account = self.tenants.account(request.tenant)
        lane.line_of(account).push(request)
        request.state = self.state
        lane.samples += request.samples
        self.samples += request.samples
        self.num_bytes += request.num_bytes
        self.num_requests += 1
        self.tenants.enter(account, request)

    def head(self) -> Request | None:
        """The request to be served next."""
        line = self._next_line()
        return None if line is None else line.first()

    def pop(self, request: Request) -> None:
        """Take the whole head out."""
        line = self._line_of(request)
        line.pop()
        self._serve(line, request.samples)
        self._forget(request)
        self._compact_if_stale()

    def take(self, room: int) -> list[Part]:
        """Take up to `room` samples from the front, the last request's in part if need be."""
        parts: list[Part] = []
        while room and (line := self._next_line()) is not None:
            request = line.first()
            assert request is not None
            left = request.samples - request.cursor
            samples = left if left < room else room
            parts.append(Part(request, request.cursor, samples))
            self._serve(line, samples)
            if samples == left:
                line.pop()
                self._forget(request)
            else:
                self._lanes[line.priority].samples -= samples
                line.account.samples -= samples
                self.samples -= samples
            request.cursor += samples
            request.in_flight += samples
            room -= samples
        self._compact_if_stale()
        return parts

    def take_newest(self, room: int) -> list[Part]:
        """Take up to `room` samples of whole requests, the least urgent of the line served next.

        From the front where that one is larger than the room, or partly dispatched.
        """
        line = self._next_line()
        if line is None:
            return []
        late = line.late
        parts: list[Part] = []
        while late and room:
            request = late[-1]
            if self._holds(request):
                if request.cursor or request.samples > room:
                    break
                parts.append(Part(request, 0, request.samples))
                self._serve(line, request.samples)
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

    def samples_before(self, request: Request) -> float:
        """Samples that are certain to be served before a newcomer, as things are.

        Where it would not stand behind all of its own line, none of that is.
        """
        before = sum(self._lanes[each].samples for each in self._order if each > request.priority)
        lane = self._lanes.get(request.priority)
        account = self.tenants.account(request.tenant)
        line = lane.lines.get(account) if lane is not None else None
        if lane is None or line is None or not line.is_last(request):
            return before
        if self.tenants.num_active == 1:
            return before + lane.samples
        return before + min(lane.samples, account.samples / self.tenants.fraction_of(account))

    def oldest_at(self) -> float:
        """When the request that has been here longest was accepted; infinite if there is none.

        Looks at all of them: for a queue of less than a batch.
        """
        return min((request.accepted_at for request in self), default=float("inf"))

    def __iter__(self) -> Iterator[Request]:
        """All requests here, by priority, then tenant, then urgency."""
        for priority in reversed(self._order):
            for line in self._lanes[priority].lines.values():
                yield from filter(self._holds, line.requests())

    def _next_line(self) -> Line | None:
        """The line whose first is served next; that one is not stale."""
        order = self._order
        while order:
            line = self._owed_line() if self.tenants.guaranteed else None
            if line is None:
                lane = self._lanes[order[0]] if len(order) == 1 else self._lane_in_turn()
                line = lane.only or lane.next_line()
            while (request := line.first()) is not None:
                if self._holds(request):
                    return line
                line.pop()
                self.num_stale -= 1
            self._drop_line(line)
        return None

    def _owed_line(self) -> Line | None:
        """The most urgent line of a tenant whose guaranteed share is behind."""
        account = self.tenants.owed()
        if account is None:
            return None
        lanes = (self._lanes[priority] for priority in reversed(self._order))
        return next(lane.lines[account] for lane in lanes if account in lane.lines)

    def _lane_in_turn(self) -> _Lane:
        if len(self._order) > 1 and self._served >= self._relief_at:
            lane = min(self._lanes.values(), key=lambda each: each.relief_at)
            self._relief_at = lane.relief_at
            if self._served >= lane.relief_at:
                return lane
        return self._lanes[self._order[-1]]

    def _serve(self, line: Line, samples: int) -> None:
        """Keep the accounts of what is taken from a line."""
        self._served += samples
        if len(self._order) > 1:
            lane = self._lanes[line.priority]
            is_relief = (
                self._served - samples >= lane.relief_at and line.priority != self._order[-1]
            )
            lane.relief_at = self._served + RELIEF * (samples if is_relief else 1)
        self.tenants.serve(line.account, samples)

    def _drop_line(self, line: Line) -> None:
        lane = self._lanes[line.priority]
        lane.drop(line)
        if not lane.lines:
            del self._lanes[line.priority]
            self._order.remove(line.priority)

    def _line_of(self, request: Request) -> Line:
        return self._lanes[request.priority].lines[self.tenants.account(request.tenant)]

    def _compact_if_stale(self) -> None:
        if self.num_stale <= self.num_requests:
            return
        for lane in self._lanes.values():
            lane.keep([line for line in lane.lines.values() if line.compact(self._holds)])
        self._lanes = {priority: lane for priority, lane in self._lanes.items() if lane.lines}
        self._order = sorted(self._lanes)
        self.num_stale = 0

    def _holds(self, request: Request) -> bool:
        return request.state is self.state and request.cursor < request.samples

    def _forget(self, request: Request) -> None:
        left = request.samples - request.cursor
        self._lanes[request.priority].samples -= left
        self.samples -= left
        self.num_bytes -= request.num_bytes
        self.num_requests -= 1
        self.tenants.leave(request)

    def check(self) -> None:
        """Assert that every count is what a recount gives."""
        here = list(self)
        accounts = {self.tenants.account(each.tenant) for each in here}
        assert self.tenants.num_active == len(accounts), "tenants miscounted"
        for priority, lane in self._lanes.items():
            own = [each for each in here if each.priority == priority]
            assert lane.samples == sum(each.samples - each.cursor for each in own)
        for account in accounts:
            own = [each for each in here if self.tenants.account(each.tenant) is account]
            assert account.num_requests == len(own)
            assert account.samples == sum(each.samples - each.cursor for each in own)
            assert account.num_bytes == sum(each.num_bytes for each in own)
