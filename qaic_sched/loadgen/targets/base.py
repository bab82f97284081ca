"""The interface between a load test and its target."""

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
    """How a request ended, as seen by its caller."""

    DONE = 0
    FAILED = 1
    EXPIRED = 2
    REJECTED = 3
    CANCELLED = 4
    UNRESOLVED = 5
    """No answer by the end of the run: the target has died or hangs."""


@dataclass(slots=True)
class Reply:
    """The target's answer to one request."""

    outcome: Outcome
    outputs: Tensors | None = None
    problem: str | None = None
    """The error, for a request without outputs."""
    inference: Inference | None = None
    """The inference that answered; None if the target does not report it or it was several."""


@dataclass(slots=True)
class DeviceSample:
    """The running totals of every device at one instant, from the target's metrics."""

    at_ns: int
    queued_samples: int
    busy_s: dict[int, float]
    """Device id -> execution time so far, summed over its activations."""
    inferences: dict[int, int]
    """Device id -> inferences so far, including failed ones: `busy_s` includes their time."""


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """Facts about an open target; those that it does not report are 0 or empty."""

    name: str
    inputs: tuple[TensorSpec, ...]
    max_batch_size: int
    is_batched: bool
    activations: Mapping[int, int]
    """Device id -> number of activations."""
    config: Mapping[str, object]
    """The target's configuration, for the report."""


class Target(Protocol):
    """Takes requests and never blocks; used from one event loop, after `open`."""

    async def open(self) -> TargetInfo:
        """Connect, and return the facts; raise `SchedulerError` if the target is not available."""

    def send(self, inputs: Tensors, timeout_s: float | None, done: Callable[[Reply], None]) -> None:
        """Send one request; `done` is called once, from the event loop, for every outcome."""

    def sample(self) -> DeviceSample | None:
        """Return the devices' totals so far, or None if unknown; the caller sets `at_ns`."""

    async def aclose(self) -> None:
        """Close the target, even a broken one; outstanding requests are given up."""
