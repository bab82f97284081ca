"""Hedges: which activations are late, and whether a hedge may be sent.

Rules of this file:
- A batch is late once it has run for `hedge_after` mean execute times. A delay below a few
  milliseconds may be the host's, which a hedge does not cure.
- A batch that ran while the event loop stood still is late once it takes that long from the end of
  the stall on.
- Hedges stay within their budget, a fraction of all inferences.
- With a crowded queue there are no hedges: the time that they take is missing to more requests than
  they help.

`recovery` sends the hedges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qaic_sched.core.timeout_watch import UNMEASURED_LIMIT_S

if TYPE_CHECKING:
    from qaic_sched.core.model import Activation, Batch, Part, Policy

__all__ = ["LEAST_LATE_S", "Hedging"]

_NEVER: Final = float("inf")
LEAST_LATE_S: Final = 0.010
"""A batch is never late before this time."""
_CROWDED_BATCHES: Final = 2.0
"""With more full batches queued per activation, the queue is crowded: one more inference delays
each queued request a little, together by more than this number of mean execute times."""


class Hedging:
    """The budget for hedges, and the late activations that still need one."""

    __slots__ = ("_policy", "is_crowded", "num_hedges", "stalled_until", "unhedged")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        """The policy in force."""
        self.num_hedges = 0
        """Hedges ever sent; a policy with a smaller budget reduces it to that budget."""
        self.unhedged: list[Activation] = []
        """Late activations with parts that could not be hedged yet."""
        self.stalled_until = -_NEVER
        """When the event loop last ended to stand still: no batch is late for the time before."""
        self.is_crowded = False
        """Whether the queue was crowded when hedges were last considered."""

    def change(self, policy: Policy, num_batches: int) -> None:
        """Follow another policy after `num_batches` inferences."""
        self._policy = policy
        # Hedges beyond the new budget do not count against those to come.
        self.num_hedges = min(self.num_hedges, int(policy.hedge_max_extra * num_batches))

    def limit_s(self, activation: Activation) -> float:
        """Return after how many seconds the batch that an activation runs is late."""
        after = self._policy.hedge_after
        if after is None:
            return UNMEASURED_LIMIT_S
        batch = activation.held[0]
        # A batch sent before anything was measured is judged by what has been measured since.
        expected_s = batch.expected_s or activation.speed.group.times.mean_s(batch.size)
        if not expected_s:
            return UNMEASURED_LIMIT_S
        limit_s = max(after * expected_s, LEAST_LATE_S)
        if activation.busy_since < self.stalled_until:
            limit_s += self.stalled_until - activation.busy_since
        return limit_s

    def is_late(self, activation: Activation, now: float) -> bool:
        """Return whether an activation runs a batch that is late."""
        if not activation.held:
            return False
        return activation.busy_since + self.limit_s(activation) <= now

    def has_budget(self, num_batches: int) -> bool:
        """Return whether one more hedge fits the budget of `num_batches` inferences."""
        return self.num_hedges < self._policy.hedge_max_extra * num_batches

    def may_hedge(self, batches_queued: float, num_live: int, num_batches: int) -> bool:
        """Consider hedges: return whether the queue is not crowded and the budget has room."""
        self.is_crowded = batches_queued > _CROWDED_BATCHES * num_live
        return not self.is_crowded and self.has_budget(num_batches)

    def parts_to_hedge(self, batch: Batch) -> list[Part]:
        """Return the parts of a batch that are in flight once, and that a caller waits for."""
        parts = [each for each in batch.parts if each.copies == 1 and not each.is_settled]
        return [each for each in parts if not each.request.is_resolved]

    def check(self, num_batches: int) -> None:
        """Assert that no more hedges were sent than the budget allows."""
        assert self.num_hedges <= 1 + self._policy.hedge_max_extra * num_batches, "too many hedges"
