"""Requests of one priority and one tenant: the earliest deadline first.

One without a deadline stands where it would with `PATIENCE_S`: so nobody waits for ever behind
those who are in a hurry. Equals are served as they came.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, TypeAlias

from qaic_sched.core.model import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.core.tenants import Account

__all__ = ["PATIENCE_S", "Line", "urgency"]

PATIENCE_S = 10.0
"""Seconds after which a request without a deadline is as urgent as one whose deadline is now."""

_Entry: TypeAlias = "tuple[float, int, Request]"


def urgency(request: Request) -> float:
    """What requests of one line are served by, the least first."""
    deadline = request.deadline
    return request.accepted_at + PATIENCE_S if deadline is None else deadline


class Line:
    """Most requests come in the order of urgency: only the others need a heap.

    Leaving from the middle is lazy: whoever owns the line tells stale entries from others.
    """

    __slots__ = ("account", "early", "late", "priority")

    def __init__(self, priority: int, account: Account) -> None:
        self.priority = priority
        self.account = account
        #: In the order of urgency, as they came.
        self.late: deque[_Entry] = deque()
        #: A heap of those that came when a less urgent one stood in `late` already.
        self.early: list[_Entry] = []

    def push(self, request: Request) -> None:
        """Bring a request in at its place."""
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

    def is_last(self, request: Request) -> bool:
        """Whether a newcomer would stand behind all others here."""
        return not self.late or urgency(request) >= self.late[-1][0]

    def compact(self, holds: Callable[[Request], bool]) -> bool:
        """Drop the stale entries; whether any entry is left."""
        self.late = deque(entry for entry in self.late if holds(entry[2]))
        self.early = [entry for entry in self.early if holds(entry[2])]
        heapify(self.early)
        return bool(self.late or self.early)

    def entries(self) -> list[_Entry]:
        """All entries in the order of service, stale ones included."""
        return sorted((*self.late, *self.early))
