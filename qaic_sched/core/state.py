"""The scheduler's state machine: every change of scheduling state goes through `handle`.

Rules of this file:
- Events in, commands out. In one call, events from devices are handled before those from callers.
- An illegal event raises and changes nothing. Events handled before it stand, and their commands
  are returned by the next call.
- All that is due at `now` is decided before `handle` returns: expired requests are resolved,
  waiting ones are admitted, and no activation idles while it could have a batch.
- Each accepted request is resolved exactly once, whatever devices and callers do. A batch of a
  resolved request keeps its slot until the device answers, and the answer is ignored.

Theory of operation. `SchedulerState` is made of layers, each a class on top of the previous one:

    scheduler_data   all data, and how a request is resolved
    dispatching      which samples go to which activation as a batch
    recovery         retries, quarantine, probes, stuck batches, outliers, hedges
    resizing         live changes of activations, devices, `set_size` and policy
    state            `handle`, `next_wakeup`, what the shell reads; arrivals and answers

The layers decide with objects that each do one job and know nothing of the layers:

    admission        the bounded queue and the requests that wait for room in it
    request_queue    order of service: `priority_levels`, `tenants` in one, `tenant_queue` in those
    batching         when a batch closes, and which compiled size it has
    placement        which activation is next, or when to ask again
    slot_ledger      devices, activations, and the slots that batches take
    speeds           groups of devices of similar speed (`speed_group`, `execute_times`)
    health           which devices may get work; `outliers` finds the slow ones
    hedging          which batches are late, and the budget for hedges
    retries          parts to be sent again, and the budget for that
    deadlines        when requests expire; `timeout_watch` finds stuck and late batches
    stalls           when the event loop stood still, which counts against no device

`model` has the nouns, `values` the frozen ones; `events` come in, `commands` go out. `invariants`
checks all of this in tests.

The path of a request. It arrives and is queued, waits for room, or is rejected (`_arrive`).
Dispatch asks `placement` for an activation, and only when one can take a batch at once does it take
samples from the front of the queue (late binding), so nothing moves from one activation to another
later. The samples of one request in one batch are a part; a large request is one object with a
cursor and many parts. The answer frees the slot and settles each part (`_completed`): a request is
done with its last part, and failed with the first part that fails for good. The parts of a failed
batch are sent again before the queue, first together, then in ever smaller groups (`retries`), so
that a request that makes inferences fail makes no other request fail. A late part is sent twice,
and the first answer counts.

All changes of state of requests and devices are in tables: `model.REQUEST_TRANSITIONS` and
`health.DEVICE_TRANSITIONS`.
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
    DeviceReported,
    DeviceRetired,
    DrainStarted,
    LoopStalled,
    PolicyChanged,
    ReloadFailed,
    SetSizeChanged,
)
from qaic_sched.core.health import DeviceState
from qaic_sched.core.model import DeviceNews, DeviceStatistics, Request, RequestState, Statistics
from qaic_sched.core.outliers import SLOW_RATIO
from qaic_sched.core.resizing import Resizing
from qaic_sched.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from qaic_sched.core.events import Event
    from qaic_sched.core.model import Batch, Part, Policy

__all__ = ["SchedulerState"]

_NEVER: Final = float("inf")
_HANDLED_FIRST: Final = frozenset(
    {
        ActivationsAdded,
        Completed,
        DeviceOpened,
        DeviceReported,
        LoopStalled,
        PolicyChanged,
        ReloadFailed,
    }
)
_IN_FLIGHT: Final = RequestState.IN_FLIGHT
_DONE: Final = RequestState.DONE
_EXECUTE_EWMA_WEIGHT: Final = 0.1
"""Weight of the newest execution time in the running mean of all of them."""


class SchedulerState(Resizing):
    """The scheduler's data and all its decisions."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self._handlers: dict[type, Callable[[Any], None]] = {
            Cancelled: self._cancelled,
            DeviceOpened: self._device_opened,
            ReloadFailed: self._reload_failed,
            DeviceReported: self._device_reported,
            LoopStalled: self._loop_stalled,
            ActivationsAdded: self._activations_added,
            ActivationsRetired: self._activations_retired,
            DeviceRetired: self._device_retired,
            SetSizeChanged: self._set_size_changed,
            PolicyChanged: self._policy_changed,
            DrainStarted: self._drain_started,
            Closed: self._closed,
        }
        """The method for each type of event, except for the two frequent ones."""

    # The entry point

    def handle(self, now: float, events: Sequence[Event] = ()) -> Commands:
        """Take in the events up to `now` (seconds, never going back) and return the commands.

        Raises `InternalError` for an illegal event.
        """
        if now < self.now:
            raise InternalError(f"time went back from {self.now} to {now}")
        self.now = now
        # Events from devices come first: a device that answered in time is not taken for stuck, and
        # requests are admitted to the room that there is now. A new policy comes first as well, so
        # that no batch is sent under one timeout and judged by another in the same call.
        for event in events:
            if isinstance(event, Completed):
                self._completed(event)
            elif type(event) in _HANDLED_FIRST:
                self._handlers[type(event)](event)
        if self._after_answers:
            self._handle_after_answers()
        self._check_devices()
        if self.ledger.retiring and not self.is_closed:
            self._retire()
        self._hedge_late()
        for event in events:
            if isinstance(event, Request):
                self._arrive(event)
            elif type(event) not in _HANDLED_FIRST:
                self._handlers[type(event)](event)
        self._expire()
        self._hedge_late()
        self._dispatch()
        commands = self._commands
        self._commands = Commands()
        return commands

    # What the shell reads, besides `policy`, `is_draining` and `is_closed`

    def next_wakeup(self, tick_s: float = 0.0) -> float | None:
        """Return when `handle` must be called at the latest if nothing happens; None is never.

        `tick_s` is how early timers may fire. A timer that fires early finds nothing to do and is
        set again and again, so looks for late and stuck batches are put off by this time.
        """
        at = min(self.batch_closes_at, self.deadlines.next_at())
        if not self.is_closed:
            at = min(at, self.health.next_probe_at())
            if self.batches:
                watches_at = min(self.stuck_watch.next_at(), self.hedge_watch.next_at())
                at = min(at, watches_at + tick_s)
        return None if at == _NEVER else at

    def statistics(self) -> Statistics:
        """Return a snapshot of all gauges."""
        waiting = self.admission.waiting.num_requests
        return Statistics(
            accepted=self.accepted,
            **{state.value: total for state, total in self.totals.items()},
            waiting=waiting,
            queued=len(self.requests) - waiting - self.num_in_flight,
            in_flight=self.num_in_flight,
            queued_samples=self.admission.queued.samples,
            queued_bytes=self.admission.queued.num_bytes,
            devices={
                device_id: DeviceStatistics(
                    self._describe_state(device_id),
                    len(activations),
                    sum(each.in_flight for each in activations),
                )
                for device_id, activations in self.ledger.devices.items()
            },
        )

    @property
    def set_size(self) -> int:
        """Batches that an activation may hold, the running one included; 0 before any device."""
        return self.ledger.set_size

    def is_quarantined(self, device_id: int) -> bool:
        """Return whether a device that was opened gets no work until it is reloaded."""
        return self.health.is_quarantined(device_id)

    def was_slow(self, device_id: int) -> bool:
        """Return whether the device's last quarantine was for being far slower than the others."""
        return self.health.is_slow(device_id)

    def _describe_state(self, device_id: int) -> str:
        state = self.health.state_of(device_id)
        is_leaving = device_id in self.ledger.leaving and state is not DeviceState.QUARANTINED
        return "retiring" if is_leaving else state.value

    # Events

    def _arrive(self, request: Request) -> None:
        if self.is_draining or request.id <= self._last_request_id or request.samples < 1:
            raise InternalError(f"{request!r} may not arrive")
        if not (self.shares_rows or self._fits(request.samples)):
            raise InternalError(f"{request!r} may not arrive")
        self._last_request_id = request.id
        lateness_s = self._lateness_s(request) if request.deadline is not None else 0.0
        if lateness_s or not self._admit(request):
            request.retry_after_s = lateness_s or self._retry_after_s(request)
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
        is_measured = not self.stalls.recent or self._correct_time(batch)
        self.ledger.release(batch, event.completed_at)
        if activation.held and (not activation.is_parked or activation.is_retiring):
            self._watch(activation)
        if batch.is_abandoned:
            return
        if event.fault is not None:
            self._batch_failed(batch, event.fault)
            return
        device_id = activation.device_id
        for part in batch.parts:
            part.copies -= 1
            self._part_done(part, batch)
        group = batch.parts[0].group
        if group is not None and group.failure is not None:
            self._group_done(group, group.failure)
        is_slow = False
        if is_measured:
            slowness = self.ledger.learn(device_id, batch.size, batch.execute_s)
            may_be_slow = slowness >= SLOW_RATIO or bool(self.outliers.streaks)
            is_slow = may_be_slow and not is_first and self._record_slowness(batch, slowness)
        if not is_slow and self.health.succeeded(device_id):
            self.ledger.readmit(device_id)
            self._report(device_id, DeviceNews.READY)
        self.num_dropped = 0
        if not is_measured:
            return
        self.hedging.record_answer(batch, self.num_batches)
        if self._mean_execute_s is None:
            self._mean_execute_s = batch.execute_s
            self.stuck_watch.restart()
            self.hedge_watch.restart()
        self._mean_execute_s += _EXECUTE_EWMA_WEIGHT * (batch.execute_s - self._mean_execute_s)

    def _correct_time(self, batch: Batch) -> bool:
        """Take stalls off the time of an answered batch; return whether it tells something."""
        is_measured = self.stalls.correct(batch)
        oldest = next(iter(self.batches.values()), None)
        self.stalls.forget(self.now if oldest is None else oldest.submitted_at)
        return is_measured

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
        state = self.health.opened(device_id)
        self.outliers.forget(device_id)
        was_slow = self.health.is_slow(device_id)
        ledger.reopen(device_id, event.num_activations, as_fast=was_slow)
        if state is DeviceState.READY:
            ledger.readmit(device_id)
        self._report(device_id, DeviceNews.RELOADED)

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
        # A call may bring many arrivals: expiry and dispatch in between make room for them.
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

    def _fits(self, samples: int) -> bool:
        """Return whether one inference can hold a whole request of this size."""
        return self.policy.takes_any_size or samples <= self.policy.max_batch_size

    def _lateness_s(self, request: Request) -> float:
        """Return by how much the queue ahead makes a newcomer miss its deadline; 0 if it does not.

        A lower bound, so that no request is rejected that might have been in time: running batches
        count as done. A request that would be late even on an idle host is not rejected here.
        """
        assert request.deadline is not None
        speeds, policy = self.speeds, self.policy
        size, samples = policy.max_batch_size, request.samples
        if self.shares_rows:
            ahead = -(-(self.admission.samples_before(request) + samples) // size) - 1
            samples = min(samples, size)
        else:
            # Each is an inference, and takes as long as the smallest one at least.
            ahead = float(self.admission.requests_before(request))
            size = 1 if policy.takes_any_size else policy.batch_sizes[0]
        rate = speeds.rate(size)
        if not rate:
            return 0.0
        own_s = speeds.fastest_s(compiled_size(policy, samples))
        left_s = request.deadline - self.now
        wait_s = ahead // speeds.num_live * speeds.num_live / rate
        if wait_s + own_s <= left_s or own_s > left_s:
            return 0.0
        request.wait_s = wait_s + own_s
        return request.wait_s - left_s

    def _retry_after_s(self, request: Request) -> float | None:
        if self._mean_execute_s is None:
            return None
        over, queued = self.admission.samples_over(request), self.admission.queued
        if self.shares_rows:
            batches = -(-over // self.policy.max_batch_size)
        else:
            batches = -(-over * queued.num_requests // max(queued.samples, 1))
        return batches * self._mean_execute_s / max(1, self.ledger.num_activations)
