"""Explains where the time of a request went: the result of `ScheduledRequest.explain`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

from qaic_sched.core.model import RequestState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qaic_sched.core.model import Batch, Part, Request
    from qaic_sched.errors import SchedulerError

__all__ = ["Explanation", "PartExplanation", "Sent", "explain"]

Sent: TypeAlias = "list[Part | Batch]"
"""Every part that was sent and its batch, alternating, in the order of sending.

It is written for every request and read for few. A large request has hundreds of them: one flat
list costs the garbage collector less than a list of pairs.
"""


@dataclass(frozen=True, slots=True)
class PartExplanation:
    """Where `samples` of the request ran; `fill` is the share of the batch that is not padding."""

    device_id: int
    activation: int
    batch_size: int
    fill: float
    samples: int

    def __str__(self) -> str:
        return (
            f"{self.samples} samples on device {self.device_id}, activation {self.activation}, "
            f"in a batch of {self.batch_size} ({self.fill:.0%} full)"
        )


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a request ended, where its parts ran, and where its time went, in seconds.

    `parts` has every part that was sent, in the order of the samples, with the device that answered
    it, or otherwise the last device it was sent to. The four phases add up to `total_s`. They are
    those of the part whose answer ended the request:

    - `queue_s`: waiting for a device, failed attempts included;
    - `dispatch_s`: on the device, waiting behind another inference of the activation;
    - `execute_s`: executing;
    - `resolve_s`: from the device's answer to the caller.

    If no answer ended the request, all its time is `queue_s` until the last of its samples was
    sent, and `dispatch_s` after that.
    """

    outcome: str
    """"done", "failed", "cancelled", "expired" or "rejected"."""
    problem: str | None
    """The message of the request's error; None if there is none."""
    parts: tuple[PartExplanation, ...]
    retries: int
    """The number of times that a part was sent again after a failure."""
    hedges: int
    """The number of times that a part was sent to a second device because the first was late."""
    queue_s: float
    dispatch_s: float
    execute_s: float
    resolve_s: float
    total_s: float

    def __str__(self) -> str:
        return "\n  ".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield (
            f"{self.outcome} in {_ms(self.total_s)}: queue {_ms(self.queue_s)}, dispatch "
            f"{_ms(self.dispatch_s)}, execute {_ms(self.execute_s)}, resolve {_ms(self.resolve_s)}"
        )
        if self.problem is not None:
            yield self.problem
        yield from map(str, self.parts)
        if self.retries or self.hedges:
            yield f"retries: {self.retries}, hedges: {self.hedges}"


def explain(
    request: Request,
    sent: Sent | None,
    completed_by: Mapping[Part, Batch],
    resolved_at: float,
    error: SchedulerError | None,
) -> Explanation:
    """Explain a resolved request.

    `completed_by` has the batch that answered each part; a request of one part does not need it.
    """
    submissions = _pairs(sent or [])
    hedges = sum(batch.is_hedge for _, batch in submissions)
    batches = {**dict(submissions), **completed_by}
    last = request.last_batch
    if last is not None and len(batches) == 1:
        batches = dict.fromkeys(batches, last)
    return Explanation(
        request.state.value,
        None if error is None else str(error),
        tuple(_part(part, batches[part]) for part in sorted(batches, key=lambda each: each.offset)),
        len(submissions) - hedges - len(batches),
        hedges,
        *_phases(request, submissions[-1][1] if submissions else None, resolved_at),
        resolved_at - request.accepted_at,
    )


def _pairs(sent: Sent) -> list[tuple[Part, Batch]]:
    return cast("list[tuple[Part, Batch]]", list(zip(sent[::2], sent[1::2], strict=True)))


def _part(part: Part, batch: Batch) -> PartExplanation:
    activation = batch.activation
    return PartExplanation(
        activation.device_id,
        activation.index,
        batch.size,
        batch.samples / batch.size,
        part.samples,
    )


def _phases(
    request: Request, newest: Batch | None, resolved_at: float
) -> tuple[float, float, float, float]:
    """Return queue, dispatch, execute and resolve; `newest` is the batch that was sent last."""
    accepted_at, last = request.accepted_at, request.last_batch
    if last is not None and not last.is_abandoned:
        return (
            last.submitted_at - accepted_at,
            last.started_at - last.submitted_at,
            last.completed_at - last.started_at,
            resolved_at - last.completed_at,
        )
    is_queued = request.cursor < request.samples or _lacks_devices(request)
    with_devices_at = resolved_at if newest is None or is_queued else newest.submitted_at
    return (with_devices_at - accepted_at, resolved_at - with_devices_at, 0.0, 0.0)


def _lacks_devices(request: Request) -> bool:
    return request.state is RequestState.FAILED and request.last_batch is None


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3f} ms"
