"""Finds idle devices in a run: replays its event log and looks at the devices while work waits."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from qaic_sched.core.events import Completed
from qaic_sched.core.state import SchedulerState
from qaic_sched.scheduler.event_log import EventLogReader

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from qaic_sched.core.model import Activation, Batch
    from qaic_sched.core.values import Statistics
    from qaic_sched.scheduler.event_log import Call

__all__ = ["Backlog"]


class Backlog:
    """The times when work waited in a run, and the `watched` devices that had too little of it."""

    def __init__(self, log: Path, watched: Collection[int]) -> None:
        self._watched = watched
        self._activations: defaultdict[int, set[Activation]] = defaultdict(set)
        self._batches: dict[int, Batch] = {}
        self._since: float | None = None
        self.spans: list[tuple[float, float]] = []
        """Start and end of each span in which requests were queued, retries included."""
        self.answers: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
        """Times of the answers of each activation, by device id and index."""
        self.left_idle: list[int] = []
        """Devices with an idle activation after a call of the core that left work waiting."""
        self.without_next: list[int] = []
        """Devices with a free slot after a call that left a full batch for every activation.

        An activation whose inference should have ended is left out: it may never end.
        """
        with EventLogReader(str(log)) as reader:
            self._core = SchedulerState(reader.policy)
            for call in reader:
                self._replay(call)

    def length_s(self) -> float:
        """Return the number of seconds in which work waited."""
        return sum(end - start for start, end in self.spans)

    def overlap_s(self, gaps: Sequence[tuple[float, float]]) -> float:
        """Return the number of seconds of these gaps in which work waited."""
        return sum(
            max(0.0, min(end, gap_end) - max(start, gap_start))
            for start, end in self.spans
            for gap_start, gap_end in gaps
        )

    def _replay(self, call: Call) -> None:
        for event in call.events:
            if isinstance(event, Completed):
                activation = self._batches.pop(event.batch_id).activation
                self.answers[activation.device_id, activation.index].append(event.completed_at)
        for batch in self._core.handle(call.at, call.events).dispatch:
            self._batches[batch.id] = batch
            self._activations[batch.activation.device_id].add(batch.activation)
        statistics = self._core.statistics()
        if statistics.queued:
            self._look_at_devices(call.at, statistics)
            self._since = call.at if self._since is None else self._since
        elif self._since is not None:
            self.spans.append((self._since, call.at))
            self._since = None

    def _look_at_devices(self, now: float, statistics: Statistics) -> None:
        devices = statistics.devices
        live = [each.num_activations for each in devices.values() if each.state != "quarantined"]
        is_plenty = statistics.queued_samples // self._core.policy.max_batch_size >= sum(live)
        for device_id in self._watched:
            activations = self._activations[device_id]
            if len(activations) < devices[device_id].num_activations:
                self.left_idle.append(device_id)
            for each in activations:
                if not each.held:
                    self.left_idle.append(device_id)
                if is_plenty and len(each.held) < self._core.set_size and each.free_at >= now:
                    self.without_next.append(device_id)
