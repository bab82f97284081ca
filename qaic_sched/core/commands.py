"""The commands that `SchedulerState.handle` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qaic_sched.core.model import Batch, DeviceNews, Request

__all__ = ["Commands"]


class Commands:
    """Everything that the shell has to do after one call of `handle`."""

    __slots__ = ("close", "dispatch", "news", "reload", "resolve", "unload")

    def __init__(self) -> None:
        self.dispatch: list[Batch] = []
        """Batches to submit, each to its activation, in this order."""
        self.resolve: list[Request] = []
        """Requests whose callers get their result; the request's state says which."""
        self.reload: list[int] = []
        """Devices to close and load again; report `DeviceOpened` or `ReloadFailed`."""
        self.unload: tuple[tuple[int, tuple[int, ...]], ...] = ()
        """Activations to release, by device and indexes; they hold nothing."""
        self.close: tuple[int, ...] = ()
        """Devices to close for good; each still answers the batches that it holds."""
        self.news: tuple[tuple[int, DeviceNews], ...] = ()
        """What this model has learned about devices; post it to the others as `DeviceReported`."""
