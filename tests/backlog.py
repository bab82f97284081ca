"""Watches the core of an open scheduler: when work waits, and what devices have meanwhile."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from qaic_sched.core.events import Completed
from tests.hosts import replace_handle

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from qaic_sched.core.commands import Commands
    from qaic_sched.core.events import Event
    from qaic_sched.core.model import Activation
    from qaic_sched.scheduler.front import Scheduler

__all__ = ["Backlog"]


class Backlog:
    """When work waited in a scheduler, and which of the `watched` devices it had forgotten then."""

    def __init__(self, scheduler: Scheduler, watched: Collection[int]) -> None:
        assert scheduler._shell is not None
        self._core = scheduler._shell.core
        self._watched = watched
        self._since: float | None = None
        self.spans: list[tuple[float, float]] = []
        """From when to when work waited: samples of the queue, or parts to be tried again."""
        self.answers: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
        """When each activation of each device answered."""
        self.left_idle: list[Activation] = []
        """Those with nothing to do after a call of the core that left work waiting."""
        self.without_next: list[Activation] = []
        """Those with a free slot after a call that left a full batch for every activation.

        An inference that should have ended is no place to wait behind: it may never end.
        """
        replace_handle(scheduler, self._watch)

    def length_s(self) -> float:
        """Seconds in which work waited."""
        return sum(end - start for start, end in self.spans)

    def overlap_s(self, gaps: Sequence[tuple[float, float]]) -> float:
        """Seconds of these gaps in which work waited."""
        return sum(
            max(0.0, min(end, gap_end) - max(start, gap_start))
            for start, end in self.spans
            for gap_start, gap_end in gaps
        )

    def _watch(self, now: float, events: Sequence[Event] = ()) -> Commands:
        for event in events:
            if isinstance(event, Completed):
                activation = self._core.batches[event.batch_id].activation
                self.answers[activation.device_id, activation.index].append(event.completed_at)
        commands = self._core.handle(now, events)
        if self._core.admission.queued.samples or self._core.retries.devices():
            self._look_at_devices(now)
            self._since = now if self._since is None else self._since
        elif self._since is not None:
            self.spans.append((self._since, now))
            self._since = None
        return commands

    def _look_at_devices(self, now: float) -> None:
        ledger = self._core.ledger
        batches = self._core.admission.queued.samples // self._core.policy.max_batch_size
        is_plenty = batches >= ledger.num_activations
        for device_id in self._watched:
            for each in ledger.devices[device_id]:
                if not each.held:
                    self.left_idle.append(each)
                if is_plenty and len(each.held) < ledger.set_size and each.free_at >= now:
                    self.without_next.append(each)
