"""Looks at a target's devices about a hundred times during a run, on a timer of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.loadgen.targets.base import DeviceSample, Target

__all__ = ["Sampler"]

_WANTED = 100
_SHORTEST_S = 0.005


class Sampler:
    """Samples from the beginning to the end, evenly, whatever the run turns out to last.

    It begins with a hundredth of the `expected_s`. Each time it has twice as many samples as are
    wanted, it drops every other and goes half as fast.
    """

    def __init__(
        self, target: Target, clock: Callable[[], float], origin: float, expected_s: float
    ) -> None:
        self.samples: list[DeviceSample] = []
        self._target = target
        self._clock = clock
        self._origin = origin
        self._every_s = max(expected_s / _WANTED, _SHORTEST_S)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Take the first, and go on until `stop`; nothing is taken of a target that tells none."""
        if self.take():
            self._timer = self._loop.call_later(self._every_s, self.start)

    def take(self) -> bool:
        """Take one now; whether there was one to be had."""
        sample = self._target.sample()
        if sample is None:
            return False
        sample.at_ns = round((self._clock() - self._origin) * 1e9)
        self.samples.append(sample)
        if len(self.samples) > 2 * _WANTED:
            del self.samples[1::2]
            self._every_s *= 2
        return True

    def stop(self) -> None:
        """Take no more."""
        if self._timer is not None:
            self._timer.cancel()
