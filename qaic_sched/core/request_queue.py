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
  skipped at the front. Stale entries are dropped when they are over half, and so are tenant queues
  and priorities that ran empty: cost and memory depend on what is queued, never on what ever came.

There are two such queues: one for admitted requests, one for those that wait for room in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qaic_sched.core.model import Part, Request, RequestState
from qaic_sched.core.priority_levels import STARVATION_BOUND, PriorityLevels
from qaic_sched.core.queue_times import QueueTimes
from qaic_sched.core.tenants import Tenants

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qaic_sched.core.model import Tenant
    from qaic_sched.core.priority_levels import PriorityLevel
    from qaic_sched.core.tenant_queue import TenantQueue

__all__ = ["STARVATION_BOUND", "RequestQueue"]

_LEAST_CLUTTER: Final = 8
"""Tenant queues without requests that are kept anyway: the next request may be of their tenant."""
_NO_TENANTS: Mapping[str, Tenant] = {}


class RequestQueue:
    """Requests of one state, with samples that were never taken."""

    __slots__ = (
        "_levels",
        "_num_empty",
        "_served",
        "_times",
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
        self._levels = PriorityLevels()
        """The priorities; some may have no request, or only stale ones."""
        self._served = 0
        """Samples ever taken."""
        self.num_stale = 0
        """Entries of requests that left from the middle."""
        self._num_empty = 0
        """Tenant queues without any entry."""
        self._times: QueueTimes | None = None
        """Arrivals and deadlines, once someone has asked for them."""

    def push(self, request: Request) -> None:
        """Add a request at its place; it takes this queue's state."""
        levels, samples = self._levels, request.samples
        level = levels.get(request.priority)
        if level is None:
            level = levels.add(request.priority, self._served)
        elif not level.samples and len(levels) > 1:
            levels.awake(level, self._served)
        account = self.tenants.account(request.tenant)
        queue = level.queues.get(account)
        if queue is None:
            queue = level.add_queue(account)
        elif queue.is_empty:
            self._num_empty -= 1
        queue.push(request)
        request.state = self.state
        levels.count(level, samples, 1)
        self.samples += samples
        self.num_bytes += request.num_bytes
        self.num_requests += 1
        self.tenants.enter(account, request)
        if self._times is not None:
            self._times.add(request)

    def head(self) -> Request | None:
        """Return the request that is served next."""
        queue = self._next_queue()
        return None if queue is None else queue.first()

    def pop(self, request: Request) -> None:
        """Take the whole head, given as `request`."""
        account = self.tenants.account(request.tenant)
        queue = self._levels.of(request.priority).queues[account]
        self._pop(queue)
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
                self._pop(queue)
                self._forget(request)
            else:
                self._levels.count(self._levels.of(queue.priority), -samples)
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
            self._num_empty += queue.is_empty
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
        before = self._levels.samples_above(request.priority)
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
        before = self._levels.requests_above(request.priority)
        level = self._levels.get(request.priority)
        queue = level.queues.get(self.tenants.account(request.tenant)) if level else None
        if level is None or queue is None or not queue.is_last(request):
            return before
        return before + level.num_requests if self.tenants.num_active == 1 else before

    def oldest_at(self) -> float:
        """Return when the oldest request was accepted; infinity if there is none."""
        return self._kept_times().oldest_at()

    def earliest_deadline(self) -> float:
        """Return the earliest deadline of all requests; infinity if there is none."""
        return self._kept_times().earliest_deadline()

    def _kept_times(self) -> QueueTimes:
        times = self._times
        if times is None or len(times) > 2 * self.num_requests + _LEAST_CLUTTER:
            times = self._times = QueueTimes(self, self._holds)
        return times

    def __iter__(self) -> Iterator[Request]:
        """Iterate over all requests by priority, then tenant, then urgency; without stale ones."""
        for level in self._levels:
            for queue in level.queues.values():
                yield from filter(self._holds, queue.requests())

    def _next_queue(self) -> TenantQueue | None:
        """Return the tenant queue that is served next; its first request is not stale."""
        while self.samples:
            queue = self._owed_queue() if self.tenants.guaranteed else None
            if queue is None:
                level = self._levels.next(self._served)
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
        level: PriorityLevel | None = self._levels.highest()
        while level is not None:
            while (queue := level.next_shared_queue()) is not None:
                if self._has_first(queue):
                    return queue
            level = self._levels.below(level.priority)
        return None

    def _has_first(self, queue: TenantQueue) -> bool:
        """Drop stale requests at the front of a queue, and the queue if there are no others."""
        request = queue.first()
        if request is None:
            self._num_empty -= 1
        while request is not None:
            if self._holds(request):
                return True
            queue.pop()
            self.num_stale -= 1
            request = queue.first()
        self._drop_queue(queue)
        return False

    def _owed_queue(self) -> TenantQueue | None:
        """Return the most urgent queue of a tenant whose guaranteed share is behind."""
        account = self.tenants.owed()
        if account is None:
            return None
        priority = account.highest()
        if priority is None:
            own = [each.priority for each in self._levels if account in each.queues]
            account.keep_priorities(own)
            priority = max(own)
        return self._levels.of(priority).queues[account]

    def _pop(self, queue: TenantQueue) -> None:
        queue.pop()
        self._num_empty += queue.is_empty

    def _serve(self, queue: TenantQueue, samples: int) -> None:
        """Count the samples that are taken from a tenant queue."""
        if len(self._levels) > 1:
            self._levels.serve(self._levels.of(queue.priority), samples, self._served)
        self._served += samples
        self.tenants.serve(queue.account, samples)

    def _drop_queue(self, queue: TenantQueue) -> None:
        level = self._levels.of(queue.priority)
        level.drop(queue)
        if not level.queues:
            self._levels.remove(level)

    def _compact_if_stale(self) -> None:
        num_requests = self.num_requests
        if self.num_stale <= num_requests and self._num_empty <= num_requests + _LEAST_CLUTTER:
            return
        queues = [queue for level in self._levels for queue in level.queues.values()]
        for queue in queues:
            if not queue.compact(self._holds):
                self._drop_queue(queue)
        self.num_stale = self._num_empty = 0
        self._times = None

    def _holds(self, request: Request) -> bool:
        return request.state is self.state and request.cursor < request.samples

    def _forget(self, request: Request) -> None:
        left = request.samples - request.cursor
        self._levels.count(self._levels.of(request.priority), -left, -1)
        self.samples -= left
        self.num_bytes -= request.num_bytes
        self.num_requests -= 1
        self.tenants.leave(request)

    def check(self) -> None:
        """Assert that a recount confirms every count."""
        here = list(self)
        accounts = {self.tenants.account(each.tenant) for each in here}
        assert self.tenants.num_active == len(accounts), "tenants miscounted"
        self._levels.check()
        for level in self._levels:
            own = [each for each in here if each.priority == level.priority]
            assert level.samples == sum(each.samples - each.cursor for each in own)
            assert level.num_requests == len(own)
        queues = [queue for level in self._levels for queue in level.queues.values()]
        assert self._num_empty == sum(each.is_empty for each in queues), "empty queues miscounted"
        most = 2 * len(here) + _LEAST_CLUTTER
        assert len(queues) <= len(here) + most, "queues of tenants that are gone"
        for account in accounts:
            own = [each for each in here if self.tenants.account(each.tenant) is account]
            assert account.num_requests == len(own)
            assert account.samples == sum(each.samples - each.cursor for each in own)
            assert account.num_bytes == sum(each.num_bytes for each in own)
