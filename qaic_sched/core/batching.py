"""When a batch closes, and which compiled size it has.

Rules of this file:
- A full batch goes to any activation with a free slot: waiting could not make it better.
- A partial batch goes only to an idle activation. Behind a running inference it would gain no time
  and could take no more samples, so it stays in the queue (late binding).
- While an activation is idle, a partial batch waits for more samples at most `max_queue_delay_s`,
  counted from the arrival of its oldest request. It does not wait if no request can join it: during
  a drain, and while the queue is full.
- It also closes in time for the earliest deadline in it, with a margin for late timers. Before any
  time was measured, a deadline must leave room for a few times the delay, or nothing waits for it.
- A partial batch has the compiled size with the least measured time per sample in it: the smallest
  that holds all samples, padded, or a smaller one that is filled, with the rest in the next batch.
  Ties, and sizes with few measurements, go to the size that holds all.
- With no other activation idle, the rest waits for more samples, which pays only if some will come.
  So the batch holds all samples, padded, if the smaller one would split a request, if a request has
  no time for both batches, or during a drain; unless both end sooner than the one.
- A request whose batch would end after its deadline is dropped if others can take its place: a
  smaller batch that saves it would cost the requests behind it more than it gains (the early-drop
  window). If there are no others, the batch shrinks to save it, if a smaller size can.
- Requests that must not share an inference are batches of their own, which are always full: they
  wait for nothing, and have the smallest compiled size that holds them, or their own size.
- A retry after a failure is late already: it waits neither for more samples nor for an idle
  activation, and this file does not decide about it.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.core.model import Activation, Policy
    from qaic_sched.core.request_queue import RequestQueue

__all__ = ["cheapest_size", "closes_at", "compiled_size", "fitting_size"]

_NEVER: Final = float("inf")
_NOW: Final = float("-inf")
_LEAST_MARGIN_S: Final = 0.002
"""How long before the last moment for its deadline a batch closes, as timers may be late ..."""
_MARGIN_FRACTION: Final = 0.1
"""... and at least this fraction of the likely execute time."""
_UNMEASURED_DELAYS: Final = 3.0
"""An inference is expected to take this many `max_queue_delay_s` before any was measured."""


def closes_at(
    policy: Policy, queued: RequestQueue, activation: Activation, *, can_grow: bool
) -> float:
    """Return when the next batch from `queued` may go to an activation with a free slot.

    `can_grow` says whether more requests can join the queue. Minus infinity is at once, infinity
    is not before something else happens.
    """
    if queued.samples >= policy.batch_sizes[-1]:
        return _NOW
    if activation.in_flight:
        return _NEVER
    if not can_grow or queued.samples >= policy.max_samples:
        return _NOW
    delay_s = policy.max_queue_delay_s
    if not delay_s:
        return _NOW
    closes = queued.oldest_at() + delay_s
    deadline = queued.earliest_deadline()
    if deadline == _NEVER:
        return closes
    size = compiled_size(policy, queued.samples)
    likely_s = activation.speed.group.times.likely_s(size) or _UNMEASURED_DELAYS * delay_s
    margin_s = max(_LEAST_MARGIN_S, _MARGIN_FRACTION * likely_s)
    return min(closes, deadline - likely_s - margin_s)


def compiled_size(policy: Policy, samples: int) -> int:
    """Return the smallest compiled batch size that holds `samples`, or any size if that will do."""
    sizes = policy.batch_sizes
    if samples == sizes[-1] or policy.takes_any_size:
        return samples
    return sizes[bisect_left(sizes, samples)]


def cheapest_size(policy: Policy, samples: int, measured_s: Callable[[int], float | None]) -> int:
    """Return the compiled size, at most the one that holds `samples`, of least time per sample.

    `measured_s(size)` is the execute time of a size, None if it is not known.
    """
    cheapest = compiled_size(policy, samples)
    least_s = measured_s(cheapest)
    if least_s is None:
        return cheapest
    least_s /= samples
    for size in reversed(policy.batch_sizes[: bisect_left(policy.batch_sizes, samples)]):
        seconds = measured_s(size)
        if seconds is not None and seconds / size < least_s:
            cheapest, least_s = size, seconds / size
    return cheapest


def fitting_size(
    policy: Policy, samples: int, seconds: float, expected_s: Callable[[int], float]
) -> int:
    """Return the largest compiled size, at most the one that holds `samples`, within `seconds`.

    Returns 0 if there is none. `expected_s(size)` is the expected execute time of a size.
    """
    largest = bisect_left(policy.batch_sizes, samples)
    for size in reversed(policy.batch_sizes[: largest + 1]):
        if expected_s(size) <= seconds:
            return size
    return 0
