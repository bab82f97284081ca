"""The oracle's books: where every sample is and how it ended, by events alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

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
    Event,
    LoopStalled,
    PolicyChanged,
    ReloadFailed,
    SetSizeChanged,
)
from qaic_sched.core.model import Batch, DeviceNews, Fault, Policy, Request, RequestState

__all__ = [
    "Books",
    "DeviceBook",
    "HeldBatch",
    "RequestBook",
    "Violation",
    "cargo_of",
    "name_of",
    "require",
]

ISOLATION_S = 10.0
"""A tenant whose values were rejected shares no inference for this time."""
_LEAST_SLOW_S = 0.010
"""An answer that took less is never slow."""


class Violation(AssertionError):
    """The core broke a promise."""


@dataclass(slots=True, frozen=True)
class LastFailure:
    """A failed or rejected inference, and what became of its parts since."""

    parts: frozenset[tuple[int, int, int]]
    """Its (request, offset, samples)."""
    fault: Fault
    """That of the last inference with the part, which may have been another one."""
    times: int
    """Failures in a row of an inference with these parts."""


@dataclass(slots=True)
class RequestBook:
    """One request, sample by sample."""

    request: Request
    copies: bytearray = field(init=False)
    """Per sample: batches in flight that carry it."""
    done: bytearray = field(init=False)
    """Per sample: whether a batch that was not abandoned has answered it."""
    failures: bytearray = field(init=False)
    """Per sample: how often the last batch that carried it failed."""
    errors: bytearray = field(init=False)
    """Per sample: how many of these failures were failed inferences of its request alone."""
    shared_errors: bytearray = field(init=False)
    """Per sample: how many were failed or rejected inferences shared with other requests."""
    last_failures: dict[tuple[int, int], LastFailure] = field(default_factory=dict)
    """(offset, samples) of a part -> the last failed inference with it."""
    is_bad: bool = False
    """Whether the runtime rejected its values, with no other request in the inference."""
    unsent: int = field(init=False)
    """Samples that are neither done nor in flight."""
    is_cancelled: bool = False

    def __post_init__(self) -> None:
        self.unsent = count = self.request.samples
        self.copies, self.done = bytearray(count), bytearray(count)
        self.failures, self.errors = bytearray(count), bytearray(count)
        self.shared_errors = bytearray(count)


@dataclass(slots=True)
class HeldBatch:
    """A batch without an answer."""

    batch: Batch
    parts: list[tuple[int, int, int]]
    """(request, offset, samples) of each part, as sent."""
    sent_at: float
    is_abandoned: bool = False


@dataclass(slots=True)
class DeviceBook:
    """One device, by its events and commands."""

    last_answers: dict[int, float]
    """When each activation answered last, by index."""
    retiring: set[int] = field(default_factory=set)
    """Indexes of activations to be removed."""
    is_leaving: bool = False
    """Whether the device is to be removed."""
    is_closing: bool = False
    has_failed: bool = False
    """Whether anything since it was opened justifies a reload."""
    is_out: bool = False
    """Whether it was lost or stuck since it was opened, or the core reports a quarantine."""
    is_lost: bool = False
    """Whether anyone has found it lost or restarted since it was opened."""
    is_reloading: bool = False
    is_on_probation: bool = False
    """Whether it was reloaded and has not been reported ready since."""
    errors_in_a_row: int = 0
    """Failed inferences of new requests since its last prompt answer."""
    most_errors_in_a_row: int = 0
    """Maximum of `errors_in_a_row` in this step."""
    slow_in_a_row: int = 0
    """Slow answers in a row, the first answer of each activation excluded."""
    most_slow_in_a_row: int = 0
    """Maximum of `slow_in_a_row` in this step."""
    is_too_slow: bool = False
    """Whether slow answers are the only reason for its quarantine."""
    held: dict[int, HeldBatch] = field(default_factory=dict)

    def wants(self, index: int) -> bool:
        """Return whether an activation is not to be removed."""
        return not (self.is_leaving or index in self.retiring)


class Books:
    """Everything that the events of a run have said so far."""

    def __init__(self, policy: Policy, set_size: int, ample_s: float) -> None:
        self.unresolved: dict[int, RequestBook] = {}
        self._policy = policy
        self._policies = [policy]
        """The current policy, and earlier ones that this step may still have followed."""
        self._most_attempts = policy.max_attempts
        self._set_size = set_size
        self._set_sizes = [set_size]
        self._ample_s = ample_s
        self._num_dropped = 0
        self._num_arrived = 0
        self._num_batches = 0
        self._num_hedges = 0
        self.num_too_slow = 0
        self._num_retries = 0
        self._retries_earned = 0.0
        self._num_batches_before = 0
        self._num_failed = 0
        """Failed inferences, those of abandoned batches excluded."""
        self._isolated: dict[str | None, float] = {}
        """When the isolation ends of each tenant whose values were rejected."""
        self._devices: dict[int, DeviceBook] = {}
        self._held: dict[int, HeldBatch] = {}
        self._resolved: Counter[RequestState] = Counter()
        self._is_closed = self._was_closed = False
        self._is_measured = False
        self._now = 0.0
        self._arrived_now: set[int] = set()
        self._opened_now: set[int] = set()
        self._retired_now: set[int] = set()
        self._reported_now: dict[int, set[DeviceNews]] = {}
        """What other models reported in this step, by device."""
        self._lost_now: set[int] = set()
        """Devices that this model has found lost or restarted in this step."""
        self._stalls: list[tuple[float, float]] = []
        """(begin, end) of each time in which the event loop stood still."""
        self._answered_now: list[tuple[Batch, float]] = []
        """Batches answered in this step, and the most that their execute times may be."""
        self._fastest_s = float("inf")
        """The shortest execute time so far."""
        self._has_failed_now = False
        self._ready_before: set[int] = set()
        """Devices that were ready before this step, with an activation that is to stay."""
        self._out_before: set[int] = set()
        """Devices that were out before this step and were not opened in it."""

    @property
    def num_held(self) -> int:
        """Batches without an answer."""
        return len(self._held)

    def before(self, now: float, events: Sequence[Event]) -> None:
        """Record the events of a call of `handle`."""
        self._now = now
        self._was_closed = self._is_closed
        self._arrived_now, self._opened_now, self._retired_now = set(), set(), set()
        self._policies = [self._policy]
        self._num_batches_before = self._num_batches
        self._set_sizes = [self._set_size]
        self._has_failed_now = any(isinstance(each, Completed) and each.fault for each in events)
        self._reported_now, self._lost_now, self._answered_now = {}, set(), []
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
                case LoopStalled():
                    self._stalls.append((now - event.stalled_s, now))
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
                case DrainStarted() | DeviceReported():
                    pass
        for event in events:
            if isinstance(event, DeviceReported):  # judged by all answers of the step
                self._hear(event)

    def _arrive(self, request: Request) -> None:
        self.unresolved[request.id] = RequestBook(request)
        self._arrived_now.add(request.id)
        self._num_arrived += 1

    def _open(self, event: DeviceOpened) -> None:
        old = self._devices.get(event.device_id)
        self._devices[event.device_id] = DeviceBook(
            dict.fromkeys(range(event.num_activations), -1.0),
            is_leaving=old is not None and old.is_leaving,
            is_on_probation=old is not None,
        )
        self._out_before.discard(event.device_id)
        self._opened_now.add(event.device_id)

    def _hear(self, event: DeviceReported) -> None:
        device = self._devices.get(event.device_id)
        if device is None or self._was_closed:
            return
        self._reported_now.setdefault(event.device_id, set()).add(event.news)
        if event.news in (DeviceNews.LOST, DeviceNews.RESTARTED):
            device.is_out = device.is_lost = device.has_failed = True

    def _stalled_s(self, since: float, until: float) -> float:
        """Return for how long the loop stood still between two times."""
        spans = (min(until, end) - max(since, begin) for begin, end in self._stalls)
        return sum(span for span in spans if span > 0)

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
        device.has_failed |= event.fault not in (None, Fault.INPUT)
        if held.is_abandoned:
            require(not held.batch.parts, f"{name_of(held.batch)} was abandoned and would be used")
            return
        if event.fault in (Fault.LOST, Fault.RESTARTED):
            is_news = not (device.is_lost or device.is_reloading or device.is_closing)
            if is_news and not self._was_closed:
                self._lost_now.add(held.batch.activation.device_id)
            device.is_out = device.is_lost = True
        require(cargo_of(held.batch) == held.parts, f"{name_of(held.batch)} was changed in flight")
        self._is_measured |= event.fault is None
        if event.fault is Fault.INFERENCE and not self._is_sent_again(held):
            device.errors_in_a_row += 1
            device.most_errors_in_a_row = max(device.most_errors_in_a_row, device.errors_in_a_row)
        raw_s = event.completed_at - max(before, held.sent_at)
        execute_s = raw_s - self._misleading_s(max(before, held.sent_at), event.completed_at)
        most_s = max(execute_s, min(raw_s, held.batch.expected_s))
        self._answered_now.append((held.batch, most_s))
        if event.fault is None:
            self._fastest_s = min(self._fastest_s, execute_s)
        is_slow = before >= 0 and execute_s >= _LEAST_SLOW_S - 1e-9
        if event.fault is None and not is_slow:
            device.errors_in_a_row = 0
        if event.fault is None and before >= 0:
            device.slow_in_a_row = device.slow_in_a_row + 1 if is_slow else 0
            device.most_slow_in_a_row = max(device.most_slow_in_a_row, device.slow_in_a_row)
        self._num_failed += event.fault is Fault.INFERENCE
        self._settle(held, event.fault)

    def _misleading_s(self, start: float, end: float) -> float:
        """Return how much of an execute time is a stall, by the rules of `core.stalls`."""
        shows = [
            each for each in self._stalls if end >= each[1] - min(0.05, (each[1] - each[0]) / 2)
        ]
        spans = (min(end, until) - max(start, begin) for begin, until in shows)
        return sum(span for span in spans if span > 0)

    def _is_sent_again(self, held: HeldBatch) -> bool:
        """Return whether an inference with one of these parts failed before."""
        books = ((self.unresolved.get(part[0]), part[1:]) for part in held.parts)
        return any(book is not None and part in book.last_failures for book, part in books)

    def _settle(self, held: HeldBatch, fault: Fault | None) -> None:
        is_good, is_shared = fault is None, len(held.parts) > 1
        is_error = fault is Fault.INFERENCE or fault is Fault.INPUT
        for request_id, offset, samples in held.parts:
            account = self.unresolved.get(request_id)
            if account is None:
                continue
            part = offset, samples
            is_over = account.copies[offset] == 1 and not account.done[offset]
            if is_over and is_error and fault is not None:
                self._note_failure(account, held, fault, part)
            elif is_over and fault is not None and part in account.last_failures:
                last = account.last_failures[part]
                account.last_failures[part] = replace(last, fault=fault)
            for index in range(offset, offset + samples):
                account.copies[index] -= 1
                if is_good:
                    account.done[index] = 1
                elif not (account.copies[index] or account.done[index]):
                    account.unsent += 1
                    account.failures[index] += 1
                    account.errors[index] += is_error and not is_shared
                    account.shared_errors[index] += is_error and is_shared

    def _note_failure(
        self, account: RequestBook, held: HeldBatch, fault: Fault, part: tuple[int, int]
    ) -> None:
        parts, last = frozenset(held.parts), account.last_failures.get(part)
        times = 1 + (last.times if last is not None and last.parts == parts else 0)
        account.last_failures[part] = LastFailure(parts, fault, times)
        if fault is Fault.INPUT and len(parts) == 1:
            account.is_bad = True
            self._isolated[account.request.tenant] = self._now + ISOLATION_S

    def _device_of(self, batch: Batch) -> DeviceBook:
        return self._devices[batch.activation.device_id]


def require(holds: bool, message: str) -> None:
    """Raise `Violation` with this message unless a promise holds."""
    if not holds:
        raise Violation(message)


def name_of(batch: Batch) -> str:
    """Return a batch's id and place, for messages."""
    return f"batch {batch.id} on {batch.activation.device_id}/{batch.activation.index}"


def cargo_of(batch: Batch) -> list[tuple[int, int, int]]:
    """Return (request id, offset, samples) of each part."""
    return [(part.request.id, part.offset, part.samples) for part in batch.parts]
