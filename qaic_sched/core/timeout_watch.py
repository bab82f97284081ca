"""Finds activations whose current batch has taken too long.

An activation that answers in time keeps its place in the heap until its next look is due. The look
then finds it idle, or at a newer batch and due for a later look. So a batch costs one look-up and
no change of the heap.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qaic_sched.core.model import Activation

__all__ = ["UNMEASURED_LIMIT_S", "TimeoutWatch"]

_NEVER: Final = float("inf")
UNMEASURED_LIMIT_S: Final = 60.0
"""The limit of an inference before any execution time was measured."""


class TimeoutWatch:
    """Looks at each busy activation when its time would be up, not at each batch."""

    __slots__ = ("_heap", "_limit_s", "_looks_at", "_sequence", "_soon_s")

    def __init__(self, limit_s: Callable[[Activation], float], soon_s: float = 0.0) -> None:
        self._limit_s = limit_s
        """Returns how many seconds the activation's current batch may take."""
        self._soon_s = soon_s
        """A look that is due within this time of the batch's start is early enough."""
        self._looks_at: dict[Activation, float] = {}
        """When each watched activation is looked at next; a heap entry of another time is stale."""
        self._heap: list[tuple[float, int, Activation]] = []
        """(time, sequence number, activation) of every look, stale ones included."""
        self._sequence = 0
        """Number of the newest entry: equal times keep their order."""

    def add(self, activation: Activation) -> None:
        """Watch the batch that an activation starts now."""
        looks_at = self._looks_at.get(activation, _NEVER)
        if looks_at > activation.busy_since + self._soon_s:
            at = activation.busy_since + self._limit_s(activation)
            if at < looks_at:
                self._look_at(at, activation)

    def __contains__(self, activation: Activation) -> bool:
        """Return whether a look at the activation is planned."""
        return activation in self._looks_at

    def restart(self) -> None:
        """Apply the current limits to all watched activations, shorter ones included."""
        watched, self._looks_at, self._heap = self._looks_at, {}, []
        for activation in sorted(watched, key=lambda each: (each.device_id, each.index)):
            if activation.held:
                self.add(activation)

    def next_at(self) -> float:
        """Return when to call `overdue` at the latest; infinity if nothing is watched."""
        return self._heap[0][0] if self._heap else _NEVER

    def overdue(self, now: float) -> Iterator[Activation]:
        """Yield the activations whose time is up, and stop watching each."""
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
