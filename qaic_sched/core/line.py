"""Requests of one priority and one tenant: the earliest deadline first.

One without a deadline stands where it would with `PATIENCE_S`: so nobody waits for ever behind
those who are in a hurry. Equals are served as they came.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush, merge
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.core.model import Request
    from qaic_sched.core.tenants import Account

__all__ = ["PATIENCE_S", "Line", "urgency"]

PATIENCE_S: Final = 10.0
"""Seconds after which a request without a deadline is as urgent as one whose deadline is now."""


def urgency(request: Request) -> float:
    """What requests of one line are served by, the least first."""
    deadline = request.deadline
    return request.accepted_at + PATIENCE_S if deadline is None else deadline


def _comes_before(one: Request, other: Request) -> bool:
    ours, theirs = urgency(one), urgency(other)
    return ours < theirs or (ours == theirs and one.id < other.id)


class Line:
    """Most requests come in the order of urgency: only the others need a heap.

    Leaving from the middle is lazy: whoever owns the line tells stale entries from others.
    """

    __slots__ = ("_early", "account", "late", "priority")

    def __init__(self, priority: int, account: Account) -> None:
        self.priority = priority
        self.account = account
        #: In the order of urgency, as they came.
        self.late: deque[Request] = deque()
        #: A heap of those that came when a less urgent one stood in `late` already.
        self._early: list[tuple[float, int, Request]] = []

    def push(self, request: Request) -> None:
        """Bring a request in at its place."""
        late = self.late
        if not late or _comes_before(late[-1], request):
            late.append(request)
        else:
            heappush(self._early, (urgency(request), request.id, request))

    def first(self) -> Request | None:
        """The most urgent request, stale or not."""
        if self._early_is_first():
            return self._early[0][2]
        return self.late[0] if self.late else None

    def pop(self) -> None:
        """Drop what `first` gives."""
        if self._early_is_first():
            heappop(self._early)
        else:
            self.late.popleft()

    def _early_is_first(self) -> bool:
        early, late = self._early, self.late
        return bool(early) and (not late or _comes_before(early[0][2], late[0]))

    def is_last(self, request: Request) -> bool:
        """Whether a newcomer would stand behind all others here."""
        return not self.late or urgency(request) >= urgency(self.late[-1])

    def compact(self, holds: Callable[[Request], bool]) -> bool:
        """Drop the stale entries; whether any is left."""
        self.late = deque(filter(holds, self.late))
        self._early = [entry for entry in self._early if holds(entry[2])]
        heapify(self._early)
        return bool(self.late or self._early)

    def requests(self) -> list[Request]:
        """All in the order of service, stale ones included."""
        early = [request for _, _, request in sorted(self._early)]
        return list(merge(self.late, early, key=lambda each: (urgency(each), each.id)))
