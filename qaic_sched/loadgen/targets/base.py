"""The seam to what is measured: a scheduler in this process, or a server."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from qaic_sched.scheduler.api import Inference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qaic_sched.program import Tensors, TensorSpec

__all__ = ["DeviceSample", "Inference", "Outcome", "Reply", "Target", "TargetInfo"]


class Outcome(IntEnum):
    """What became of a request, as its caller saw it."""

    DONE = 0
    FAILED = 1
    EXPIRED = 2
    REJECTED = 3
    CANCELLED = 4
    UNRESOLVED = 5
    """No answer until the run gave up: the target died, or hangs."""


@dataclass(slots=True)
class Reply:
    """What a target says of one request."""

    outcome: Outcome
    outputs: Tensors | None = None
    problem: str | None = None
    """What the caller was told instead of outputs."""
    inference: Inference | None = None
    """Where it ran; None from targets that do not tell, and where it ran in several."""


@dataclass(slots=True)
class DeviceSample:
    """The running totals of every device at one instant, from the target's own metrics."""

    at_ns: int
    queued_samples: int
    busy_s: dict[int, float]
    """Execute time by device so far, summed over its activations."""
    inferences: dict[int, int]
    """Inferences that ran by device so far, failed ones included: `busy_s` has their time too."""


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
