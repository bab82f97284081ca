"""Requests of one priority and one tenant, the earliest deadline first.

A request without a deadline counts as if its deadline came `PATIENCE_S` after its arrival, so that
it cannot wait forever behind requests with deadlines. Equals are served in the order of arrival.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush, merge
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.core.model import Request
    from qaic_sched.core.tenants import Account

__all__ = ["PATIENCE_S", "TenantQueue", "urgency"]

PATIENCE_S: Final = 10.0
"""Seconds after which a request without a deadline is as urgent as one whose deadline is now."""


def urgency(request: Request) -> float:
    """Return the instant by which the requests of one tenant are ordered, the earliest first."""
    deadline = request.deadline
    return request.accepted_at + PATIENCE_S if deadline is None else deadline


def _comes_before(one: Request, other: Request) -> bool:
    ours, theirs = urgency(one), urgency(other)
    return ours < theirs or (ours == theirs and one.id < other.id)


class TenantQueue:
    """A deque, as most requests arrive in the order of urgency, and a heap for the others.

    Removal from the middle is lazy: stale entries stay, and the owner recognizes them.
    """

    __slots__ = ("_early", "account", "in_order", "priority")

    def __init__(self, priority: int, account: Account) -> None:
        self.priority = priority
        """The priority of its requests."""
        self.account = account
        """Its tenant's account, which counts the tenant's requests of other priorities as well."""
        self.in_order: deque[Request] = deque()
        """Requests that arrived in the order of urgency, stale ones included."""
        self._early: list[tuple[float, int, Request]] = []
        """A heap of the requests that were more urgent than one already in `in_order`."""

    @property
    def is_empty(self) -> bool:
        """Whether there is no entry, not even a stale one."""
        return not self.in_order and not self._early

    def push(self, request: Request) -> None:
        """Add a request at its place."""
        in_order = self.in_order
        if not in_order or _comes_before(in_order[-1], request):
            in_order.append(request)
        else:
            heappush(self._early, (urgency(request), request.id, request))

    def first(self) -> Request | None:
        """Return the most urgent request, stale or not."""
        if self._early_is_first():
            return self._early[0][2]
        return self.in_order[0] if self.in_order else None

    def pop(self) -> None:
        """Drop the request that `first` returns."""
        if self._early_is_first():
            heappop(self._early)
        else:
            self.in_order.popleft()

    def _early_is_first(self) -> bool:
        early, in_order = self._early, self.in_order
        return bool(early) and (not in_order or _comes_before(early[0][2], in_order[0]))

    def is_last(self, request: Request) -> bool:
        """Return whether a newcomer would come after all others here."""
        return not self.in_order or urgency(request) >= urgency(self.in_order[-1])

    def compact(self, holds: Callable[[Request], bool]) -> bool:
        """Drop the requests that `holds` is false of; return whether any is left."""
        self.in_order = deque(filter(holds, self.in_order))
        self._early = [entry for entry in self._early if holds(entry[2])]
        heapify(self._early)
        return bool(self.in_order or self._early)

    def requests(self) -> list[Request]:
        """Return all requests in the order of service, stale ones included."""
        early = [request for _, _, request in sorted(self._early)]
        return list(merge(self.in_order, early, key=lambda each: (urgency(each), each.id)))
