"""What to do: the value that `SchedulerState.handle` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qaic_sched.core.model import Batch, Request

__all__ = ["Commands"]


@dataclass(slots=True)
class Commands:
    """Submit each batch of `dispatch` to its activation; tell the caller of each in `resolve`.

    The state that a resolved request is in says what to tell. Close each device in `reload`, load
    it anew and say how that ended. Give back the activations in `unload`, by device and indexes:
    they hold nothing. Close each device in `close` for good; it answers what it still holds.
    """

    dispatch: list[Batch] = field(default_factory=list)
    resolve: list[Request] = field(default_factory=list)
    reload: list[int] = field(default_factory=list)
    unload: tuple[tuple[int, tuple[int, ...]], ...] = ()
    close: tuple[int, ...] = ()
