"""Requests in the order in which they are served.

Rules of this file:
- Higher priorities first; in a priority the tenant that is furthest behind (`tenants`); of a tenant
  the most urgent request (`tenant_queue`). A tenant whose guaranteed share is behind goes before
  all of these.
- Priorities are strict except for a bound on starvation: one sample in `STARVATION_BOUND` goes to a
  priority that others pass over.
- An isolated tenant's samples are taken without others, and others' without its own. Of the others,
  only the first of a batch follows the rules on starvation and shares; the rest fills up.
- Removal from the middle is lazy: the entry stays, recognized by its request's state, and is
  skipped at the front. Stale entries are dropped when they are over half.

There are two such queues: one for admitted requests, one for those that wait for room in it.
"""

from __future__ import annotations

from bisect import insort
from heapq import heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Final

from qaic_sched.core.model import Part, Request, RequestState
from qaic_sched.core.tenant_queue import TenantQueue
from qaic_sched.core.tenants import Tenants

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qaic_sched.core.model import Tenant
    from qaic_sched.core.tenants import Account

__all__ = ["STARVATION_BOUND", "RequestQueue"]

STARVATION_BOUND: Final = 50
"""A priority that others pass over gets one sample in this number."""
_NO_TENANTS: Mapping[str, Tenant] = {}


class PriorityLevel:
    """Requests of one priority: a queue per tenant, and which tenant is next."""

    __slots__ = (
        "_sequence",
        "_turns",
        "num_requests",
        "only",
        "priority",
        "queues",
        "samples",
        "starved_at",
    )

    def __init__(self, priority: int, starved_at: int) -> None:
        self.priority = priority
        """The priority of its requests."""
        self.samples = 0
        """Samples not yet taken, those of stale requests excluded."""
        self.num_requests = 0
        """Requests; stale ones are not counted."""
        self.starved_at = starved_at
        """Samples served by the whole queue from which on this level is starved."""
        self.queues: dict[Account, TenantQueue] = {}
        """By tenant, queues of stale requests alone included."""
        self.only: TenantQueue | None = None
        """The tenant queue if there is exactly one."""
        self._turns: list[tuple[float, int, TenantQueue]] = []
        """A heap with an entry per tenant queue, by its tenant's clock when that was entered."""
        self._sequence = 0
        """Number of the newest entry: equal clocks take turns."""

    def queue_of(self, account: Account) -> TenantQueue:
        """Return the tenant's queue, a new one if it has none."""
        queue = self.queues.get(account)
        if queue is None:
            queue = self.queues[account] = TenantQueue(self.priority, account)
            self.only = None if self.only or len(self.queues) > 1 else queue
            self._push_turn(queue)
        return queue

    def drop(self, queue: TenantQueue) -> None:
        """Remove an empty tenant queue."""
        del self.queues[queue.account]
        self.only = next(iter(self.queues.values())) if len(self.queues) == 1 else None

    def next_queue(self) -> TenantQueue:
        """Return the queue of the tenant whose clock is furthest behind; there is one."""
        turns = self._turns
        while True:
            clock, _, queue = turns[0]
            if self.queues.get(queue.account) is not queue:
                heappop(turns)
            elif len(self.queues) > 1 and queue.account.clock > clock:
                self._sequence += 1
                heapreplace(turns, (queue.account.clock, self._sequence, queue))
            else:
                return queue

    def next_shared_queue(self) -> TenantQueue | None:
        """Return the next queue of a tenant that is not isolated; None if there is none."""
        aside: list[tuple[float, int, TenantQueue]] = []
        found = None
        while self._turns and found is None:
            clock, _, queue = self._turns[0]
            if self.queues.get(queue.account) is not queue:
                heappop(self._turns)
            elif queue.account.clock > clock:
                self._sequence += 1
                heapreplace(self._turns, (queue.account.clock, self._sequence, queue))
            elif queue.account.is_isolated:
                aside.append(heappop(self._turns))
            else:
                found = queue
        for entry in aside:
            heappush(self._turns, entry)
        return found

    def keep(self, queues: list[TenantQueue]) -> None:
        """Remove all other tenant queues."""
        self.queues = {queue.account: queue for queue in queues}
        self.only = queues[0] if len(queues) == 1 else None
        self._turns.clear()
        for queue in queues:
            self._push_turn(queue)

    def _push_turn(self, queue: TenantQueue) -> None:
        self._sequence += 1
        heappush(self._turns, (queue.account.clock, self._sequence, queue))


class RequestQueue:
    """Requests of one state, with samples that were never taken."""

    __slots__ = (
        "_levels",
        "_order",
        "_served",
        "_starved_at",
        "num_bytes",
        "num_requests",
        "num_stale",
        "samples",
        "state",
        "tenants",
    )

    def __init__(self, state: RequestState, tenants: Mapping[str, Tenant] = _NO_TENANTS) -> None:
        self.state = state
        """The state of its requests; an entry of a request in another state is stale."""
        self.samples = 0
        """Samples not yet taken, those of stale requests excluded."""
        self.num_bytes = 0
        """Input bytes of all requests, each counted until its last sample is taken."""
        self.num_requests = 0
        """Requests in the queue; stale entries are not counted."""
        self.tenants = Tenants(tenants)
        """The accounts of the tenants."""
        self._levels: dict[int, PriorityLevel] = {}
        """By priority; levels of stale requests alone may be among them."""
        self._order: list[int] = []
        """The priorities of `_levels`, ascending."""
        self._served = 0
        """Samples ever taken."""
        self._starved_at = 0
        """No level is starved before `_served` reaches this."""
        self.num_stale = 0
        """Entries of requests that left from the middle."""

    def push(self, request: Request) -> None:
        """Add a request at its place; it takes this queue's state."""
        priority = request.priority
        level = self._levels.get(priority)
        if level is None:
            starved_at = self._served + STARVATION_BOUND
            level = self._levels[priority] = PriorityLevel(priority, starved_at)
            self._starved_at = min(self._starved_at, starved_at)
            insort(self._order, priority)
        account = self.tenants.account(request.tenant)
        level.queue_of(account).push(request)
        request.state = self.state
        level.samples += request.samples
        level.num_requests += 1
        self.samples += request.samples
        self.num_bytes += request.num_bytes
        self.num_requests += 1
        self.tenants.enter(account, request)

    def head(self) -> Request | None:
        """Return the request that is served next."""
        queue = self._next_queue()
        return None if queue is None else queue.first()

    def pop(self, request: Request) -> None:
        """Take the whole head, given as `request`."""
        queue = self._queue_of(request)
        queue.pop()
        self._serve(queue, request.samples)
        self._forget(request)
        self._compact_if_stale()

    def take(self, room: int) -> list[Part]:
        """Take up to `room` samples from the front, of the last request only some if need be."""
        parts: list[Part] = []
        while room and (queue := self._next_queue()) is not None:
            if self.tenants.isolated and parts:
                queue = self._queue_beside(parts[0], queue)
                if queue is None:
                    break
            request = queue.first()
            assert request is not None
            left = request.samples - request.cursor
            samples = left if left < room else room
            parts.append(Part(request, request.cursor, samples))
            self._serve(queue, samples)
            if samples == left:
                queue.pop()
                self._forget(request)
            else:
                self._levels[queue.priority].samples -= samples
                queue.account.samples -= samples
                self.samples -= samples
            request.cursor += samples
            request.in_flight += samples
            room -= samples
        self._compact_if_stale()
        return parts

    def take_newest(self, room: int) -> list[Part]:
        """Take up to `room` samples of whole requests, the least urgent of the next tenant.

        Takes from the front if the least urgent one exceeds the room or is partly dispatched.
        """
        queue = self._next_queue()
        if queue is None:
            return []
        in_order = queue.in_order
        parts: list[Part] = []
        while in_order and room:
            request = in_order[-1]
            if self._holds(request):
                if request.cursor or request.samples > room:
                    break
                parts.append(Part(request, 0, request.samples))
                self._serve(queue, request.samples)
                self._forget(request)
                request.cursor = request.in_flight = request.samples
                room -= request.samples
            else:
                self.num_stale -= 1
            in_order.pop()
        self._compact_if_stale()
        return parts or self.take(room)

    def leave(self, request: Request, state: RequestState) -> None:
        """Remove a request from wherever it is, and set its new state."""
        self._forget(request)
        request.state = state
        self.num_stale += 1
        self._compact_if_stale()

    def samples_before(self, request: Request) -> float:
        """Return the samples that will certainly be served before a newcomer, as things are.

        Its own tenant's count only if it would come after all of them.
        """
        before = sum(self._levels[each].samples for each in self._order if each > request.priority)
        level = self._levels.get(request.priority)
        account = self.tenants.account(request.tenant)
        queue = level.queues.get(account) if level is not None else None
        if level is None or queue is None or not queue.is_last(request):
            return before
        if self.tenants.num_active == 1:
            return before + level.samples
        return before + min(level.samples, account.samples / self.tenants.fraction_of(account))

    def requests_before(self, request: Request) -> int:
        """Return the requests that will certainly be served before a newcomer, as things are.

        Those of its own priority count only if no other tenant has any, and it comes after them.
        """
        before = sum(
            self._levels[each].num_requests for each in self._order if each > request.priority
        )
        level = self._levels.get(request.priority)
        queue = level.queues.get(self.tenants.account(request.tenant)) if level else None
        if level is None or queue is None or not queue.is_last(request):
            return before
        return before + level.num_requests if self.tenants.num_active == 1 else before

    def oldest_at(self) -> float:
        """Return when the oldest request was accepted; infinity if there is none.

        Looks at every request: use it on a queue of less than a batch.
        """
        return min((request.accepted_at for request in self), default=float("inf"))

    def __iter__(self) -> Iterator[Request]:
        """Iterate over all requests by priority, then tenant, then urgency; without stale ones."""
        for priority in reversed(self._order):
            for queue in self._levels[priority].queues.values():
                yield from filter(self._holds, queue.requests())

    def _next_queue(self) -> TenantQueue | None:
        """Return the tenant queue that is served next; its first request is not stale."""
        order = self._order
        while order:
            queue = self._owed_queue() if self.tenants.guaranteed else None
            if queue is None:
                level = self._levels[order[0]] if len(order) == 1 else self._next_level()
                queue = level.only or level.next_queue()
            if self._has_first(queue):
                return queue
        return None

    def _queue_beside(self, part: Part, queue: TenantQueue) -> TenantQueue | None:
        """Return the queue that may fill up a batch that begins with `part`; `queue` is next."""
        first = self.tenants.account(part.request.tenant)
        if queue.account is first or not (first.is_isolated or queue.account.is_isolated):
            return queue
        return None if first.is_isolated else self._next_shared_queue()

    def _next_shared_queue(self) -> TenantQueue | None:
        """Return the next queue of a tenant that is not isolated; its first is not stale."""
        for priority in reversed(self._order.copy()):
            level = self._levels[priority]
            while (queue := level.next_shared_queue()) is not None:
                if self._has_first(queue):
                    return queue
        return None

    def _has_first(self, queue: TenantQueue) -> bool:
        """Drop stale requests at the front of a queue, and the queue if there are no others."""
        while (request := queue.first()) is not None:
            if self._holds(request):
                return True
            queue.pop()
            self.num_stale -= 1
        self._drop_queue(queue)
        return False

    def _owed_queue(self) -> TenantQueue | None:
        """Return the most urgent queue of a tenant whose guaranteed share is behind."""
        account = self.tenants.owed()
        if account is None:
            return None
        levels = (self._levels[priority] for priority in reversed(self._order))
        return next(level.queues[account] for level in levels if account in level.queues)

    def _next_level(self) -> PriorityLevel:
        if len(self._order) > 1 and self._served >= self._starved_at:
            level = min(self._levels.values(), key=lambda each: each.starved_at)
            self._starved_at = level.starved_at
            if self._served >= level.starved_at:
                return level
        return self._levels[self._order[-1]]

    def _serve(self, queue: TenantQueue, samples: int) -> None:
        """Count the samples that are taken from a tenant queue."""
        self._served += samples
        if len(self._order) > 1:
            level = self._levels[queue.priority]
            was_starved = (
                self._served - samples >= level.starved_at and queue.priority != self._order[-1]
            )
            level.starved_at = self._served + STARVATION_BOUND * (samples if was_starved else 1)
        self.tenants.serve(queue.account, samples)

    def _drop_queue(self, queue: TenantQueue) -> None:
        level = self._levels[queue.priority]
        level.drop(queue)
        if not level.queues:
            del self._levels[queue.priority]
            self._order.remove(queue.priority)

    def _queue_of(self, request: Request) -> TenantQueue:
        return self._levels[request.priority].queues[self.tenants.account(request.tenant)]

    def _compact_if_stale(self) -> None:
        if self.num_stale <= self.num_requests:
            return
        for level in self._levels.values():
            level.keep([each for each in level.queues.values() if each.compact(self._holds)])
        self._levels = {each: level for each, level in self._levels.items() if level.queues}
        self._order = sorted(self._levels)
        self.num_stale = 0

    def _holds(self, request: Request) -> bool:
        return request.state is self.state and request.cursor < request.samples

    def _forget(self, request: Request) -> None:
        left = request.samples - request.cursor
        level = self._levels[request.priority]
        level.samples -= left
        level.num_requests -= 1
        self.samples -= left
        self.num_bytes -= request.num_bytes
        self.num_requests -= 1
        self.tenants.leave(request)

    def check(self) -> None:
        """Assert that a recount confirms every count."""
        here = list(self)
        accounts = {self.tenants.account(each.tenant) for each in here}
        assert self.tenants.num_active == len(accounts), "tenants miscounted"
        for priority, level in self._levels.items():
            own = [each for each in here if each.priority == priority]
            assert level.samples == sum(each.samples - each.cursor for each in own)
            assert level.num_requests == len(own)
        for account in accounts:
            own = [each for each in here if self.tenants.account(each.tenant) is account]
            assert account.num_requests == len(own)
            assert account.samples == sum(each.samples - each.cursor for each in own)
            assert account.num_bytes == sum(each.num_bytes for each in own)
