"""When a batch closes, and of which compiled size it is.

Rules of this file:
- A full batch goes to any activation with a free slot: nothing could make it better.
- A partial batch goes only to an idle activation. Behind a running inference it would gain no
  time and lose the company that arrives meanwhile, so it stays unbound (late binding).
- While an activation is idle, a partial batch waits for company at most `max_queue_delay_s`,
  counted from the arrival of its oldest request. It does not wait where nobody can join: during a
  drain, and while the queue is full.
- A partial batch is of the compiled size that costs least per sample in it, as measured: the
  smallest that holds all, padded, or a smaller one, filled, and the rest goes next. Ties, and
  sizes that were hardly measured yet, are for the one that holds all.
- With no other activation idle the rest waits, for new company: that pays where there will be some.
  So there a request at the front is not cut in two to save padding, nor is anybody kept waiting
  who has no time for both, or when nobody can join; unless both are done sooner than the one.
- A request that its batch would be done too late for is dropped, if there is another to take its
  place: to save it with a smaller batch would cost those behind it more than it gains (the
  early-drop window). Where there is none, the batch is shrunk to save it, if a smaller one can.
- What is tried again after a failure is late already: it waits for nobody and for no idle
  activation, and is not decided here.
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


def closes_at(
    policy: Policy, queued: RequestQueue, activation: Activation, *, can_grow: bool
) -> float:
    """When the next batch from `queued` may go to the least loaded activation with a free slot.

    `can_grow` False says that nobody can join the queue. Minus infinity is at once, infinity not
    before something else happens.
    """
    if queued.samples >= policy.batch_sizes[-1]:
        return _NOW
    if activation.in_flight:
        return _NEVER
    if not can_grow or queued.samples >= policy.max_samples:
        return _NOW
    return queued.oldest_at() + policy.max_queue_delay_s


def compiled_size(policy: Policy, samples: int) -> int:
    """The smallest compiled batch size that holds so many samples."""
    sizes = policy.batch_sizes
    if samples == sizes[-1]:
        return samples
    return sizes[bisect_left(sizes, samples)]


def cheapest_size(policy: Policy, samples: int, measured_s: Callable[[int], float | None]) -> int:
    """The compiled size, at most the one that holds `samples`, with the least time per sample.

    `measured_s(size)` is how long an inference of a size takes, None where that is not known.
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
    """The largest compiled size, at most the one that holds `samples`, done within `seconds`.

    0 where none is. `expected_s(size)` is how long an inference of a size is expected to take.
    """
    largest = bisect_left(policy.batch_sizes, samples)
    for size in reversed(policy.batch_sizes[: largest + 1]):
        if expected_s(size) <= seconds:
            return size
    return 0
