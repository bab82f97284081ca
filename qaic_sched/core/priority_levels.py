"""The priorities of a queue: which is the highest, which is starved, how much is above another.

Rules of this file:
- Levels are the nodes of a binary tree, ordered by priority, that knows the samples under each
  node. So every question costs a logarithm of the levels, however many priorities are queued.
- The tree is a treap: each level has a weight from a fixed sequence, and no node outweighs its
  parent. The shape depends on the sequence alone, so no choice of priorities makes it deep.
- A level without samples stays until it is removed. It is never the highest and never starved.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Final

from qaic_sched.core.tenant_queue import TenantQueue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qaic_sched.core.tenants import Account

__all__ = ["STARVATION_BOUND", "PriorityLevel", "PriorityLevels"]

STARVATION_BOUND: Final = 50
"""A priority that others pass over gets one sample in this number."""
_LEAST_COMPACT_SIZE: Final = 4
"""Heaps are not compacted below this number of entries."""


class PriorityLevel:
    """Requests of one priority: a queue per tenant, and which tenant is next."""

    __slots__ = (
        "_sequence",
        "_turns",
        "above",
        "higher",
        "lower",
        "num_requests",
        "only",
        "priority",
        "queues",
        "samples",
        "starved_at",
        "total",
        "total_requests",
        "weight",
    )

    def __init__(self, priority: int, starved_at: int, weight: int) -> None:
        self.priority = priority
        """The priority of its requests."""
        self.samples = 0
        """Samples not yet taken, those of stale requests excluded; see `PriorityLevels.count`."""
        self.num_requests = 0
        """Requests; stale ones are not counted."""
        self.starved_at = starved_at
        """Samples served by the whole queue from which on this level is starved."""
        self.queues: dict[Account, TenantQueue] = {}
        """By tenant, queues without requests included."""
        self.only: TenantQueue | None = None
        """The tenant queue if there is exactly one."""
        self._turns: list[tuple[float, int, TenantQueue]] = []
        """A heap with lazy removal: tenant queues by their tenant's clock when that was entered."""
        self._sequence = 0
        """Number of the newest entry: equal clocks take turns."""

        # Its place in the tree.
        self.weight = weight
        """No level outweighs the one above it."""
        self.above: PriorityLevel | None = None
        """The parent."""
        self.lower: PriorityLevel | None = None
        """The child with the lower priorities."""
        self.higher: PriorityLevel | None = None
        """The child with the higher priorities."""
        self.total = 0
        """Samples of the level and of all levels under it."""
        self.total_requests = 0
        """Requests of these."""

    def add_queue(self, account: Account) -> TenantQueue:
        """Make a queue for a tenant that has none."""
        queue = self.queues[account] = TenantQueue(self.priority, account)
        self.only = None if self.only or len(self.queues) > 1 else queue
        self._push_turn(queue)
        account.add_priority(self.priority)
        return queue

    def drop(self, queue: TenantQueue) -> None:
        """Remove a tenant queue without requests."""
        del self.queues[queue.account]
        queue.account.drop_priority(self.priority)
        self.only = next(iter(self.queues.values())) if len(self.queues) == 1 else None
        if len(self._turns) > 2 * len(self.queues) + _LEAST_COMPACT_SIZE:
            own = self.queues
            self._turns = [each for each in self._turns if own.get(each[2].account) is each[2]]
            heapify(self._turns)

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

    def _push_turn(self, queue: TenantQueue) -> None:
        self._sequence += 1
        heappush(self._turns, (queue.account.clock, self._sequence, queue))


class PriorityLevels:
    """The levels of one queue, by priority."""

    __slots__ = ("_by_priority", "_root", "_sequence", "_starving", "_weight")

    def __init__(self) -> None:
        self._by_priority: dict[int, PriorityLevel] = {}
        """Every level, those without samples included."""
        self._root: PriorityLevel | None = None
        """The top of the tree."""
        self._starving: list[tuple[int, int, PriorityLevel]] = []
        """A heap with lazy removal: levels by their `starved_at`, or by an earlier one."""
        self._sequence = 0
        """Number of the newest entry: equals keep their order."""
        self._weight = 1
        """The weight of the newest level."""

    def __len__(self) -> int:
        """Count the levels."""
        return len(self._by_priority)

    def __iter__(self) -> Iterator[PriorityLevel]:
        """Iterate over all levels, the highest first."""
        for priority in sorted(self._by_priority, reverse=True):
            yield self._by_priority[priority]

    def get(self, priority: int) -> PriorityLevel | None:
        """Return the level of a priority, None if there is none."""
        return self._by_priority.get(priority)

    def of(self, priority: int) -> PriorityLevel:
        """Return the level of a priority, which has one."""
        return self._by_priority[priority]

    def add(self, priority: int, served: int) -> PriorityLevel:
        """Make the level of a priority that has none, after `served` samples of the queue."""
        # The multiplier and the increment are Knuth's, for a period of 2 ** 61.
        self._weight = (self._weight * 6364136223846793005 + 1442695040888963407) % 2**61
        level = PriorityLevel(priority, served + STARVATION_BOUND, self._weight)
        if self._root is not None and len(self._by_priority) == 1:
            # Until now there was no other priority that could pass over it.
            self._root.starved_at = max(self._root.starved_at, level.starved_at)
        self._by_priority[priority] = level
        self._enter(level)
        self._watch(level)
        return level

    def remove(self, level: PriorityLevel) -> None:
        """Remove a level without samples."""
        del self._by_priority[level.priority]
        while (child := _heavier(level.lower, level.higher)) is not None:
            self._rotate_up(child)
        above = level.above
        if above is None:
            self._root = None
        elif above.lower is level:
            above.lower = None
        else:
            above.higher = None

    def count(self, level: PriorityLevel, samples: int, requests: int = 0) -> None:
        """Count samples and requests that come to a level, or leave it if negative."""
        level.samples += samples
        level.num_requests += requests
        node: PriorityLevel | None = level
        while node is not None:
            node.total += samples
            node.total_requests += requests
            node = node.above

    def awake(self, level: PriorityLevel, served: int) -> None:
        """Note that a level without samples will have some: nothing has passed over it so far."""
        level.starved_at = max(level.starved_at, served + STARVATION_BOUND)
        self._watch(level)

    def highest(self) -> PriorityLevel:
        """Return the highest level with samples; there is one."""
        assert self._root is not None
        return _highest(self._root)

    def below(self, priority: int) -> PriorityLevel | None:
        """Return the highest level with samples under a priority; None if there is none."""
        found, node = None, self._root
        while node is not None:
            if node.priority >= priority:
                node = node.lower
            else:
                if node.samples or _total(node.lower):
                    found = node
                node = node.higher
        if found is None or found.samples:
            return found
        assert found.lower is not None, "a level lost its samples"
        return _highest(found.lower)

    def next(self, served: int) -> PriorityLevel:
        """Return the level that is served next, after `served` samples; some level has samples."""
        if len(self._by_priority) == 1 and self._root is not None:
            return self._root
        starving = self._starving
        while starving and starving[0][0] <= served:
            at, _, level = starving[0]
            if self._by_priority.get(level.priority) is not level or not level.samples:
                heappop(starving)
            elif level.starved_at > at:
                self._sequence += 1
                heapreplace(starving, (level.starved_at, self._sequence, level))
            else:
                return level
        return self.highest()

    def serve(self, level: PriorityLevel, samples: int, served: int) -> None:
        """Note that a level gives samples, after `served` samples that were served before."""
        was_starved = served >= level.starved_at and level is not self.highest()
        rest = STARVATION_BOUND * (samples if was_starved else 1)
        level.starved_at = max(level.starved_at, served + samples + rest)

    def samples_above(self, priority: int) -> int:
        """Return the samples of all higher priorities."""
        above, node = 0, self._root
        while node is not None:
            if node.priority > priority:
                above += node.total - _total(node.lower)
                node = node.lower
            else:
                node = node.higher
        return above

    def requests_above(self, priority: int) -> int:
        """Return the requests of all higher priorities."""
        above, node = 0, self._root
        while node is not None:
            if node.priority > priority:
                above += node.total_requests - _total_requests(node.lower)
                node = node.lower
            else:
                node = node.higher
        return above

    def _watch(self, level: PriorityLevel) -> None:
        """Find the level once it is starved."""
        self._sequence += 1
        heappush(self._starving, (level.starved_at, self._sequence, level))
        if len(self._starving) > 2 * len(self._by_priority) + _LEAST_COMPACT_SIZE:
            self._starving.clear()
            for each in self._by_priority.values():
                self._sequence += 1
                self._starving.append((each.starved_at, self._sequence, each))
            heapify(self._starving)

    def _enter(self, level: PriorityLevel) -> None:
        """Put a level without samples at its place in the tree."""
        node = self._root
        if node is None:
            self._root = level
            return
        while True:
            child = node.higher if level.priority > node.priority else node.lower
            if child is None:
                break
            node = child
        level.above = node
        if level.priority > node.priority:
            node.higher = level
        else:
            node.lower = level
        # Compiled, `level.above` would be taken for what was assigned to it here.
        above: PriorityLevel | None = node
        while above is not None and above.weight < level.weight:
            above = self._rotate_up(level)

    def _rotate_up(self, node: PriorityLevel) -> PriorityLevel | None:
        """Exchange a node and its parent, in their order; return the new parent."""
        parent = node.above
        assert parent is not None
        top = parent.above
        moved: PriorityLevel | None
        if parent.lower is node:
            moved = node.higher
            parent.lower = moved
            node.higher = parent
        else:
            moved = node.lower
            parent.higher = moved
            node.lower = parent
        if moved is not None:
            moved.above = parent
        node.above = top
        parent.above = node
        if top is None:
            self._root = node
        elif top.lower is parent:
            top.lower = node
        else:
            top.higher = node
        node.total = parent.total
        parent.total = parent.samples + _total(parent.lower) + _total(parent.higher)
        node.total_requests = parent.total_requests
        below = _total_requests(parent.lower) + _total_requests(parent.higher)
        parent.total_requests = parent.num_requests + below
        return top

    def check(self) -> None:
        """Assert that the tree has every level once, in order, with its samples."""
        levels = list(_in_order(self._root))
        assert [each.priority for each in levels] == sorted(self._by_priority)
        for each in levels:
            under = [each.lower, each.higher]
            assert all(child is None or child.above is each for child in under), "a torn tree"
            assert all(child is None or child.weight <= each.weight for child in under)
            assert each.total == each.samples + sum(map(_total, under)), "samples miscounted"
            requests = each.num_requests + sum(map(_total_requests, under))
            assert each.total_requests == requests, "requests miscounted"
        watched = {level for _, _, level in self._starving}
        assert all(each in watched for each in levels if each.samples), "starved unnoticed"


def _total(level: PriorityLevel | None) -> int:
    return 0 if level is None else level.total


def _total_requests(level: PriorityLevel | None) -> int:
    return 0 if level is None else level.total_requests


def _highest(node: PriorityLevel) -> PriorityLevel:
    """Return the highest level with samples in a tree that has some."""
    while True:
        if node.higher is not None and node.higher.total:
            node = node.higher
        elif node.samples:
            return node
        else:
            assert node.lower is not None, "a level lost its samples"
            node = node.lower


def _heavier(one: PriorityLevel | None, other: PriorityLevel | None) -> PriorityLevel | None:
    if one is None or other is None:
        return one or other
    return one if one.weight > other.weight else other


def _in_order(level: PriorityLevel | None) -> Iterator[PriorityLevel]:
    if level is not None:
        yield from _in_order(level.lower)
        yield level
        yield from _in_order(level.higher)
