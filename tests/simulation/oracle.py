"""What the core promises, told from its events and commands alone.

The oracle knows nothing of queues, slots or estimates. It keeps which samples were sent where and
what became of them, and raises `Violation` at the first command that breaks a promise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

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
    Event,
    PolicyChanged,
    ReloadFailed,
    SetSizeChanged,
)
from qaic_sched.core.model import Batch, Fault, Policy, Request, RequestState, Statistics

__all__ = ["Oracle", "Violation"]

_LEAST_TIMEOUT_S = 1.0
"""Nothing may count as stuck sooner, unless the policy says when it does."""
_MOST_GIVEN_UP = 10
"""Requests in a row that may be given up on an idle host that had ample time for them: what is
expected may be wrong, and shows only where something is tried now and then."""


_RETRY_RESERVE = 16
"""Full batches of samples that may be tried again before the budget for retries counts."""


_LEAST_SLOW_S = 0.010
_LEAST_SLOW = 3
"""A device is too slow after so many answers in a row that took so long each, never sooner."""


class Violation(AssertionError):
    """The core broke a promise."""


@dataclass(slots=True)
class _Account:
    """One request, sample by sample."""

    request: Request
    copies: bytearray = field(init=False)
    """How many batches in flight carry the sample."""
    done: bytearray = field(init=False)
    """Whether it was answered by a batch that was not given up."""
    failures: bytearray = field(init=False)
    """How often it was left with no batch that carries it."""
    errors: bytearray = field(init=False)
    """How often that was the inference's fault."""
    unsent: int = field(init=False)
    """Samples that are neither done nor in flight."""
    is_cancelled: bool = False

    def __post_init__(self) -> None:
        self.unsent = count = self.request.samples
        self.copies, self.done = bytearray(count), bytearray(count)
        self.failures, self.errors = bytearray(count), bytearray(count)


@dataclass(slots=True)
class _Held:
    """A batch that a device has not answered."""

    batch: Batch
    parts: list[tuple[int, int, int]]
    """(request, offset, samples) of each part, as sent."""
    sent_at: float
    is_given_up: bool = False


@dataclass(slots=True)
class _Device:
    """What is known of a device."""

    last_answers: dict[int, float]
    """When each of its activations answered last."""
    retiring: set[int] = field(default_factory=set)
    """Those that are wanted no more."""
    is_leaving: bool = False
    """Whether the whole device is wanted no more."""
    is_closing: bool = False
    has_failed: bool = False
    """Whether it gave any reason to be reloaded since it was opened."""
    is_out: bool = False
    """Whether it was lost or stuck since it was opened, or is in quarantine as the core says."""
    is_reloading: bool = False
    failed_at: float = -1.0
    """When it gave the last such reason."""
    slow_in_a_row: int = 0
    most_slow_in_a_row: int = 0
    """... at any time in this step."""
    """Answers, but for an activation's first, that took long enough to be called slow."""
    is_too_slow: bool = False
    """Whether it is out for no other reason."""
    held: dict[int, _Held] = field(default_factory=dict)

    def wants(self, index: int) -> bool:
        """Whether one of its activations is not to be given back."""
        return not (self.is_leaving or index in self.retiring)


class Oracle:
    """To be told of the events before each `handle`, and of what came of them after it."""

    def __init__(self, policy: Policy, set_size: int, ample_s: float) -> None:
        self.unresolved: dict[int, _Account] = {}
        self._policy = policy
        self._policies = [policy]
        """That of now, and those of before that this step may have followed still."""
        self._most_attempts = policy.max_attempts
        self._set_size = set_size
        self._set_sizes = [set_size]
        self._ample_s = ample_s
        self._given_up = 0
        self._num_arrived = 0
        self._num_batches = 0
        self._num_hedges = 0
        self.num_too_slow = 0
        self._num_retries = 0
        self._retries_earned = 0.0
        self._num_batches_before = 0
        """Parts whose inference failed and that were not given up."""
        self._num_failed = 0
        self._failed_now: list[int] = []
        self._devices: dict[int, _Device] = {}
        self._held: dict[int, _Held] = {}
        self._resolved: Counter[RequestState] = Counter()
        self._is_closed = self._was_closed = False
        self._is_measured = False
        self._now = 0.0
        self._arrived_now: set[int] = set()
        self._opened_now: set[int] = set()
        self._retired_now: set[int] = set()
        self._has_failed_now = False
        self._ready_before: set[int] = set()
        """Devices that were ready before this step with something that is not to be given back."""
        self._out_before: set[int] = set()
        """Devices that were out of service before this step, and were not opened in it."""

    @property
    def num_held(self) -> int:
        """Batches that no device has answered."""
        return len(self._held)

    def before(self, now: float, events: Sequence[Event]) -> None:
        """Take in what happened."""
        self._now = now
        self._was_closed = self._is_closed
        self._arrived_now, self._opened_now, self._retired_now = set(), set(), set()
        self._policies = [self._policy]
        self._num_batches_before = self._num_batches
        self._set_sizes = [self._set_size]
        self._has_failed_now = any(isinstance(each, Completed) and each.fault for each in events)
        self._failed_now = []
        self._out_before = {each for each, device in self._devices.items() if device.is_out}
        for event in events:
            match event:
                case Request():
                    self._arrive(event)
                case Completed():
                    self._answer(event)
                case DeviceOpened():
                    self._open(event)
                case ReloadFailed():
                    self._devices[event.device_id].is_reloading = False
                case ActivationsAdded():
                    new = dict.fromkeys(event.indexes, -1.0)
                    self._devices[event.device_id].last_answers.update(new)
                case ActivationsRetired():
                    self._devices[event.device_id].retiring.update(event.indexes)
                    self._retired_now.add(event.device_id)
                case DeviceRetired():
                    self._devices[event.device_id].is_leaving = True
                    self._retired_now.add(event.device_id)
                case SetSizeChanged():
                    self._set_size = event.set_size
                    self._set_sizes.append(event.set_size)
                case PolicyChanged():
                    self._change_policy(event.policy)
                case Cancelled():
                    if event.request_id in self.unresolved:
                        self.unresolved[event.request_id].is_cancelled = True
                case Closed():
                    self._is_closed = True
                case DrainStarted():
                    pass

    def after(self, commands: Commands, statistics: Statistics, wakeup: float | None) -> None:
        """Hold what the core decided against its promises."""
        self._find_given_up()
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
        self._check_deadlines()
        self._check_statistics(statistics)
        self._check_retirement(statistics)
        _require(wakeup is None or wakeup > self._now, f"to be woken at {wakeup}, which is past")
        if not self._is_closed and wakeup is None:
            for device_id, device in self._devices.items():
                forgotten = device.is_out and not (device.is_reloading or device.is_closing)
                _require(not forgotten, f"device {device_id} is out and never to be probed")

    # What happened

    def _arrive(self, request: Request) -> None:
        self.unresolved[request.id] = _Account(request)
        self._arrived_now.add(request.id)
        self._num_arrived += 1

    def _open(self, event: DeviceOpened) -> None:
        old = self._devices.get(event.device_id)
        self._devices[event.device_id] = _Device(
            dict.fromkeys(range(event.num_activations), -1.0),
            is_leaving=old is not None and old.is_leaving,
        )
        self._out_before.discard(event.device_id)
        self._opened_now.add(event.device_id)

    def _change_policy(self, policy: Policy) -> None:
        self._policy = policy
        self._policies.append(policy)
        self._most_attempts = max(self._most_attempts, policy.max_attempts)
        self._num_hedges = 0

    def _answer(self, event: Completed) -> None:
        held = self._held.pop(event.batch_id)
        device = self._device_of(held.batch)
        del device.held[event.batch_id]
        index = held.batch.activation.index
        before, device.last_answers[index] = device.last_answers[index], event.completed_at
        if event.fault is not None:
            device.has_failed, device.failed_at = True, self._now
        if held.is_given_up:
            _require(not held.batch.parts, f"{_name(held.batch)} was given up and would be used")
            return
        if event.fault in (Fault.LOST, Fault.RESTARTED):
            device.is_out = True
        _require(_cargo(held.batch) == held.parts, f"{_name(held.batch)} was changed in flight")
        self._is_measured |= event.fault is None
        if event.fault is None and before >= 0:
            is_slow = event.completed_at - max(before, held.sent_at) >= _LEAST_SLOW_S - 1e-9
            device.slow_in_a_row = device.slow_in_a_row + 1 if is_slow else 0
            device.most_slow_in_a_row = max(device.most_slow_in_a_row, device.slow_in_a_row)
        self._land(held, is_good=event.fault is None, is_error=event.fault is Fault.INFERENCE)

    def _land(self, held: _Held, *, is_good: bool, is_error: bool) -> None:
        for request_id, offset, samples in held.parts:
            account = self.unresolved.get(request_id)
            if account is None:
                continue
            if is_error and not any(account.done[offset : offset + samples]):
                is_last = account.copies[offset] == 1
                self._failed_now += [request_id] * is_last
                self._num_failed += is_last
            for row in range(offset, offset + samples):
                account.copies[row] -= 1
                if is_good:
                    account.done[row] = 1
                elif not (account.copies[row] or account.done[row]):
                    account.unsent += 1
                    account.failures[row] += 1
                    account.errors[row] += is_error

    # What was decided

    def _find_given_up(self) -> None:
        for held in self._held.values():
            if not held.batch.is_abandoned or held.is_given_up:
                continue
            device = self._device_of(held.batch)
            _require(self._is_stuck(device), f"{_name(held.batch)} was given up too soon")
            held.is_given_up = device.is_out = device.has_failed = True
            self._land(held, is_good=False, is_error=False)

    def _is_stuck(self, device: _Device) -> bool:
        limits = [each.dispatch_timeout_s or _LEAST_TIMEOUT_S for each in self._policies]
        timeout_s = min(limits)
        since: dict[int, float] = {}
        for held in device.held.values():
            index = held.batch.activation.index
            since.setdefault(index, max(held.sent_at, device.last_answers[index]))
        return any(self._now - each >= timeout_s - 1e-9 for each in since.values())

    def _check_dispatch(self, batch: Batch) -> None:
        name, activation = _name(batch), batch.activation
        parts = _cargo(batch)
        device = self._devices.get(activation.device_id)
        if device is None or activation.index not in device.last_answers:
            raise Violation(f"{name}: there is no such activation")
        self._check_wanted(name, activation.device_id, activation.index)
        _require(batch.id not in self._held, f"{name}: sent twice")
        _require(activation.device_id not in self._out_before, f"{name}: the device is out")
        # What arrives may be sent at once, before events behind it in the same step.
        if not self._arrived_now:
            _require(not self._was_closed, f"{name}: sent after the close")
            _require(not device.is_out, f"{name}: the device went out in this step")
        load = sum(each.batch.activation is activation for each in device.held.values())
        _require(load < max(self._set_sizes), f"{name}: beyond set_size")
        _require(batch.size in self._policy.batch_sizes, f"{name}: size {batch.size} not compiled")
        samples = sum(samples for _, _, samples in parts)
        _require(0 < samples == batch.samples <= batch.size, f"{name}: {samples} samples in it")
        self._given_up = 0
        self._num_batches += 1
        self._num_hedges += batch.is_hedge
        extra = max(each.hedge_max_extra for each in self._policies)
        most = 1 + extra * self._num_batches
        _require(self._num_hedges <= most, f"{name}: a hedge beyond the budget")
        for part in parts:
            self._send(name, part, batch.is_hedge)
        held = _Held(batch, parts, self._now)
        self._held[batch.id] = device.held[batch.id] = held

    def _send(self, name: str, part: tuple[int, int, int], is_hedge: bool) -> None:
        request_id, offset, samples = part
        account = self.unresolved.get(request_id)
        if account is None:
            raise Violation(f"{name}: request {request_id} is resolved already")
        rows = slice(offset, offset + samples)
        before = account.copies[rows]
        text = f"{name}: request {request_id}[{offset}:{offset + samples}]"
        _require(len(before) == samples, f"{text} is not in the request")
        _require(not any(account.done[rows]), f"{text} was answered already")
        if is_hedge:
            _require(before == bytes([1]) * samples, f"{text} is not in flight once")
        else:
            _require(not any(before), f"{text} is in flight already")
            account.unsent -= samples
        tried = max(account.errors[rows])
        _require(tried < self._most_attempts, f"{text} was tried {tried} times")
        for row in range(offset, offset + samples):
            account.copies[row] += 1

    def _check_resolve(self, request: Request) -> None:
        name, state = f"request {request.id}, {request.state.value}", request.state
        account = self.unresolved.pop(request.id, None)
        if account is None or account.request is not request:
            raise Violation(f"{name}: resolved twice")
        self._resolved[state] += 1
        match state:
            case RequestState.DONE:
                _require(all(account.done), f"{name}: not all of it was answered")
                _require(request.last_batch is not None, f"{name}: and nobody knows where")
            case RequestState.FAILED:
                least = min(each.max_attempts for each in self._policies)
                is_tried = max(account.failures) >= least
                # Whoever failed may have taken a retry, and been resolved in the same step.
                is_beyond = any(account.errors) and self._num_failed > self._retry_reserve
                may = is_tried or is_beyond or self._all_out()
                _require(may, f"{name}: with attempts left")
            case RequestState.CANCELLED:
                _require(account.is_cancelled or self._is_closed, f"{name}: nobody wanted that")
            case RequestState.EXPIRED:
                self._check_expiry(name, request)
            case RequestState.REJECTED:
                _require(request.id in self._arrived_now, f"{name}: it was accepted")
                self._check_refusal(name, request)
            case _:
                raise Violation(f"{name}: that is no end")

    def _check_refusal(self, name: str, request: Request) -> None:
        if request.wait_s is None:
            waits = all(each.waits_when_full for each in self._policies)
            _require(not waits, f"{name}: it could have waited")
            return
        _require(request.deadline is not None, f"{name}: it had no deadline")
        _require(self._is_measured, f"{name}: for its deadline, and nothing was measured")
        retry_s = request.retry_after_s or 0.0
        _require(0 < retry_s <= request.wait_s + 1e-9, f"{name}: to come again in {retry_s} s")

    @property
    def _retry_reserve(self) -> int:
        return _RETRY_RESERVE * self._policy.max_batch_size

    def _check_retries(self) -> None:
        """Count what was given another try; a lost device's share is on no budget."""
        self._num_retries += sum(each in self.unresolved for each in self._failed_now)
        share = max(each.retry_max_extra for each in self._policies)
        self._retries_earned += share * (self._num_batches - self._num_batches_before)
        most = self._retry_reserve + self._retries_earned + 1e-6  # summed up one by one
        _require(self._num_retries <= most, f"{self._num_retries} retries, beyond the budget")

    def _check_expiry(self, name: str, request: Request) -> None:
        if request.deadline is None:
            raise Violation(f"{name}: it had no deadline")
        left_s = request.deadline - self._now
        _require(left_s <= 0 or self._is_measured, f"{name}: early, and nothing was measured")
        fits = request.samples <= self._policy.max_batch_size
        self._given_up += fits and not self._held and left_s > self._ample_s
        count = self._given_up
        _require(count <= _MOST_GIVEN_UP, f"{name}: {count} given up in a row, nothing tried")

    def _all_out(self) -> bool:
        # What arrives may be decided at once, before a device opens in the same step.
        late = self._opened_now if self._arrived_now else ()
        outs = [device.is_out for each, device in self._devices.items() if each not in late]
        return bool(self._devices) and all(outs)

    def _check_reload(self, device_id: int) -> None:
        device = self._devices[device_id]
        _require(not self._is_closed, f"device {device_id}: a reload after the close")
        _require(device.has_failed, f"device {device_id}: a reload though it never failed")
        _require(not device.is_reloading, f"device {device_id}: a reload during another")
        is_unwanted = device.is_leaving and device_id not in self._retired_now
        _require(not is_unwanted, f"device {device_id}: a reload, and nobody wants it")
        busy = device.is_too_slow and not all(each.is_given_up for each in device.held.values())
        _require(not busy, f"device {device_id}: slow, and not allowed to finish")
        device.is_out = device.is_reloading = True

    def _check_wanted(self, name: str, device_id: int, index: int) -> None:
        """Nothing goes to what is to be given back, while something else is there to work."""
        if self._devices[device_id].wants(index) or device_id in self._retired_now:
            return
        ready = {each for each in self._ready_before if each in self._devices}
        ready = {each for each in ready if not self._devices[each].is_out} - self._retired_now
        # Whoever failed in this step may be out by now.
        _require(not ready or self._has_failed_now, f"{name}: it was to be given back")

    def _check_unload(self, device_id: int, indexes: tuple[int, ...]) -> None:
        device, name = self._devices[device_id], f"unloading {device_id}/{indexes}"
        _require(not self._was_closed, f"{name}: after the close")
        # The device itself may have been asked for later in this step.
        is_whole = device.is_leaving and device_id not in self._retired_now
        _require(device.retiring == {*indexes} and not is_whole, f"{name}: unasked")
        held = {each.batch.activation.index for each in device.held.values()}
        _require(held.isdisjoint(indexes), f"{name}: at work")
        device.retiring.clear()
        for index in indexes:
            del device.last_answers[index]

    def _check_close(self, device_id: int) -> None:
        device, name = self._devices[device_id], f"closing device {device_id}"
        _require(not self._was_closed, f"{name}: after the close")
        _require(device.is_leaving and not device.is_closing, f"{name}: unasked")
        _require(not device.is_reloading, f"{name}: while it is being reloaded")
        _require(not device.held or device.is_out, f"{name}: at work")
        device.is_closing = True

    def _forget_closed(self) -> None:
        if self._was_closed:
            return
        closed = [each for each, its in self._devices.items() if its.is_closing and not its.held]
        for device_id in closed:
            del self._devices[device_id]

    def _check_retirement(self, told: Statistics) -> None:
        """What holds nothing is given back at once, while something else is there to work."""
        ready = {
            each
            for each, its in self._devices.items()
            if told.devices[each].state == "ready" and any(map(its.wants, its.last_answers))
        }
        self._ready_before = ready
        if not ready or self._is_closed:
            return
        for device_id, device in self._devices.items():
            busy = {each.batch.activation.index for each in device.held.values()}
            may_go = not (device.is_reloading or device.is_out)
            if device.is_leaving:
                is_kept = may_go and not busy
            else:
                is_kept = may_go and bool(device.retiring) and busy.isdisjoint(device.retiring)
            _require(not is_kept, f"device {device_id} holds what nobody wants: {device.retiring}")

    def _note_quarantines(self, statistics: Statistics) -> None:
        _require(statistics.devices.keys() == self._devices.keys(), "which devices there are")
        for device_id, told in statistics.devices.items():
            is_out = told.state == "quarantined"
            device = self._devices[device_id]
            _require(is_out or not device.is_out, f"device {device_id} is out and {told.state}")
            if is_out and not device.is_out and device.failed_at < self._now:
                self._check_too_slow(device_id, device)
            device.is_out = is_out
            device.most_slow_in_a_row = device.slow_in_a_row

    def _check_too_slow(self, device_id: int, device: _Device) -> None:
        many = device.most_slow_in_a_row >= _LEAST_SLOW
        _require(many, f"device {device_id}: shut, and it neither failed nor was slow")
        others = self._devices.keys() - self._out_before - {device_id}
        _require(bool(others), f"device {device_id}: shut for being slow, and it was the last")
        device.has_failed = device.is_too_slow = True
        self.num_too_slow += 1

    def _check_deadlines(self) -> None:
        for account in self.unresolved.values():
            deadline = account.request.deadline
            is_over = deadline is not None and deadline <= self._now
            _require(not is_over, f"request {account.request.id} is past its deadline {deadline}")

    def _check_statistics(self, told: Statistics) -> None:
        for state, count in self._resolved.items():
            said = getattr(told, state.value)
            _require(said == count, f"{said} said to be {state.value}, in truth {count}")
        _require(told.accepted + told.rejected == self._num_arrived, "accepted and rejected")
        here = told.waiting + told.queued + told.in_flight
        _require(here == len(self.unresolved), f"{here} here, in truth {len(self.unresolved)}")
        in_flight = sum(not account.unsent for account in self.unresolved.values())
        _require(told.in_flight == in_flight, f"{told.in_flight} in flight, in truth {in_flight}")
        for device_id, device in self._devices.items():
            said, truth = told.devices[device_id].in_flight, len(device.held)
            _require(said == truth, f"device {device_id} said to hold {said}, in truth {truth}")

    def _device_of(self, batch: Batch) -> _Device:
        return self._devices[batch.activation.device_id]


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise Violation(message)


def _name(batch: Batch) -> str:
    return f"batch {batch.id} on {batch.activation.device_id}/{batch.activation.index}"


def _cargo(batch: Batch) -> list[tuple[int, int, int]]:
    return [(part.request.id, part.offset, part.samples) for part in batch.parts]
