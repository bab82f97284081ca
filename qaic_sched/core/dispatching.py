"""Dispatch: which queued samples, and which parts to be retried, go to which activation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qaic_sched.core.batching import cheapest_size, closes_at, compiled_size, fitting_size
from qaic_sched.core.model import Activation, Batch, RequestState
from qaic_sched.core.placement import choose, choose_elsewhere, has_faster
from qaic_sched.core.scheduler_data import SchedulerData

if TYPE_CHECKING:
    from qaic_sched.core.model import Part, Request

__all__ = ["Dispatching"]

_NEVER: Final = float("inf")
_QUEUED: Final = RequestState.QUEUED
_IN_FLIGHT: Final = RequestState.IN_FLIGHT
_MAX_DROPPED: Final = 8
"""Requests dropped without an answer in between after which one is tried anyway: the measured times
may be out of date, and only an answer can show that."""


class Dispatching(SchedulerData):
    """The layer that binds samples to activations."""

    def _dispatch(self) -> None:
        admission, policy, ledger = self.admission, self.policy, self.ledger
        queued, waiting = admission.queued, admission.waiting
        if queued.tenants.isolated:
            queued.tenants.end_isolation(self.now)
        if ledger.devices and not self.speeds.has_live():
            self.batch_closes_at = _NEVER
            self._fail_without_devices()
            return
        for device_id in self.retries.devices():
            self._dispatch_retries(device_id)
        self.batch_closes_at = _NEVER
        if waiting.num_requests:
            admission.admit_waiting()
        if not self.shares_rows:
            self._dispatch_whole()
            return
        size = policy.batch_sizes[-1]
        while queued.samples:
            activation, try_again_at = choose(ledger, self.now, size, queued.samples // size)
            if activation is None:
                self.batch_closes_at = try_again_at
                return
            if queued.samples < size:
                can_grow = not (self.is_draining or waiting.num_requests)
                closes = closes_at(policy, queued, activation, can_grow=can_grow)
                if closes > self.now:
                    self.batch_closes_at = closes
                    return
            samples = queued.samples
            if len(self.deadlines):
                room = self._room_in_time(activation)
                if queued.samples < min(samples, size):
                    if waiting.num_requests:
                        admission.admit_waiting()
                    continue  # the rest may wait for more samples
            else:
                room = size if samples >= size else samples
            if not room:
                return
            if queued.samples < size:
                room = self._choose_partial_size(room, activation)
            is_slow = has_faster(ledger, activation)
            parts = queued.take_newest(room) if is_slow else queued.take(room)
            self._send(parts, activation)
            if waiting.num_requests:
                admission.admit_waiting()

    def _dispatch_whole(self) -> None:
        """Send requests that share no inference, each as a batch of its own."""
        admission, ledger = self.admission, self.ledger
        queued, waiting = admission.queued, admission.waiting
        while (head := queued.head()) is not None:
            size = compiled_size(self.policy, head.samples)
            activation, try_again_at = choose(ledger, self.now, size, queued.num_requests)
            if activation is None:
                self.batch_closes_at = try_again_at
                return
            if self._is_hopeless(head, size, activation):
                if has_faster(ledger, activation):
                    return  # a faster device may still make it
                self._drop_hopeless(head)
            else:
                self._send(queued.take(head.samples), activation)
            if waiting.num_requests:
                admission.admit_waiting()

    def _is_hopeless(self, head: Request, size: int, activation: Activation) -> bool:
        """Return whether a request would end after its deadline there, unless it is to be tried."""
        if head.deadline is None:
            return False
        free_at = max(self.now, activation.free_at)
        if activation.speed.group.times.likely_s(size) <= head.deadline - free_at:
            return False
        is_trial = self.num_dropped >= _MAX_DROPPED and not activation.held
        return has_faster(self.ledger, activation) or not is_trial

    def _room_in_time(self, activation: Activation) -> int:
        """Expire requests at the front whose batch would end too late; return the samples to take.

        0 leaves the queue to another activation.
        """
        queued, policy = self.admission.queued, self.policy
        free_at = max(self.now, activation.free_at)
        times = activation.speed.group.times
        size = policy.batch_sizes[-1]
        while (head := queued.head()) is not None:
            left_s = _NEVER if head.deadline is None else head.deadline - free_at
            if queued.samples - (head.samples - head.cursor) >= size:
                fits = size if times.likely_s(size) <= left_s else 0
            else:
                fits = fitting_size(policy, min(queued.samples, size), left_s, times.likely_s)
            if fits or has_faster(self.ledger, activation):
                return fits  # a faster device may still make it
            if self.num_dropped >= _MAX_DROPPED and not activation.held:
                return min(queued.samples, size)
            self._drop_hopeless(head)
        return 0

    def _drop_hopeless(self, head: Request) -> None:
        self.num_dropped += 1
        self._resolve(head, RequestState.EXPIRED)

    def _choose_partial_size(self, room: int, activation: Activation) -> int:
        """Return how many of the `room` samples that a partial batch may take it should take."""
        policy, queued, group = self.policy, self.admission.queued, activation.speed.group
        times, samples = group.times, min(room, queued.samples)
        whole = compiled_size(policy, samples)
        if whole == samples:
            return room
        size = cheapest_size(policy, samples, times.measured_s)
        if size == whole or len(group.idle) > 1:
            return min(size, room)
        head, rest = queued.head(), compiled_size(policy, samples - size)
        both_s = times.likely_s(size) + times.likely_s(rest)
        if head is None or both_s <= times.likely_s(whole):
            return size
        is_cut = head.samples - head.cursor > size
        # The rest may hold an earlier deadline, of a lower priority or another tenant.
        is_timed = len(self.deadlines) > 0
        has_time = not is_timed or queued.earliest_deadline() >= self.now + both_s
        return room if is_cut or not has_time or self.is_draining else size

    def _dispatch_retries(self, failed_on: int) -> None:
        while (group := self.retries.first(failed_on)) is not None:
            activation = choose_elsewhere(self.ledger, failed_on)
            if activation is None:
                return
            self.retries.take(group)
            for part in group.parts:
                part.request.in_flight += part.samples
            self.num_retries += 1
            self._send(group.parts, activation)

    def _send(self, parts: list[Part], activation: Activation) -> Batch:
        samples = 0
        for part in parts:
            request = part.request
            part.copies += 1
            samples += part.samples
            if request.state is not _QUEUED:
                continue
            if request.cursor == request.samples and not request.retrying:
                request.state = _IN_FLIGHT
                self.num_in_flight += 1
        size = compiled_size(self.policy, samples)
        batch = Batch(self.num_batches, activation, size, samples, parts, self.now)
        self.num_batches += 1
        self.batches[batch.id] = batch
        self.ledger.take(activation, self.now, batch)
        if len(activation.held) == 1:
            self._watch(activation)
        self._commands.dispatch.append(batch)
        return batch

    def _watch(self, activation: Activation) -> None:
        """Notice if the batch that an activation starts now takes too long."""
        self.stuck_watch.add(activation)
        if self.policy.hedge_after is not None:
            self.hedge_watch.add(activation)

    def _fail_without_devices(self) -> None:
        for request in tuple(self.requests.values()):
            if request.state is not RequestState.IN_FLIGHT:
                self._resolve(request, RequestState.FAILED)
