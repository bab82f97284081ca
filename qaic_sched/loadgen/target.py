"""The seam to what is measured: a scheduler in this process, or a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qaic_sched.loadgen.records import DeviceSample, Reply
    from qaic_sched.program import Tensors, TensorSpec

__all__ = ["Target", "TargetInfo"]


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """What is known of a target once it is open; what it does not tell is 0 or empty."""

    name: str
    inputs: tuple[TensorSpec, ...]
    max_batch_size: int
    is_batched: bool
    activations: Mapping[int, int]
    """By device, how many activations it runs."""
    config: Mapping[str, object]
    """What it was configured with, for the report."""


class Target(Protocol):
    """Takes requests, never blocks. `open` first; all methods belong to one event loop."""

    async def open(self) -> TargetInfo:
        """Get ready; `SchedulerError` with one clear sentence if it is not there."""

    def send(self, inputs: Tensors, timeout_s: float | None, done: Callable[[Reply], None]) -> None:
        """Send one request; `done` is called once, from the loop, whatever becomes of it."""

    def sample(self) -> DeviceSample | None:
        """What the devices have done so far; None if it does not tell. `at_ns` is the caller's."""

    async def aclose(self) -> None:
        """Let go of it, also when it is broken; requests that are out are given up."""
