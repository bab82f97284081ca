"""Simulated hosts for the tests of what stands on backends."""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from qaic_sched.core.invariants import check_invariants

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from qaic_sched.core.commands import Commands
    from qaic_sched.core.events import Event
    from qaic_sched.core.state import SchedulerState
    from qaic_sched.scheduler.front import Scheduler

    Handle = Callable[[float, Sequence[Event]], Commands]

__all__ = ["check_after_every_event", "expected", "host", "replace_handle", "rows"]


def host(folder: Path, *, batch: int = 8, **changes: Any) -> str:
    """Write a host of one simulated device, 10 ms an inference, with `changes`; give its path."""
    spec = {
        "inputs": {"data": {"shape": [batch, 4], "dtype": "float32"}},
        "outputs": {"mean": {"shape": [batch, 2], "dtype": "float32"}},
        "service_time_s": 0.010,
        "devices": 1,
        **changes,
    }
    path = folder / "host.sim.yaml"
    path.write_text(yaml.safe_dump(spec))
    return str(path)


def rows(count: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Inputs of so many random rows."""
    return {"data": np.random.default_rng(seed).random((count, 4), dtype=np.float32)}


def expected(inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """What a simulated card answers: each row's mean, in both columns."""
    means = inputs["data"].astype(np.float64).mean(axis=1).astype(np.float32)
    return np.repeat(means[:, None], 2, axis=1)


class _OtherHandle:
    """Stands before a core, with another `handle`."""

    def __init__(self, core: SchedulerState, handle: Handle) -> None:
        self._core = core
        self.handle = handle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)


def replace_handle(scheduler: Scheduler, handle: Handle) -> None:
    """From here on, an open scheduler calls this for the `handle` of its core."""
    assert scheduler._shell is not None
    core = scheduler._shell.core
    scheduler._shell.core = _OtherHandle(core, handle)  # type: ignore[assignment]


def check_after_every_event(scheduler: Scheduler) -> None:
    """From here on, an open scheduler's core checks all its rules after each call of `handle`.

    Not where it is compiled: there nothing can stand before it.
    """
    assert scheduler._shell is not None
    core = scheduler._shell.core
    if not isinstance(type(core).handle, FunctionType):
        return

    def checked(now: float, events: Sequence[Event] = ()) -> Commands:
        commands = core.handle(now, events)
        check_invariants(core)
        return commands

    replace_handle(scheduler, checked)
