"""Drives the pure core through a scenario: events in, commands out, in simulated time.

The driver calls `handle` only with events or at the time that `next_wakeup` returns. So a wakeup
that the core forgets leaves work undone, which is a violation.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from traceback import extract_tb

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
    Event,
    LoopStalled,
    PolicyChanged,
    ReloadFailed,
    SetSizeChanged,
)
from qaic_sched.core.invariants import check_invariants
from qaic_sched.core.model import Request
from qaic_sched.core.state import SchedulerState
from qaic_sched.scheduler.event_log import EventLog
from tests.simulation.books import Violation
from tests.simulation.devices import PlayedDevice, Timeline
from tests.simulation.oracle import Oracle
from tests.simulation.scenario import (
    Arrival,
    Change,
    DeviceFate,
    Report,
    Scenario,
    make_scenario,
)

__all__ = ["Simulation", "describe", "find_violation", "trace"]

_MAX_STEPS = 20_000


class Simulation:
    """One run of a scenario; `emit` gets every line of its trace, `log` every call."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        emit: Callable[[str], None] | None = None,
        log: EventLog | None = None,
        checks_invariants: bool = True,
    ) -> None:
        self.scenario = scenario
        self.core = SchedulerState(scenario.policy)
        self.oracle = Oracle(scenario.policy, scenario.set_size, scenario.ample_s)
        self.steps = 0
        self.reloads = 0
        self._emit = emit
        self._log = log
        self._checks_invariants = checks_invariants
        self._random = Random(f"{scenario.seed} driver")
        self._timeline = Timeline()
        self._strikes = Timeline()
        """Faults and live changes to come; they alone do not prolong a run."""
        self._arrivals_left = len(scenario.arrivals)
        self._inbox: dict[tuple[int, int], deque[Event]] = {}
        """Events to be handled, in queues whose order must be kept."""
        self._is_draining = self._is_closed = False
        self._leaving: set[int] = set()
        self._asked: set[int] = set()
        """Devices that lose activations in the next step."""
        self._now = 0.0
        self._pauses = deque(scenario.pauses)
        self._idle_steps = self._most = 0
        self._devices = {
            index: self._device(index, fate) for index, fate in enumerate(scenario.devices)
        }

    def _device(self, device_id: int, fate: DeviceFate) -> PlayedDevice:
        scenario, ledger = self.scenario, self.core.ledger
        return PlayedDevice(
            device_id,
            fate,
            scenario,
            self._timeline,
            self._report,
            lambda: ledger.set_size or scenario.set_size,
        )

    def run(self) -> None:
        """Take steps until no events are left; raises `Violation` if a promise breaks."""
        self._plan()
        while self._goes_on():
            if self.steps > _MAX_STEPS:
                raise Violation(f"the run does not end: {len(self.oracle.unresolved)} unresolved")
            self._step()
        if self.oracle.num_held or self.core.batches:
            raise Violation("batches are held at the end")

    def _plan(self) -> None:
        scenario, timeline = self.scenario, self._timeline
        for device in self._devices.values():
            timeline.call_at(device.fate.opens_at, device.open)
            for outage in device.fate.outages:
                self._strikes.call_at(outage.at, partial(device.strike, outage))
        for request_id, arrival in enumerate(scenario.arrivals):
            timeline.call_at(arrival.at, partial(self._arrive, request_id, arrival))
        for change in scenario.changes:
            self._strikes.call_at(change.at, partial(self._change, change))
        for report in scenario.reports:
            self._strikes.call_at(report.at, partial(self._hear, report))
        timeline.call_at(scenario.drain_at, self._drain)
        timeline.call_at(scenario.close_at, self._close)

    def _goes_on(self) -> bool:
        """Return whether steps are left; the last events, planned here, are a drain and a close."""
        oracle = self.oracle
        if self._is_closed:
            return bool(self._inbox or oracle.num_held or oracle.unresolved)
        if not (self._arrivals_left or oracle.unresolved or self._inbox):
            end = self._close if self._is_draining else self._drain
            end(self._now)
        return True

    def _step(self) -> None:
        wakeup = self.core.next_wakeup()
        at = min(self._timeline.next_at(), math.inf if wakeup is None else wakeup)
        if self._inbox:
            at = self._now
        if at == math.inf:
            count = len(self.oracle.unresolved)
            raise Violation(f"no event is left, and {count} requests are unresolved")
        lag_s = self.scenario.lag_s
        if lag_s and self._random.random() < 0.5:
            at += self._random.expovariate(1 / lag_s)
        self._now, stalled_s = self._pause(max(at, self._now))
        self._strikes.run_until(self._now)
        self._timeline.run_until(self._now)
        events = self._take_events()
        if stalled_s:
            events.insert(0, LoopStalled(stalled_s))
        if events or (wakeup is not None and wakeup <= self._now):
            self._handle(events)

    def _pause(self, at: float) -> tuple[float, float]:
        """Return when the loop runs again that should run at a time, and the stall that it notices.

        Like the shell, it notices none while devices hold nothing.
        """
        if not self._pauses or self._pauses[0].at > at:
            return at, 0.0
        pause = self._pauses.popleft()
        until = max(at, pause.at + pause.for_s)
        if pause.stops_process:
            self._timeline.delay(pause.for_s)
        stalled_s = until - max(self._now, pause.at) - pause.unnoticed_s
        is_noticed = stalled_s > 0 and self.core.batches and not self._is_closed
        return until, stalled_s if is_noticed else 0.0

    def _handle(self, events: list[Event]) -> None:
        core, now = self.core, self._now
        self.steps += 1
        if self._emit is not None:
            for text in map(repr, events) if events else ("wakeup",):
                self._emit(f"{now:12.6f}  {text}")
        self.oracle.before(now, events)
        if self._log is not None:
            self._log.record_events(now, events)
        commands = core.handle(now, events)
        if self._log is not None:
            self._log.record_decisions(commands)
        if self._emit is not None:
            for line in _lines(commands):
                self._emit(f"{'':12}  -> {line}")
        self.oracle.after(commands, core.statistics(), core.next_wakeup())
        if self._checks_invariants:
            check_invariants(core)
        for batch in commands.dispatch:
            self._devices[batch.activation.device_id].submit(batch, now)
        self.reloads += len(commands.reload)
        for device_id in commands.reload:
            self._devices[device_id].reload(now)
        for device_id, indexes in commands.unload:
            self._devices[device_id].unload(indexes)
        for device_id in commands.close:
            self._devices[device_id].leave(now)
        self._check_progress(bool(events or commands.dispatch or commands.resolve))

    def _check_progress(self, is_progress: bool) -> None:
        self._idle_steps = 0 if is_progress else self._idle_steps + 1
        self._most = max(self._most, self.core.ledger.num_activations)
        if self._idle_steps > 50 + 4 * self._most:
            raise Violation(f"{self._idle_steps} wakeups with nothing to do")

    # What happens

    def _arrive(self, request_id: int, arrival: Arrival, at: float) -> None:
        if self._is_draining:
            return
        self._arrivals_left -= 1
        request = Request(
            request_id,
            arrival.samples,
            at,
            arrival.deadline,
            arrival.priority,
            arrival.num_bytes,
            arrival.tenant,
        )
        self._post((-1, -1), request)
        if arrival.cancelled_at is not None:
            cancelled = partial(self._cancel, request)
            self._timeline.call_at(max(at, arrival.cancelled_at), cancelled)

    def _cancel(self, request: Request, _at: float) -> None:
        if not self._is_closed:
            line = self._inbox.get((-1, -1), ())
            comes_with = any(each is request for each in line)
            self._post((-1, -1) if comes_with else (-2, request.id), Cancelled(request.id))

    def _drain(self, _at: float) -> None:
        if not self._is_draining:
            self._is_draining = True
            self._arrivals_left = 0
            self._post((-1, -1), DrainStarted())

    def _close(self, at: float) -> None:
        if self._is_closed:
            return
        self._is_draining = self._is_closed = True
        self._arrivals_left = 0
        self._post((-1, -1), Closed())
        for device in self._devices.values():
            self._timeline.call_at(at + self.scenario.close_s, device.close)

    def _change(self, change: Change, at: float) -> None:
        """Act like the shell: loads are reported when they end, removals are requested at once."""
        if self._is_closed:
            return
        if change.kind == "policy":
            self._post((-3, -1), PolicyChanged(change.policy))
        elif change.kind == "set_size":
            self._post((-3, -1), SetSizeChanged(change.count))
        elif change.kind == "add":
            self._add_device(change, at)
        elif known := [each for each in self.core.ledger.devices if self._may_change(each)]:
            self._resize(change, known[change.choice % len(known)], len(known), at)

    def _hear(self, report: Report, _at: float) -> None:
        known = list(self.core.ledger.devices)
        if known and not self._is_closed:
            device_id = known[report.choice % len(known)]
            self._post((-4, -1), DeviceReported(device_id, report.news))

    def _may_change(self, device_id: int) -> bool:
        return not (self._devices[device_id].is_growing or device_id in self._leaving)

    def _resize(self, change: Change, device_id: int, num_known: int, at: float) -> None:
        device, ledger = self._devices[device_id], self.core.ledger
        is_out = self.core.health.is_quarantined(device_id)
        is_asked = device_id in ledger.retiring or device_id in self._asked
        if change.kind == "remove":
            if num_known > 1:
                self._leaving.add(device_id)
                self._post((-3, -1), DeviceRetired(device_id))
        elif change.kind == "grow" and not is_out:
            device.grow(change.count, at)
        elif change.kind == "shrink" and not (is_out or is_asked):
            stay = [each.index for each in ledger.devices[device_id]]
            Random(change.choice).shuffle(stay)
            if indexes := tuple(stay[1:][: change.count]):
                self._asked.add(device_id)
                device.num_activations -= len(indexes)
                self._post((-3, -1), ActivationsRetired(device_id, indexes))

    def _add_device(self, change: Change, at: float) -> None:
        """Add a device, a new one or one that was removed."""
        gone = [each for each in self._leaving if self._devices[each].is_gone]
        device_id = gone[0] if gone and change.choice % 2 else len(self._devices)
        self._leaving.discard(device_id)
        fate = self.scenario.devices[change.choice % len(self.scenario.devices)]
        fate = replace(fate, num_activations=change.count, outages=())
        self._devices[device_id] = device = self._device(device_id, fate)
        self._timeline.call_at(at + self.scenario.load_s, device.open)

    def _report(
        self,
        device_id: int,
        activation: int,
        event: ActivationsAdded | Completed | DeviceOpened | ReloadFailed,
    ) -> None:
        if isinstance(event, Completed):
            self._post((device_id, activation), event)
        elif not self._is_closed:
            # A device is loaded only after it has answered all batches from before.
            lines = [each for each in self._inbox if each[0] == device_id]
            answers = [event for line in lines for event in self._inbox.pop(line)]
            for each in (*answers, event):
                self._post((device_id, -1), each)

    def _post(self, line: tuple[int, int], event: Event) -> None:
        # Events that follow a reload in the same step stay behind it.
        if (line[0], -1) in self._inbox:
            line = line[0], -1
        self._inbox.setdefault(line, deque()).append(event)

    def _take_events(self) -> list[Event]:
        """Return all events, the queues interleaved at random; a close comes last."""
        lines = list(self._inbox.values())
        self._inbox.clear()
        self._asked.clear()
        events: list[Event] = []
        while lines:
            line = self._random.choice(lines)
            events.append(line.popleft())
            if not line:
                lines.remove(line)
        if any(not isinstance(each, Request | Completed | Cancelled) for each in events):
            events.sort(key=lambda each: isinstance(each, Closed))
        return events


def find_violation(seed: int, *, checks_invariants: bool = True) -> str | None:
    """Run a seed; return the violation in one line, or None."""
    simulation = Simulation(make_scenario(seed), checks_invariants=checks_invariants)
    try:
        simulation.run()
    except Exception as error:  # any exception is a bug of the core
        return describe(error)
    return None


def describe(error: Exception) -> str:
    """Return an exception and the line of code that raised it."""
    last = extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {str(error) or last.line}"
    where = f"{Path(last.filename).name}:{last.lineno}"
    return what if isinstance(error, Violation) else f"{what} ({where})"


def trace(seed: int, emit: Callable[[str], None]) -> None:
    """Run a seed and emit its trace; exceptions pass through."""
    scenario = make_scenario(seed)
    for line in scenario.describe().splitlines():
        emit(line)
    Simulation(scenario, emit=emit).run()


def _lines(commands: Commands) -> list[str]:
    lines = []
    for batch in commands.dispatch:
        cargo = " ".join(
            f"{part.request.id}[{part.offset}:{part.offset + part.samples}]" for part in batch.parts
        )
        place = f"{batch.activation.device_id}/{batch.activation.index}"
        kind = "hedge" if batch.is_hedge else "batch"
        lines.append(f"{kind} {batch.id} of {batch.size} to {place}: {cargo}")
    ended: dict[str, list[str]] = {}
    for request in commands.resolve:
        ended.setdefault(request.state.value, []).append(str(request.id))
    lines += [f"{state}: {' '.join(ids)}" for state, ids in ended.items()]
    lines += [f"unload {device_id}/{indexes}" for device_id, indexes in commands.unload]
    lines += [f"close device {each}" for each in commands.close]
    lines += [f"tell others that device {each} is {news.value}" for each, news in commands.news]
    return lines + [f"reload device {each}" for each in commands.reload]
