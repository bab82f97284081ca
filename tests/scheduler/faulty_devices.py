"""Simulated devices that raise or answer wrongly, for tests of what that costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from qaic_sched.backends.base import OnCompleted
from qaic_sched.backends.sim.backend import SimExecutable
from qaic_sched.scheduler.front import Scheduler
from tests.hosts import expected, rows

__all__ = ["Submit", "change_answers", "check_serves", "raise_in_submit", "raising"]

Submit = Callable[[SimExecutable, int, Mapping[str, object], OnCompleted], None]


def raise_in_submit(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, *, times: int = 1, takes_it: bool = False
) -> None:
    """Have devices raise in their next calls of `submit`, having taken the inference or not."""
    submit = SimExecutable.submit
    left = times

    def raising(self: SimExecutable, activation: int, inputs: Any, on_completed: Any) -> None:
        nonlocal left
        if not left or takes_it:
            submit(self, activation, inputs, on_completed)
        if left:
            left -= 1
            raise error

    monkeypatch.setattr(SimExecutable, "submit", raising)


def change_answers(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any], times: int = 1
) -> None:
    """Have devices answer their next inferences with something else."""
    submit = SimExecutable.submit
    left = times

    def changing(self: SimExecutable, activation: int, inputs: Any, on_completed: Any) -> None:
        def changed(answer: Any, completed_at: float) -> None:
            nonlocal left
            is_changed = left > 0
            left -= is_changed
            on_completed(change(answer) if is_changed else answer, completed_at)

        submit(self, activation, inputs, changed)

    monkeypatch.setattr(SimExecutable, "submit", changing)


async def check_serves(scheduler: Scheduler) -> None:
    """Fail unless the scheduler answers a request of several batches."""
    inputs = rows(11, 5)
    np.testing.assert_array_equal((await scheduler.run(inputs))["mean"], expected(inputs))


def raising(error: Exception) -> Callable[..., Any]:
    """Return a function that raises this error."""

    def raising(*_: Any) -> None:
        raise error

    return raising
