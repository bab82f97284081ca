"""Finds activations that have been at one batch for too long.

Whoever answers in time keeps its place in the heap until its look is due, and is found idle then,
or at something newer and looked at later. So a batch costs a look-up, and no change of the heap.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qaic_sched.core.model import Activation

__all__ = ["Watch"]

_NEVER: Final = float("inf")


class Watch:
    """Activations with work; each is looked at when its time would be up, not at each batch.

    `limit_s(activation)` is how long it may be at what it is at now. A look that is due anyway
    within `soon_s` of its beginning is early enough.
    """

    __slots__ = ("_heap", "_limit_s", "_looks_at", "_sequence", "_soon_s")

    def __init__(self, limit_s: Callable[[Activation], float], soon_s: float = 0.0) -> None:
        self._limit_s = limit_s
        self._soon_s = soon_s
        #: The next look at each; an entry of another time is stale.
        self._looks_at: dict[Activation, float] = {}
        self._heap: list[tuple[float, int, Activation]] = []
        self._sequence = 0

    def add(self, activation: Activation) -> None:
        """Watch what an activation begins now."""
        looks_at = self._looks_at.get(activation, _NEVER)
        if looks_at > activation.busy_since + self._soon_s:
            at = activation.busy_since + self._limit_s(activation)
            if at < looks_at:
                self._look_at(at, activation)

    def __contains__(self, activation: Activation) -> bool:
        """Whether it will be looked at."""
        return activation in self._looks_at

    def restart(self) -> None:
        """Judge those that are watched by their limit of now, be it shorter than it was."""
        watched, self._looks_at, self._heap = self._looks_at, {}, []
        for activation in sorted(watched, key=lambda each: (each.device_id, each.index)):
            if activation.held:
                self.add(activation)

    def next_at(self) -> float:
        """When to look again, or earlier; infinite while nobody is watched."""
        return self._heap[0][0] if self._heap else _NEVER

    def late(self, now: float) -> Iterator[Activation]:
        """Activations whose time is up; each is then watched no more."""
        while self._heap and self._heap[0][0] <= now:
            at, _, activation = heappop(self._heap)
            if self._looks_at.get(activation) != at:
                continue
            del self._looks_at[activation]
            if not activation.held:
                continue
            at = activation.busy_since + self._limit_s(activation)
            if at > now:
                self._look_at(at, activation)
            else:
                yield activation

    def _look_at(self, at: float, activation: Activation) -> None:
        self._looks_at[activation] = at
        self._sequence += 1
        heappush(self._heap, (at, self._sequence, activation))
