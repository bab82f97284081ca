"""The scheduler's state machine: every change of scheduling state goes through `handle`.

Rules of this file:
- Events in, commands out. Of one call, what devices did is taken in before what callers did.
- An illegal event raises and changes nothing; those taken in before it stand, and what they led to
  comes out of the next call.
- Everything that is due at `now` is decided before `handle` returns: what has expired is resolved,
  who waits is admitted, and no activation is left idle while work for it may go.
- Each accepted request is resolved exactly once, whatever devices and callers do. What a device
  still holds for a resolved request keeps its slot until the device answers, and reaches nobody.

Theory of operation. A request is accepted by `handle`; it waits for room or is queued. Batches are
taken from the front of the queue only when an activation can have them at once (late binding), so
nothing is ever moved from one activation to another. An answer frees the slot, then settles each
part of the batch: a request is done with its last part, and failed with the first part that has
used up its attempts. Parts to be tried again go first, alone in their batch, so that a request
that a device cannot digest takes no other with it twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qaic_sched.core.batching import compiled_size
from qaic_sched.core.commands import Commands
from qaic_sched.core.events import (
    ActivationsAdded,
    ActivationsRetired,
    Cancelled,
    Closed,
    Completed,
    DeviceOpened,
    DeviceRetired,
    DrainStarted,
    PolicyChanged,
    ReloadFailed,
    SetSizeChanged,
)
from qaic_sched.core.health import DeviceState
from qaic_sched.core.invariants import check_invariants
from qaic_sched.core.laggards import FAR
from qaic_sched.core.model import Request, RequestState
from qaic_sched.core.resizing import Resizing
from qaic_sched.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from qaic_sched.core.events import Event
    from qaic_sched.core.model import Batch, Part, Policy

__all__ = ["SchedulerState"]

_NEVER: Final = float("inf")
_COMES_FIRST: Final = frozenset(
    {ActivationsAdded, Completed, DeviceOpened, PolicyChanged, ReloadFailed}
)
_IN_FLIGHT: Final = RequestState.IN_FLIGHT
_DONE: Final = RequestState.DONE
_MEMORY: Final = 0.1
"""Weight of the newest execute time in their running mean."""


class SchedulerState(Resizing):
    """All that the scheduler knows, and all that it decides."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self._handlers: dict[type, Callable[[Any], None]] = {
            Cancelled: self._cancelled,
            DeviceOpened: self._device_opened,
            ReloadFailed: self._reload_failed,
            ActivationsAdded: self._activations_added,
            ActivationsRetired: self._activations_retired,
            DeviceRetired: self._device_retired,
            SetSizeChanged: self._set_size_changed,
            PolicyChanged: self._policy_changed,
            DrainStarted: self._drain_started,
            Closed: self._closed,
        }

    # The door

    def handle(self, now: float, events: Sequence[Event] = ()) -> Commands:
        """Take in what happened up to `now` (seconds, never going back) and say what to do."""
        if now < self.now:
            raise InternalError(f"time went back from {self.now} to {now}")
        self.now = now
        # What devices did comes first: who answered in time is not taken for stuck, and callers
        # are let in by what is free now. So does a policy: nobody is taken for stuck by its limits
        # after being sent something in the same call.
        for event in events:
            if isinstance(event, Completed):
                self._completed(event)
            elif type(event) in _COMES_FIRST:
                self._handlers[type(event)](event)
        self._look_after_devices()
        if self.ledger.retiring and not self.is_closed:
            self._retire()
        self._hedge_late()
        for event in events:
            if isinstance(event, Request):
                self._arrive(event)
            elif type(event) not in _COMES_FIRST:
                self._handlers[type(event)](event)
        self._expire()
        self._hedge_late()
        self._dispatch()
        commands = self._commands
        self._commands = Commands()
        return commands

    def next_wakeup(self, tick_s: float = 0.0) -> float | None:
        """When `handle` must be called at the latest if nothing happens; None is never.

        Timers that may fire up to `tick_s` early would find nothing to do, and be set again, and
        again. Nobody is in such a hurry to learn who is late or stuck: that is so much later.
        """
        at = min(self.batch_closes_at, self.deadlines.next_at())
        if not self.is_closed:
            at = min(at, self.health.next_probe_at())
            if self.batches:
                at = min(at, min(self.stuck.next_at(), self.late.next_at()) + tick_s)
        return None if at == _NEVER else at

    def check_invariants(self) -> None:
        """Assert every rule of the core against a recount; for tests."""
        check_invariants(self)

    # What happened

    def _arrive(self, request: Request) -> None:
        if self.is_draining or request.id <= self._last_request_id or request.samples < 1:
            raise InternalError(f"{request!r} may not arrive")
        self._last_request_id = request.id
        over_s = self._over_s(request) if request.deadline is not None else 0.0
        if over_s or not self._admit(request):
            request.retry_after_s = over_s or self._retry_after(request)
            request.state = RequestState.REJECTED
            self.totals[RequestState.REJECTED] += 1
            self._commands.resolve.append(request)
            return
        self.accepted += 1
        self.requests[request.id] = request
        self.deadlines.add(request)

    def _completed(self, event: Completed) -> None:
        batch = self.batches.get(event.batch_id)
        if batch is None:
            raise InternalError(f"batch {event.batch_id} is not in flight")
        del self.batches[event.batch_id]
        activation = batch.activation
        start = max(batch.submitted_at, activation.completed_at)
        is_first = activation.completed_at == -_NEVER
        batch.started_at = min(start, event.completed_at)
        batch.completed_at = activation.completed_at = event.completed_at
        self.ledger.release(batch, event.completed_at)
        if activation.held and (not activation.is_parked or activation.is_retiring):
            self._look_after(activation)
        if batch.is_abandoned:
            return
        if event.fault is not None:
            self._batch_failed(batch, event.fault)
            return
        device_id = activation.device_id
        for part in batch.parts:
            part.copies -= 1
            self._part_done(part, batch)
        lag = self.ledger.learn(device_id, batch.size, batch.execute_s)
        may_be_slow = (lag >= FAR or self.laggards.streaks) and not is_first
        if not (may_be_slow and self._note_speed(batch, lag)) and self.health.succeeded(device_id):
            self.ledger.admit(device_id)
        self.num_given_up = 0
        if self._mean_execute_s is None:
            self._mean_execute_s = batch.execute_s
            self.stuck.restart()
            self.late.restart()
        self._mean_execute_s += _MEMORY * (batch.execute_s - self._mean_execute_s)

    def _cancelled(self, event: Cancelled) -> None:
        if event.request_id > self._last_request_id:
            raise InternalError(f"request {event.request_id} never arrived")
        request = self.requests.get(event.request_id)
        if request is not None:
            self._resolve(request, RequestState.CANCELLED)

    def _device_opened(self, event: DeviceOpened) -> None:
        ledger, device_id = self.ledger, event.device_id
        fits = ledger.set_size in (0, event.set_size)
        if self.is_closed or not fits or event.set_size < 1 or event.num_activations < 1:
            raise InternalError(f"{event} does not fit")
        if device_id not in ledger.devices:
            self.health.opened(device_id)
            ledger.add_device(device_id, event.num_activations, event.set_size)
            return
        self._require_quarantine(device_id)
        if any(each.in_flight for each in ledger.devices[device_id]):
            raise InternalError(f"device {device_id} still holds a batch from before")
        self.health.opened(device_id)
        self.laggards.forget(device_id)
        was_slow = self.health.is_slow(device_id)
        ledger.reopen(device_id, event.num_activations, as_fast=was_slow)

    def _reload_failed(self, event: ReloadFailed) -> None:
        self._require_quarantine(event.device_id)
        self.health.probe_failed(event.device_id, self.now)

    def _require_quarantine(self, device_id: int) -> None:
        known = device_id in self.ledger.devices
        if not known or self.health.state_of(device_id) is not DeviceState.QUARANTINED:
            raise InternalError(f"device {device_id} is not in quarantine")

    def _drain_started(self, _event: DrainStarted) -> None:
        self.is_draining = True

    def _closed(self, _event: Closed) -> None:
        self.is_draining = self.is_closed = True
        self._commands.reload.clear()
        for request in tuple(self.requests.values()):
            self._resolve(request, RequestState.CANCELLED)

    def _admit(self, request: Request) -> bool:
        if self.admission.arrive(request):
            return True
        # Arrivals come many to a call: what is overdue, and what the devices can take, makes room.
        self._expire()
        self._dispatch()
        return self.admission.arrive(request)

    def _part_done(self, part: Part, batch: Batch) -> None:
        if part.is_settled:
            return
        part.is_settled = True
        request = part.request
        request.in_flight -= part.samples
        if request.state is _IN_FLIGHT and not request.in_flight:
            request.last_batch = batch
            self._resolve(request, _DONE)

    def _over_s(self, request: Request) -> float:
        """By how many seconds those before a newcomer make it miss its deadline; 0 if they do not.

        The least that it can be, so that nobody is refused who might have been in time: what runs
        now counts as done. One that would be late on an idle host, too, is not theirs to refuse.
        """
        assert request.deadline is not None
        ledger, size = self.ledger, self.policy.max_batch_size
        rate = ledger.rate(size)
        if not rate:
            return 0.0
        own_s = ledger.fastest_s(compiled_size(self.policy, min(request.samples, size)))
        left_s = request.deadline - self.now
        batches = -(-(self.admission.samples_before(request) + request.samples) // size)
        wait_s = (batches - 1) // ledger.num_live * ledger.num_live / rate
        if wait_s + own_s <= left_s or own_s > left_s:
            return 0.0
        request.wait_s = wait_s + own_s
        return request.wait_s - left_s

    def _retry_after(self, request: Request) -> float | None:
        if self._mean_execute_s is None:
            return None
        batches = -(-self.admission.samples_over(request) // self.policy.max_batch_size)
        return batches * self._mean_execute_s / max(1, self.ledger.num_activations)
