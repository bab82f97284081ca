"""Samples a target's devices about a hundred times during a run, by a timer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.loadgen.targets.base import DeviceSample, Target

__all__ = ["Sampler"]

_SAMPLES_WANTED = 100
_MIN_INTERVAL_S = 0.005


class Sampler:
    """Takes samples at equal intervals, however long the run lasts.

    The first interval is a hundredth of `expected_s`. When there are twice as many samples as
    wanted, every other one is dropped and the interval is doubled.
    """

    def __init__(
        self, target: Target, clock: Callable[[], float], origin: float, expected_s: float
    ) -> None:
        self.samples: list[DeviceSample] = []
        self._target = target
        self._clock = clock
        self._origin = origin
        self._every_s = max(expected_s / _SAMPLES_WANTED, _MIN_INTERVAL_S)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Take samples until `stop`; none from a target that has no metrics."""
        if self.take():
            self._timer = self._loop.call_later(self._every_s, self.start)

    def take(self) -> bool:
        """Take a sample now; return whether the target had one."""
        sample = self._target.sample()
        if sample is None:
            return False
        sample.at_ns = round((self._clock() - self._origin) * 1e9)
        self.samples.append(sample)
        if len(self.samples) > 2 * _SAMPLES_WANTED:
            del self.samples[1::2]
            self._every_s *= 2
        return True

    def stop(self) -> None:
        """Stop taking samples."""
        if self._timer is not None:
            self._timer.cancel()
