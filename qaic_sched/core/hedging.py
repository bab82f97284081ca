"""Hedges: which activations are late, and whether a hedge may be sent.

Rules of this file:
- A batch is late once it has run for `hedge_after` mean execute times. A delay below a few
  milliseconds may be the host's, which a hedge does not cure.
- A batch that ran while the event loop stood still is late once it takes that long from the end of
  the stall on.
- Hedges stay within their budget, a fraction of all inferences.
- A hedge takes capacity that nothing waits for: more activations are idle than batches are queued,
  and some to spare for the requests that come next.
- Where a late batch is rare and then takes long, something is wrong with its inference: there it is
  hedged ahead of the queue, unless the queue is crowded.

`recovery` sends the hedges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qaic_sched.core.timeout_watch import UNMEASURED_LIMIT_S

if TYPE_CHECKING:
    from qaic_sched.core.model import Activation, Batch, Part, Policy

__all__ = ["LEAST_LATE_S", "Hedging", "Lateness"]

_NEVER: Final = float("inf")
LEAST_LATE_S: Final = 0.010
"""A batch is never late before this time."""
_CROWDED_BATCHES: Final = 2.0
"""With more full batches queued per activation, the queue is crowded: one more inference delays
each queued request a little, together by more than this number of mean execution times ..."""
_HEDGE_COST: Final = 2.0
"""... or by more than the hedge gains: the time that the late batch still takes, less that of its
second inference and of the one that another batch could have had instead."""
_SPARE_FRACTION: Final = 0.25
"""Fraction of the activations that stays idle beside those that queued batches need: with fewer, a
hedge would delay the requests that arrive while it runs."""
_LATENESS_WEIGHT: Final = 0.05
"""Weight of the newest late batch in the running means."""
_LEAST_LATE_COUNT: Final = 4
"""Late batches before anything is concluded from them."""


class Lateness:
    """How often batches are late, and how long a late batch still takes: the value of a hedge.

    Learns from the answers of late batches only, so all others cost nothing.
    """

    __slots__ = ("_batches_between", "_count", "_last", "_overtime")

    def __init__(self) -> None:
        self._count = 0
        """Late batches that were answered."""
        self._overtime = 0.0
        """Running mean of the time from being late to the answer, in mean execution times."""
        self._batches_between = 0.0
        """Running mean of the batches from one late one to the next."""
        self._last = 0
        """Batches ever dispatched when the last late one was answered."""

    def record(self, overtime: float, num_batches: int) -> None:
        """Learn from a late batch that took `overtime` mean execution times too long."""
        self._count += 1
        weight = max(1 / self._count, _LATENESS_WEIGHT)
        self._overtime += weight * (overtime - self._overtime)
        self._batches_between += weight * (num_batches - self._last - self._batches_between)
        self._last = num_batches

    def expected_overtime(self, share: float, num_batches: int) -> float:
        """Return how long a late batch still takes, in mean execution times; infinite if unknown.

        0 if more than this share of the batches is late: then times vary, and nothing is wrong.
        """
        if self._count < _LEAST_LATE_COUNT:
            return float("inf")
        between = max(self._batches_between, num_batches - self._last)
        return self._overtime if between * share >= 1 else 0.0


class Hedging:
    """The budget for hedges, and the late activations that still need one."""

    __slots__ = ("_policy", "is_crowded", "lateness", "num_hedges", "stalled_until", "unhedged")

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
        """Whether hedges were restricted to spare capacity when they were last considered."""
        self.lateness = Lateness()
        """How often batches are late, and for how long."""

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

    def consider(self, batches_queued: float, num_live: int, num_batches: int) -> float:
        """Decide whether hedges go ahead of the queue; return how many idle activations to spare.

        Sets `is_crowded`: a hedge then takes an idle activation only, and leaves those to spare.
        """
        overtime = self.lateness.expected_overtime(self._policy.hedge_max_extra, num_batches)
        limit = min(_CROWDED_BATCHES, overtime - _HEDGE_COST)
        self.is_crowded = limit <= 0.0 or batches_queued > limit * num_live
        return batches_queued + _SPARE_FRACTION * num_live if self.is_crowded else 0.0

    def record_answer(self, batch: Batch, num_batches: int) -> None:
        """Learn from an answer if it was late."""
        after, expected_s = self._policy.hedge_after, batch.expected_s
        if after is None or not expected_s or batch.execute_s <= after * expected_s:
            return
        over_s = batch.execute_s - max(after * expected_s, LEAST_LATE_S)
        if over_s > 0:
            self.lateness.record(over_s / expected_s, num_batches)

    def parts_to_hedge(self, batch: Batch) -> list[Part]:
        """Return the parts of a batch that are in flight once, and that a caller waits for."""
        parts = [each for each in batch.parts if each.copies == 1 and not each.is_settled]
        return [each for each in parts if not each.request.is_resolved]

    def check(self, num_batches: int) -> None:
        """Assert that no more hedges were sent than the budget allows."""
        assert self.num_hedges <= 1 + self._policy.hedge_max_extra * num_batches, "too many hedges"
