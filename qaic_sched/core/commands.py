"""What to do: the value that `SchedulerState.handle` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qaic_sched.core.model import Batch, Request

__all__ = ["Commands"]


class Commands:
    """Submit each batch of `dispatch` to its activation; tell the caller of each in `resolve`.

    The state that a resolved request is in says what to tell. Close each device in `reload`, load
    it anew and say how that ended. Give back the activations in `unload`, by device and indexes:
    they hold nothing. Close each device in `close` for good; it answers what it still holds.
    """

    __slots__ = ("close", "dispatch", "reload", "resolve", "unload")

    def __init__(self) -> None:
        self.dispatch: list[Batch] = []
        self.resolve: list[Request] = []
        self.reload: list[int] = []
        self.unload: tuple[tuple[int, tuple[int, ...]], ...] = ()
        self.close: tuple[int, ...] = ()
