"""Finds activations that have been at one batch for too long, at one heap entry per activation."""

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

    `limit_s(activation)` is how long it may be at what it is at now.
    """

    __slots__ = ("_heap", "_limit_s", "_sequence", "watched")

    def __init__(self, limit_s: Callable[[Activation], float]) -> None:
        self._limit_s = limit_s
        self._heap: list[tuple[float, int, Activation]] = []
        self.watched: set[Activation] = set()
        """Those that will be looked at."""
        self._sequence = 0

    def add(self, activation: Activation) -> None:
        """Watch an activation that has work, if it is not watched already."""
        if activation not in self.watched:
            self.watched.add(activation)
            self._push(activation)

    def restart(self) -> None:
        """Judge those that are watched by their limit of now, be it shorter than it was."""
        watched, self._heap = self.watched, []
        self.watched = {activation for activation in watched if activation.held}
        for activation in sorted(self.watched, key=lambda each: (each.device_id, each.index)):
            self._push(activation)

    def next_at(self) -> float:
        """When to look again; infinite while nobody has work."""
        while self._heap:
            at, _, activation = self._heap[0]
            if activation.held:
                return at
            heappop(self._heap)
            self.watched.discard(activation)
        return _NEVER

    def late(self, now: float) -> Iterator[Activation]:
        """Activations whose time is up; each is then watched no more."""
        while self.next_at() <= now:
            _, _, activation = heappop(self._heap)
            if activation.busy_since + self._limit_s(activation) > now:
                self._push(activation)
            else:
                self.watched.discard(activation)
                yield activation

    def _push(self, activation: Activation) -> None:
        self._sequence += 1
        at = activation.busy_since + self._limit_s(activation)
        heappush(self._heap, (at, self._sequence, activation))
