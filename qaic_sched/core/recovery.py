"""Recovery when devices fail, are lost, get stuck or are late: retries, quarantine, hedges.

Rules of this file:
- A batch whose inference failed is tried as a whole on another device if possible, until the
  attempts of its parts are used up. Then it is split in halves until the culprit is alone: the
  request whose values make inferences fail. It fails; the others are answered.
- Splitting is no attempt and has no budget. What is alone has attempts of its own.
- A batch whose values the runtime rejects (`Fault.INPUT`) is split at once: no device is to blame,
  and no device would accept it. The culprit fails as soon as it is alone.
- The failure of a batch that is sent again is no sign against a device. That of a new one is proven
  to be the device's fault once all its parts are answered, and the request's if it failed alone.
- Parts of a lost, restarted or stuck device are sent again each alone. The loss of a device is no
  attempt, up to a limit.
- Retries of failed inferences have a budget for the whole host. Beyond it, a batch is split at
  once, and a request that is alone fails. Parts of lost devices are retried without a budget.
- Batches on a stuck device are retried elsewhere at once, but keep their slots until it answers.
- An outlier goes into quarantine unless no other device is left. It finishes what it holds.
- A late part is sent a second time. The first answer settles it, the other one is ignored.
- A device that another model has found lost or restarted goes into quarantine, even the last one,
  and what it holds is retried elsewhere. One found slow does unless it is the last, and finishes
  what it holds. Stuck and failed inferences are not reported: the model may be the cause.
- Time in which the event loop stood still counts against no device: inferences are stuck that much
  later, and late only when they take too long from then on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qaic_sched.core.dispatching import Dispatching
from qaic_sched.core.events import LoopStalled
from qaic_sched.core.health import DeviceState
from qaic_sched.core.model import DeviceNews, Failure, Fault, RequestState, RetryGroup
from qaic_sched.core.placement import least_loaded
from qaic_sched.errors import InternalError

if TYPE_CHECKING:
    from qaic_sched.core.events import DeviceReported
    from qaic_sched.core.model import Activation, Batch, Part

__all__ = ["Recovery"]

_MAX_LOSSES: Final = 8
"""Losses of a device under a part before further ones count as attempts."""
_CULPRIT_BATCHES: Final = 2
"""Full batches that a culprit counts for in the fair order of tenants: about what it costs to find
one by splitting."""
_ANY_DEVICE: Final = -1


class Recovery(Dispatching):
    """The layer that handles faults, stuck and late batches, and slow devices."""

    def _batch_failed(self, batch: Batch, fault: Fault) -> None:
        group = batch.parts[0].group
        device_id = batch.activation.device_id
        ended = [part for part in batch.parts if self._leaves_flight(part)]
        wanted = [part for part in ended if not part.request.is_resolved]
        if fault is Fault.INFERENCE or fault is Fault.INPUT:
            failure = group.failure if group is not None else None
            if fault is Fault.INFERENCE and (group is None or not group.is_suspect):
                failure = self._suspect(device_id)
            if ended:
                self._end_group(group, failure, is_complete=len(wanted) == len(ended))
            if wanted:
                self._retry_inference(wanted, batch, fault, failure)
            elif ended and fault is Fault.INPUT and len(batch.parts) == 1:
                self._convict(ended[0], failure)  # its values are bad, though it ended otherwise
            return
        self._retry_each_alone(ended, batch, fault)
        if self.health.failed(device_id, fault, self.now):
            self.ledger.park(device_id)
        went_away = fault is Fault.LOST or fault is Fault.RESTARTED
        if went_away and not self.is_closed and self.health.found_lost(device_id):
            is_lost = fault is Fault.LOST
            self._report(device_id, DeviceNews.LOST if is_lost else DeviceNews.RESTARTED)

    def _leaves_flight(self, part: Part) -> bool:
        """Take a part out of a failed batch; return whether it must be sent again to be answered.

        Its request may be resolved.
        """
        part.copies -= 1
        if part.is_settled or part.copies:
            return False
        part.request.in_flight -= part.samples
        return True

    def _retry_inference(
        self, parts: list[Part], batch: Batch, fault: Fault, failure: Failure | None
    ) -> None:
        """Send parts of a failed inference again, as a whole or in halves, or fail the culprit."""
        is_inference = fault is Fault.INFERENCE
        before = parts[0].group
        group = RetryGroup(parts, batch.activation.device_id, before)
        if not is_inference:
            group.failed_on = _ANY_DEVICE
        was_alone = len(batch.parts) == 1
        group.attempts += is_inference and was_alone
        group.num_failed_together += is_inference and not was_alone
        attempts = group.attempts if was_alone else group.num_failed_together
        was_suspect, group.is_suspect = group.is_suspect, True
        has_attempts = is_inference and attempts < self.policy.max_attempts
        if has_attempts and self._may_retry():
            self._send_again(group, failure)
        elif not was_alone:
            half = len(parts) // 2
            for some in filter(None, (parts[:half], parts[half:])):
                self._send_again(RetryGroup(some, group.failed_on, group), failure)
        else:
            if was_suspect or not is_inference:
                self._convict(parts[0], failure)
            else:
                assert failure is not None
                self._blame(failure)  # nothing will show any more whose fault it was
            self._fail(parts[0], batch)

    def _retry_each_alone(self, ended: list[Part], batch: Batch, fault: Fault) -> None:
        """Send the parts of a lost, restarted or stuck device again, each alone."""
        went_away = fault in (Fault.LOST, Fault.RESTARTED)
        failures = [part.group.failure if part.group is not None else None for part in ended]
        for part, failure in zip(ended, failures, strict=True):
            is_wanted = not part.request.is_resolved
            group = RetryGroup([part], batch.activation.device_id, part.group)
            self._end_group(part.group, failure, is_complete=is_wanted)
            if not is_wanted:
                continue
            # A lost device proves nothing against the request, unless that happens to many devices.
            group.losses += went_away
            counts = not went_away or group.losses > _MAX_LOSSES or self.policy.max_attempts == 1
            group.attempts += counts
            if counts and group.attempts >= self.policy.max_attempts:
                self._fail(part, batch)
            else:
                self._send_again(group, failure)

    def _send_again(self, group: RetryGroup, failure: Failure | None) -> None:
        if failure is not None:
            group.failure = failure
            failure.num_open += 1
        self.retries.add(group)
        for part in group.parts:
            if part.request.state is RequestState.IN_FLIGHT:
                part.request.state = RequestState.QUEUED
                self.num_in_flight -= 1

    def _fail(self, part: Part, batch: Batch) -> None:
        part.request.last_batch = batch
        self._resolve(part.request, RequestState.FAILED)

    def _end_group(
        self, group: RetryGroup | None, failure: Failure | None, *, is_complete: bool
    ) -> None:
        """Note that the batch of a group failed; not `is_complete` if nobody wants some parts."""
        if group is not None and group.failure is not None:
            group.failure.num_open -= 1
            group.failure = None
        if failure is not None and not is_complete:
            failure.may_be_requests = True

    def _group_done(self, group: RetryGroup, failure: Failure) -> None:
        """Note that a group was answered, which may prove the failure to be the device's fault."""
        group.failure = None
        failure.num_open -= 1
        if not (failure.num_open or failure.may_be_requests):
            self._blame(failure)

    def _suspect(self, device_id: int) -> Failure:
        """Note that a device failed an inference of new requests."""
        failure = Failure(device_id)
        if not self._is_forgiven(device_id) and self.health.suspect(failure, self.now):
            self.ledger.park(device_id)
        return failure

    def _blame(self, failure: Failure) -> None:
        """Note that a failure was the device's fault."""
        if not self.health.is_suspected_of(failure) or self._is_forgiven(failure.device_id):
            return
        if self.health.blame(failure, self.now):
            self.ledger.park(failure.device_id)

    def _convict(self, culprit: Part, failure: Failure | None) -> None:
        """Note that a failure was a request's fault."""
        if failure is not None:
            failure.may_be_requests = True
            self.health.acquit(failure)
        tenants = self.admission.queued.tenants
        cost = _CULPRIT_BATCHES * self.policy.max_batch_size
        tenants.isolate(culprit.request.tenant, self.now, cost)

    def _is_forgiven(self, device_id: int) -> bool:
        """Return whether failed inferences do not count: those alone never exclude the last device.

        The requests may be their cause.
        """
        is_ready = self.health.state_of(device_id) is DeviceState.READY
        return is_ready and self.ledger.is_last_live(device_id)

    def _may_retry(self) -> bool:
        return self.retry_budget.spend(self.num_first_inferences)

    def _check_devices(self) -> None:
        """Act on timeouts and probes that are due."""
        if self.is_closed:
            return
        if self.stuck_watch.next_at() <= self.now:
            for activation in self.stuck_watch.overdue(self.now):
                self._give_up_on(activation)
        if self.hedge_watch.next_at() <= self.now:
            self.hedging.unhedged += self.hedge_watch.overdue(self.now)
        if self.health.next_probe_at() <= self.now:
            self._probe_devices()

    def _probe_devices(self) -> None:
        for device_id in self.health.due_probes(self.now):
            held = (batch for each in self.ledger.devices[device_id] for batch in each.held)
            if self.health.is_slow(device_id) and not all(each.is_abandoned for each in held):
                self.health.postpone_probe(device_id, self.now)
            elif device_id in self.ledger.leaving:
                self._close_device(device_id)
            else:
                self._commands.reload.append(device_id)

    def _close_device(self, device_id: int) -> None:
        self.ledger.leaving[device_id] = True
        self._commands.close += (device_id,)

    def _record_slowness(self, batch: Batch, slowness: float) -> bool:
        """Return whether an answer was slow; an outlier goes into quarantine."""
        device_id = batch.activation.device_id
        if not self.outliers.record(device_id, slowness, batch.execute_s):
            return False
        state = self.health.state_of(device_id)
        if state is DeviceState.QUARANTINED or self.ledger.is_last_live(device_id):
            self.outliers.forget(device_id)
            return False
        is_on_probation = state is DeviceState.PROBATION
        if self.outliers.is_outlier(device_id, is_on_probation=is_on_probation):
            self.outliers.forget(device_id)
            self.health.quarantine_outlier(device_id, self.now)
            self.ledger.park(device_id)
            self._report(device_id, DeviceNews.SLOW)
        return True

    def _report(self, device_id: int, news: DeviceNews) -> None:
        self._commands.news += ((device_id, news),)

    def _device_reported(self, event: DeviceReported) -> None:
        self._after_answers.append(event)

    def _loop_stalled(self, event: LoopStalled) -> None:
        if event.stalled_s <= 0:
            raise InternalError(f"{event} does not fit")
        self.stalls.add(self.now - event.stalled_s, self.now)
        self.hedging.stalled_until = self.now
        self._after_answers.append(event)

    def _handle_after_answers(self) -> None:
        """Handle what is judged by the answers of the same call: a stall, and news of devices."""
        events, self._after_answers = self._after_answers, []
        for event in events:
            if isinstance(event, LoopStalled):
                self._excuse_devices(event.stalled_s)
            else:
                self._take_news(event.device_id, event.news)

    def _excuse_devices(self, stalled_s: float) -> None:
        """Watch every busy activation as if the time of a stall had not passed."""
        began_at = self.now - stalled_s
        for activation in self.ledger:
            if activation.held:
                activation.busy_since += self.now - max(began_at, activation.busy_since)
                self._watch(activation)

    def _take_news(self, device_id: int, news: DeviceNews) -> None:
        health = self.health
        if self.is_closed or device_id not in self.ledger.devices:
            return
        if news is DeviceNews.RELOADED:
            health.reported_reloaded(device_id, self.now)
        elif news is DeviceNews.READY:
            if health.reported_ready(device_id):
                self.ledger.readmit(device_id)
        elif news is not DeviceNews.SLOW:
            health.found_lost(device_id)
            if health.failed(device_id, Fault.LOST, self.now):
                self.ledger.park(device_id)
                self._abandon_others(device_id)
        elif not (health.is_quarantined(device_id) or self.ledger.is_last_live(device_id)):
            self.outliers.forget(device_id)
            health.quarantine_outlier(device_id, self.now, is_reported=True)
            self.ledger.park(device_id)

    def _give_up_on(self, activation: Activation) -> None:
        """Abandon the batches of a device on which an activation is stuck."""
        batch = next((each for each in activation.held if not each.is_abandoned), None)
        if batch is not None:
            batch.is_abandoned = True
            self._batch_failed(batch, Fault.STUCK)
            batch.unload()
            self._abandon_others(activation.device_id)

    def _abandon_others(self, device_id: int) -> None:
        """Retry the other batches of a stuck device; they keep their slots until it answers."""
        for batch in self.batches.values():
            if batch.activation.device_id == device_id and not batch.is_abandoned:
                batch.is_abandoned = True
                ended = [part for part in batch.parts if self._leaves_flight(part)]
                self._retry_each_alone(ended, batch, Fault.LOST)
                batch.unload()

    def _hedge_late(self) -> None:
        """Hedge the late activations, as far as budget, queue and free slots allow."""
        hedging = self.hedging
        if not hedging.unhedged:
            return
        # Free slots are collected once for all: after the host stood still, many are late.
        spare = hedging.consider(self.batches_queued, self.speeds.num_live, self.num_batches)
        able: list[Activation] = []
        if hedging.has_budget(self.num_batches):
            able = self.ledger.idle() if hedging.is_crowded else self.ledger.with_room()
        hedging.unhedged = [each for each in hedging.unhedged if not self._hedge(each, able, spare)]

    def _hedge(self, activation: Activation, able: list[Activation], spare: float) -> bool:
        """Repeat the batches of a late activation on the `able` ones, but for the `spare` ones.

        Returns False if some of them must wait for a free slot or for the budget.
        """
        hedging = self.hedging
        if not hedging.is_late(activation, self.now):
            return True
        for batch in activation.held:
            parts = hedging.parts_to_hedge(batch)
            if not parts:
                continue
            may_hedge = len(able) > spare and hedging.has_budget(self.num_batches)
            other = least_loaded(able, activation.device_id) if may_hedge else None
            if other is None:
                return False
            hedging.num_hedges += 1
            self._send(parts, other).is_hedge = True
            if hedging.is_crowded or other.in_flight == self.ledger.set_size:
                able.remove(other)
        return True
