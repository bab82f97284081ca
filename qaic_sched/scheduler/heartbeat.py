"""A heartbeat of the event loop, which shows that the loop stood still.

The process may be stopped (SIGSTOP, `docker pause`, a suspended machine), or a caller's code may
block the loop. Then a timer fires much later than it is due. The heart beats only while devices
hold something, and never in virtual time, where every timer fires when it is due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["Heartbeat"]

_NEVER: Final = float("inf")
_PERIOD_S: Final = 0.05
"""Seconds between two beats."""
_LATE_S: Final = 0.02
"""How late a beat must be to show a stall: far above the usual lag of a loop."""
_LEAST_PERIOD_S: Final = 0.002
"""The shortest period, twice the coarsest resolution of an event loop's timers."""
_BEATS_PER_LIMIT: Final = 8
"""With a shorter limit of an inference, the heart beats this often within it."""


class Heartbeat:
    """Belongs to one event loop's thread. Ask `late_at` before anything is decided by the clock.

    `on_late` is called if a beat is late and nobody has asked. `is_needed` says whether devices
    hold something, `limit_s` after how many seconds an inference is stuck, if that is configured.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        on_late: Callable[[], None],
        is_needed: Callable[[], bool],
        limit_s: Callable[[], float | None],
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._on_late = on_late
        self._is_needed = is_needed
        self._limit_s = limit_s
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = _NEVER
        self.is_running = False
        """Whether the next beat is planned."""
        self.late_at = _NEVER
        """The loop stood still if the clock is past this time; call `take_stall` then."""

    def start(self) -> None:
        """Beat until it is no longer needed."""
        self.is_running = True
        self._plan(self._clock())
        self._timer = self._loop.call_at(self._due_at, self._beat)

    def take_stall(self, now: float) -> float:
        """Return how long the loop stood still up to now, and expect the next beat from now on."""
        stalled_s = now - self._due_at
        self._plan(now)
        return stalled_s

    def stop(self) -> None:
        """Stop beating; idempotent."""
        self.is_running = False
        self.late_at = _NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _plan(self, now: float) -> None:
        limit_s, period_s = self._limit_s(), _PERIOD_S
        if limit_s is not None and limit_s < _BEATS_PER_LIMIT * _PERIOD_S:
            period_s = max(limit_s / _BEATS_PER_LIMIT, _LEAST_PERIOD_S)
        self._due_at = now + period_s
        self.late_at = self._due_at + min(period_s, _LATE_S)

    def _beat(self) -> None:
        now = self._clock()
        if now > self.late_at:
            self._on_late()
        if self._is_needed():
            self._plan(now)
            self._timer = self._loop.call_at(self._due_at, self._beat)
        else:
            self.stop()
