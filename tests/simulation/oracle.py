"""The core's promises, checked from its events and commands alone.

The oracle knows nothing of queues, slots or estimates. It keeps books on every sample (`books`),
and raises `Violation` at the first command that breaks a promise.
"""

from __future__ import annotations

from qaic_sched.core.commands import Commands
from qaic_sched.core.model import Batch, DeviceNews, Fault, Request, RequestState, Statistics
from tests.simulation.books import HeldBatch, Violation, cargo_of, name_of, require
from tests.simulation.device_promises import DevicePromises

__all__ = ["Oracle"]

_MOST_DROPPED = 10
"""Requests in a row that may be dropped ahead of deadlines that an idle host could have met: the
expected times may be wrong, and only an inference now and then can show that."""
_LEAST_LATE_S = 0.010
"""An inference is never hedged sooner."""
_RETRY_RESERVE = 16
"""Full batches of samples that may be retried before the budget for retries applies."""


class Oracle(DevicePromises):
    """Checks a run: call `before` with the events of each `handle`, `after` with its commands."""

    def after(self, commands: Commands, statistics: Statistics, wakeup: float | None) -> None:
        """Check the commands of a call of `handle`, and the state after it."""
        self._find_abandoned()
        for device_id, indexes in commands.unload:
            self._check_unload(device_id, indexes)
        for device_id in commands.close:
            self._check_close(device_id)
        self._forget_closed()
        for batch in commands.dispatch:
            self._check_dispatch(batch)
        self._note_quarantines(statistics)
        for request in commands.resolve:
            self._check_resolve(request)
        self._check_retries()
        for device_id in commands.reload:
            self._check_reload(device_id)
        bad = [each for each, book in self.unresolved.items() if book.is_bad]
        require(not bad, f"requests {bad}: their values were rejected, and they did not fail")
        self._check_deadlines()
        self._check_statistics(statistics)
        self._check_retirement(statistics)
        self._check_news(commands)
        self._check_times()
        self._check_closing(wakeup)
        require(wakeup is None or wakeup > self._now, f"the next wakeup {wakeup} is past")
        if not self._is_closed and wakeup is None:
            for device_id, device in self._devices.items():
                forgotten = device.is_out and not (device.is_reloading or device.is_closing)
                require(not forgotten, f"device {device_id} is out and is never probed")

    def _find_abandoned(self) -> None:
        for held in self._held.values():
            if not held.batch.is_abandoned or held.is_abandoned:
                continue
            device = self._device_of(held.batch)
            may = self._is_stuck(device) or self._is_reported_lost(held.batch)
            require(may, f"{name_of(held.batch)} was abandoned too soon")
            held.is_abandoned = device.is_out = device.has_failed = True
            self._settle(held, Fault.STUCK)

    def _is_reported_lost(self, batch: Batch) -> bool:
        news = self._reported_now.get(batch.activation.device_id, set())
        return bool(news & {DeviceNews.LOST, DeviceNews.RESTARTED})

    def _check_closing(self, wakeup: float | None) -> None:
        """While everything idles, no deadline comes nearer than an inference takes."""
        if self._held or self._is_closed or not (self._is_measured and self._ready_before):
            return
        for account in self.unresolved.values():
            deadline = account.request.deadline
            if account.unsent and deadline is not None:
                latest = deadline - self._fastest_s / 2
                in_time = wakeup is not None and wakeup <= max(latest, self._now) + 1e-9
                require(in_time, f"request {account.request.id} waits for company too long")

    def _check_dispatch(self, batch: Batch) -> None:
        name, activation = name_of(batch), batch.activation
        parts = cargo_of(batch)
        device = self._devices.get(activation.device_id)
        if device is None or activation.index not in device.last_answers:
            raise Violation(f"{name}: there is no such activation")
        self._check_wanted(name, activation.device_id, activation.index)
        require(batch.id not in self._held, f"{name}: sent twice")
        require(activation.device_id not in self._out_before, f"{name}: the device is out")
        # A request may be sent on arrival, before later events of the same step are handled.
        if not self._arrived_now:
            require(not self._was_closed, f"{name}: sent after the close")
            require(not device.is_out, f"{name}: the device failed in this step")
        load = sum(each.batch.activation is activation for each in device.held.values())
        require(load < max(self._set_sizes), f"{name}: beyond set_size")
        self._check_size(name, batch, parts)
        samples = sum(samples for _, _, samples in parts)
        require(0 < samples == batch.samples <= batch.size, f"{name}: {samples} samples in it")
        self._num_dropped = 0
        self._num_batches += 1
        self._num_hedges += batch.is_hedge
        extra = max(each.hedge_max_extra for each in self._policies)
        most = 1 + extra * self._num_batches
        require(self._num_hedges <= most, f"{name}: a hedge beyond the budget")
        if not batch.is_hedge:
            self._check_company(name, batch, parts)
        for part in parts:
            self._send(name, part, batch.is_hedge)
        held = HeldBatch(batch, parts, self._now)
        self._held[batch.id] = device.held[batch.id] = held

    def _check_size(self, name: str, batch: Batch, parts: list[tuple[int, int, int]]) -> None:
        policy = self._policy
        if policy.takes_any_size:
            require(batch.size == batch.samples, f"{name}: padded to size {batch.size}")
        else:
            require(batch.size in policy.batch_sizes, f"{name}: size {batch.size} not compiled")
        if policy.shares_rows:
            return
        require(len(parts) == 1, f"{name}: {len(parts)} parts share the inference")
        [(request_id, offset, samples)] = parts
        account = self.unresolved.get(request_id)
        whole = samples if account is None else account.request.samples
        require((offset, samples) == (0, whole), f"{name}: request {request_id} is split")

    def _send(self, name: str, part: tuple[int, int, int], is_hedge: bool) -> None:
        request_id, offset, samples = part
        account = self.unresolved.get(request_id)
        if account is None:
            raise Violation(f"{name}: request {request_id} is resolved already")
        span = slice(offset, offset + samples)
        before = account.copies[span]
        text = f"{name}: request {request_id}[{offset}:{offset + samples}]"
        require(len(before) == samples, f"{text} is not in the request")
        require(not any(account.done[span]), f"{text} was answered already")
        if is_hedge:
            require(before == bytes([1]) * samples, f"{text} is not in flight once")
            require(self._may_be_late(part), f"{text} is hedged too soon")
        else:
            require(not any(before), f"{text} is in flight already")
            account.unsent -= samples
        for index in range(offset, offset + samples):
            account.copies[index] += 1

    def _check_company(self, name: str, batch: Batch, parts: list[tuple[int, int, int]]) -> None:
        """What failed together is sent again together or in smaller groups, never with others."""
        books = [self.unresolved.get(part[0]) for part in parts]
        lasts = [
            book.last_failures.get(part[1:])
            for book, part in zip(books, parts, strict=True)
            if book is not None
        ]
        if not any(lasts):
            tenants = {part.request.tenant for part in batch.parts}
            # Parts of a lost device are new here, and alone.
            apart = [each for each in tenants if self._isolated.get(each, 0.0) > self._now]
            require(not apart or len(tenants) == 1, f"{name}: {apart} shares it with others")
            return
        for last in lasts:
            if last is None:
                raise Violation(f"{name}: what failed before is sent with what did not")
            require(last.parts.issuperset(parts), f"{name}: in other company than before")
            if last.parts == {*parts}:
                times = last.times
                require(times < self._most_attempts, f"{name}: was tried {times} times")
                require(last.fault is not Fault.INPUT, f"{name}: rejected values, and not split")
        is_whole = lasts[0] is not None and lasts[0].parts == {*parts}
        self._num_retries += is_whole and lasts[0].fault is Fault.INFERENCE

    def _may_be_late(self, part: tuple[int, int, int]) -> bool:
        """Return whether an activation with this part has run for a while, stalls excluded."""
        end = self._stalls[-1][1] if self._stalls else 0.0
        for held in self._held.values():
            if part in held.parts:
                device, index = self._device_of(held.batch), held.batch.activation.index
                own = (
                    each for each in device.held.values() if each.batch.activation.index == index
                )
                since = max(min(each.sent_at for each in own), device.last_answers[index], end)
                if self._now - since >= _LEAST_LATE_S - 1e-9:
                    return True
        return False

    def _check_resolve(self, request: Request) -> None:
        name, state = f"request {request.id}, {request.state.value}", request.state
        account = self.unresolved.pop(request.id, None)
        if account is None or account.request is not request:
            raise Violation(f"{name}: resolved twice")
        self._resolved[state] += 1
        match state:
            case RequestState.DONE:
                require(all(account.done), f"{name}: some samples were never answered")
                require(request.last_batch is not None, f"{name}: without its last batch")
            case RequestState.FAILED:
                least = min(each.max_attempts for each in self._policies)
                # Failures that it shared with others may be the fault of those.
                own = zip(account.failures, account.shared_errors, strict=True)
                is_tried = max(all_ - shared for all_, shared in own) >= least or account.is_bad
                # A request may have spent a retry and been resolved in the same step.
                is_beyond = any(account.errors) and self._num_failed > self._retry_reserve
                may = is_tried or is_beyond or self._all_out()
                require(may, f"{name}: with attempts left")
            case RequestState.CANCELLED:
                require(
                    account.is_cancelled or self._is_closed, f"{name}: not cancelled by its caller"
                )
            case RequestState.EXPIRED:
                self._check_expiry(name, request)
            case RequestState.REJECTED:
                require(request.id in self._arrived_now, f"{name}: it was accepted")
                self._check_rejection(name, request)
            case _:
                raise Violation(f"{name}: not a final state")

    def _check_rejection(self, name: str, request: Request) -> None:
        if request.wait_s is None:
            waits = all(each.waits_when_full for each in self._policies)
            require(not waits, f"{name}: it should have waited")
            return
        require(request.deadline is not None, f"{name}: it had no deadline")
        require(self._is_measured, f"{name}: for its deadline, before anything was measured")
        retry_s = request.retry_after_s or 0.0
        require(0 < retry_s <= request.wait_s + 1e-9, f"{name}: retry_after_s is {retry_s}")

    @property
    def _retry_reserve(self) -> int:
        return _RETRY_RESERVE * self._policy.max_batch_size

    def _check_retries(self) -> None:
        """Retries of failed inferences have a budget; those after a loss and splits have none."""
        share = max(each.retry_max_extra for each in self._policies)
        self._retries_earned += share * (self._num_batches - self._num_batches_before)
        most = self._retry_reserve + self._retries_earned + 1e-6  # a sum of many fractions
        require(self._num_retries <= most, f"{self._num_retries} retries, beyond the budget")

    def _check_expiry(self, name: str, request: Request) -> None:
        if request.deadline is None:
            raise Violation(f"{name}: it had no deadline")
        left_s = request.deadline - self._now
        require(left_s <= 0 or self._is_measured, f"{name}: early, before anything was measured")
        fits = request.samples <= self._policy.max_batch_size or self._policy.takes_any_size
        self._num_dropped += fits and not self._held and left_s > self._ample_s
        count = self._num_dropped
        require(count <= _MOST_DROPPED, f"{name}: {count} dropped in a row, none tried")

    def _all_out(self) -> bool:
        # A request may be decided on arrival, before a device opens in the same step.
        late = self._opened_now if self._arrived_now else ()
        outs = [device.is_out for each, device in self._devices.items() if each not in late]
        return bool(self._devices) and all(outs)

    def _check_deadlines(self) -> None:
        for account in self.unresolved.values():
            deadline = account.request.deadline
            is_over = deadline is not None and deadline <= self._now
            require(not is_over, f"request {account.request.id} is past its deadline {deadline}")

    def _check_statistics(self, statistics: Statistics) -> None:
        for state, count in self._resolved.items():
            said = getattr(statistics, state.value)
            require(said == count, f"{said} reported {state.value}, in truth {count}")
        require(
            statistics.accepted + statistics.rejected == self._num_arrived, "accepted and rejected"
        )
        here = statistics.waiting + statistics.queued + statistics.in_flight
        require(here == len(self.unresolved), f"{here} here, in truth {len(self.unresolved)}")
        in_flight = sum(not account.unsent for account in self.unresolved.values())
        require(
            statistics.in_flight == in_flight,
            f"{statistics.in_flight} in flight, in truth {in_flight}",
        )
        for device_id, device in self._devices.items():
            said, truth = statistics.devices[device_id].in_flight, len(device.held)
            require(said == truth, f"device {device_id} reported to hold {said}, in truth {truth}")
