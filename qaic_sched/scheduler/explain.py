"""Why a request took as long as it did: what `ScheduledRequest.explain` returns."""

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
"""A part and the batch that it was sent in, one after the other, as often as one was sent.

It is written for every request and read for few. A large request has hundreds: in one list they
cost the garbage collector less than a pair for each.
"""


@dataclass(frozen=True, slots=True)
class PartExplanation:
    """Where `samples` of the request ran, and in which batch: `fill` is 1.0 without padding."""

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
    """What became of a request, where its parts ran, and where its time went, in seconds.

    `parts` are those that were sent to a device, in the order of their samples, each where it was
    answered, or sent last. The four phases are those of the part whose answer ended the request
    and add up to `total_s`: waiting for a device (failed tries included), behind another inference
    of the activation, executing, and on the way back. Where no answer ended it, all its time is
    `queue_s`, or `dispatch_s` since the whole request was with the devices.
    """

    outcome: str
    """"done", "failed", "cancelled", "expired" or "rejected"."""
    problem: str | None
    """What the caller was told instead of outputs, if it was told."""
    parts: tuple[PartExplanation, ...]
    retries: int
    """How many times a part was sent again because a device had failed it."""
    hedges: int
    """How many times one was sent again because a device was late with it."""
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
    answered: Mapping[Part, Batch],
    resolved_at: float,
    error: SchedulerError | None,
) -> Explanation:
    """Explain a resolved request.

    `answered` has the batch that answered each part, where that is not the one that resolved it.
    """
    submissions = _pairs(sent or [])
    hedges = sum(batch.is_hedge for _, batch in submissions)
    batches = {**dict(submissions), **answered}
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
    """Queue, dispatch, execute and resolve; `newest` is the batch that was sent last."""
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
