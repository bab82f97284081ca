"""How work is sent out: what is queued, and what is to be tried again, to which activation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qaic_sched.core.batching import cheapest_size, closes_at, compiled_size, fitting_size
from qaic_sched.core.model import Activation, Batch, RequestState
from qaic_sched.core.records import Records

if TYPE_CHECKING:
    from qaic_sched.core.model import Part

__all__ = ["Dispatching"]

_NEVER: Final = float("inf")
_QUEUED: Final = RequestState.QUEUED
_IN_FLIGHT: Final = RequestState.IN_FLIGHT
_MOST_GIVEN_UP: Final = 8
"""After so many dropped without an answer one is tried all the same: what was measured may no
longer be true, and without an answer nobody would ever know."""


class Dispatching(Records):
    """The layer that binds samples to activations."""

    def _dispatch(self) -> None:
        admission, policy, ledger = self.admission, self.policy, self.ledger
        if ledger.devices and not ledger.has_live():
            self.batch_closes_at = _NEVER
            self._fail_for_want_of_devices()
            return
        for device_id in self.retries.devices():
            self._dispatch_retries(device_id)
        queued, waiting = admission.queued, admission.waiting
        self.batch_closes_at = _NEVER
        if waiting.num_requests:
            admission.admit_waiting()
        size = policy.batch_sizes[-1]
        while queued.samples:
            activation = ledger.choose(self.now, size, queued.samples // size)
            if activation is None:
                self.batch_closes_at = ledger.commit_at
                return
            if queued.samples < size:
                can_grow = not (self.is_draining or waiting.num_requests)
                closes = closes_at(policy, queued, activation, can_grow=can_grow)
                if closes > self.now:
                    self.batch_closes_at = closes
                    return
            if len(self.deadlines):
                room = self._drop_hopeless(activation)
            else:
                room = size if queued.samples >= size else queued.samples
            if room:
                if queued.samples < size:
                    room = self._worth_taking(room, activation)
                is_slow = ledger.is_slow(activation)
                parts = queued.take_newest(room) if is_slow else queued.take(room)
                self._send(parts, activation)
            elif queued.samples:
                return
            if waiting.num_requests:
                admission.admit_waiting()

    def _drop_hopeless(self, activation: Activation) -> int:
        """Expire those at the front whose batch would be done too late; the samples to take."""
        queued, policy = self.admission.queued, self.policy
        free_at = max(self.now, activation.free_at)

        def expected_s(size: int) -> float:
            return self.ledger.likely_s(activation.device_id, size)

        size = policy.batch_sizes[-1]
        while (head := queued.head()) is not None:
            left_s = _NEVER if head.deadline is None else head.deadline - free_at
            if queued.samples - (head.samples - head.cursor) >= size:
                fits = size if expected_s(size) <= left_s else 0
            else:
                fits = fitting_size(policy, min(queued.samples, size), left_s, expected_s)
            if fits or self.ledger.is_slow(activation):
                return fits  # a faster one may still make it
            if self.num_given_up >= _MOST_GIVEN_UP and not activation.held:
                return min(queued.samples, size)
            self.num_given_up += 1
            self._resolve(head, RequestState.EXPIRED)
        return 0

    def _worth_taking(self, room: int, activation: Activation) -> int:
        """How many samples to take of a partial batch, of which so many may be taken."""
        ledger, policy, queued = self.ledger, self.policy, self.admission.queued
        device_id, samples = activation.device_id, min(room, queued.samples)
        whole = compiled_size(policy, samples)
        if whole == samples:
            return room
        size = cheapest_size(policy, samples, lambda each: ledger.measured_s(device_id, each))
        if size == whole or ledger.is_idle_beside(activation):
            return min(size, room)
        head, rest = queued.head(), compiled_size(policy, samples - size)
        both_s = ledger.likely_s(device_id, size) + ledger.likely_s(device_id, rest)
        if head is None or both_s <= ledger.likely_s(device_id, whole):
            return size
        is_cut = head.samples - head.cursor > size
        has_time = head.deadline is None or head.deadline >= self.now + both_s
        return room if is_cut or not has_time or self.is_draining else size

    def _dispatch_retries(self, failed_on: int) -> None:
        while (part := self.retries.first(failed_on)) is not None:
            activation = self.ledger.choose_elsewhere(failed_on)
            if activation is None:
                return
            self.retries.remove(part)
            part.request.in_flight += part.samples
            self.num_retries += 1
            self._send([part], activation)

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
            self._look_after(activation)
        self._commands.dispatch.append(batch)
        return batch

    def _look_after(self, activation: Activation) -> None:
        """Notice when what the activation begins now takes too long."""
        self.stuck.add(activation)
        if self.policy.hedge_after is not None:
            self.late.add(activation)

    def _fail_for_want_of_devices(self) -> None:
        for request in tuple(self.requests.values()):
            if request.state is not RequestState.IN_FLIGHT:
                self._resolve(request, RequestState.FAILED)
