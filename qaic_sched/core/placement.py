"""The choice of the activation that gets the next batch.

Rules of this file:
- A batch goes to an idle activation if there is one: of the fastest group first, and in a group to
  the longest idle one.
- With none idle, it is committed behind the inference that is expected to end first, but not before
  that is about to end: late enough that no other activation is likely to be free much sooner, early
  enough that the activation does not idle during the host's turnaround. With work for every
  activation, it is committed at once.
- Where times vary too much to predict an end, it is committed once a quarter as many batches are
  queued as there are activations, behind an inference that is not yet overdue: an overdue one is
  expected to take longest from now.
- No activation holds more batches than keep it at work during the host's turnaround, whatever
  `set_size` allows: another activation may be free before it has answered them.
- A slower device gets a batch only if it is expected to finish it before the faster devices could,
  after all that is queued ahead. So a slow device gets its share, and no less under load. It also
  gets one now and then, or nothing would show that it has become faster.
- Equal activations take turns, and the choice depends on the events alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qaic_sched.core.model import Activation
    from qaic_sched.core.slot_ledger import SlotLedger

__all__ = ["choose", "choose_elsewhere", "has_faster", "least_loaded"]

_NEVER: Final = float("inf")
_SPILL_FRACTION: Final = 0.49
"""A slow device is used once waiting for a faster one takes this fraction of the slow device's
time. That is below 1, as a batch taken off the queue also shortens the wait of those behind it."""
_EAGER_BATCHES: Final = 0.5
"""With this many full batches queued per activation, one is committed behind each at once ..."""
_EAGER_BATCHES_IRREGULAR: Final = 0.25
"""... and with this many where times vary a lot: there, waiting shows nothing."""
_UNUSED_EXECUTE_TIMES: Final = 200.0
"""A slow group is tried again after this many of its mean execution times without work."""


def choose(
    ledger: SlotLedger, now: float, size: int, batches: int
) -> tuple[Activation | None, float]:
    """Return the activation that should get a batch of this size now, or None and when to ask.

    `batches` is the number of full batches queued; with 0, only an idle activation is chosen. The
    time is when an activation may be chosen even if nothing happens until then, or infinity. It
    means nothing if there is an activation. The call changes nothing.
    """
    try_again_at = _NEVER
    groups, set_size = ledger.speeds.groups, ledger.set_size
    if groups and groups[0].idle:
        return next(iter(groups[0].idle)), try_again_at
    rate = fastest_s = waiting_s = 0.0
    for group in groups:
        mean_s = group.times.mean_s(size)
        if rate:
            is_unused = now - group.used_at > _UNUSED_EXECUTE_TIMES * mean_s
            waiting_s = fastest_s + max(batches, 1) / rate
            if _SPILL_FRACTION * mean_s > waiting_s and not is_unused:
                break
        else:
            fastest_s = mean_s
        if group.idle:
            return next(iter(group.idle)), try_again_at
        if batches:
            # Before anything was measured no activation has an expected time to be overdue by.
            overdue_at = now - group.grace_s(mean_s) if mean_s else -_NEVER
            activation = group.soonest(min(set_size, group.depth(mean_s)), overdue_at)
            if activation is not None and (
                not rate or _SPILL_FRACTION * (activation.free_at - now + mean_s) <= waiting_s
            ):
                ready_at = group.ready_at(activation, mean_s)
                is_regular = group.is_regular(mean_s)
                eager_batches = _EAGER_BATCHES if is_regular else _EAGER_BATCHES_IRREGULAR
                is_eager = batches >= eager_batches * group.num_activations
                if ready_at <= now or (is_eager and activation.in_flight == 1):
                    return activation, try_again_at
                try_again_at = min(try_again_at, ready_at)
        if not mean_s:
            break
        rate += group.num_activations / mean_s
    return None, try_again_at


def has_faster(ledger: SlotLedger, activation: Activation) -> bool:
    """Return whether a faster group than the activation's is in use."""
    return activation.speed.group is not ledger.speeds.groups[0]


def choose_elsewhere(ledger: SlotLedger, avoid: int) -> Activation | None:
    """Return the least loaded activation with a free slot on another device than `avoid`.

    If no other device is usable, that is one of `avoid` itself.
    """
    able = ledger.with_room()
    elsewhere = least_loaded(able, avoid)
    others = (each for each in ledger if each.device_id != avoid)
    if elsewhere is not None or any(not each.is_parked for each in others):
        return elsewhere
    return least_loaded(able)


def least_loaded(able: Iterable[Activation], avoid: int | None = None) -> Activation | None:
    """Return the activation that holds least, then is free first, on a device but `avoid`."""
    others = (each for each in able if each.device_id != avoid)
    return min(others, key=lambda each: (each.in_flight, each.free_at), default=None)
