"""The transition tables of requests and devices have every change that happens, and no other."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from qaic_sched.core import health
from qaic_sched.core.events import DeviceOpened, DeviceReported, DeviceRetired
from qaic_sched.core.health import DEVICE_TRANSITIONS, DeviceState, Health
from qaic_sched.core.model import REQUEST_TRANSITIONS, DeviceNews, Request, RequestState
from tests.core.harness import answer, drive, lose, make_state, on_probation, requests
from tests.simulation import driver
from tests.simulation.scenario import make_scenario

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_SEEDS = range(200)
_EVENTS = {
    "admission.admit_waiting": "room in the queue",
    "dispatching._drop_hopeless": "deadline is hopeless",
    "dispatching._fail_without_devices": "no device left",
    "dispatching._send": "last samples sent",
    "recovery._give_up_on": "device is stuck",
    "resizing._release": "holds nothing and retires",
    "scheduler_data._expire": "deadline passes",
    "state._arrive": "arrives",
    "state._cancelled": "cancelled",
    "state._closed": "closed",
    "state._device_opened": "opened",
}
"""The innermost of these functions that is running -> the event that it stands for."""
_HELPERS = {"scheduler_data._resolve", "admission.withdraw", "health.__init__"}
"""Functions that carry out a change that their caller decided."""

Row = tuple[Any, str, Any, str]


def _frames() -> Iterator[tuple[str, FrameType]]:
    """Yield the running functions of the core as `module.function`, from the inside out."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        package, _, module = frame.f_globals["__name__"].rpartition(".")
        if package == "qaic_sched.core":
            yield f"{module}.{frame.f_code.co_name}", frame
        frame = frame.f_back


def _event_of(name: str, frame: FrameType) -> str | None:
    if name == "state._completed":
        return "batch is answered" if frame.f_locals["event"].fault is None else "batch fails"
    if name == "recovery._take_news":
        news = frame.f_locals["news"].value
        return f"reported {'lost' if news == 'restarted' else news}"
    return _EVENTS.get(name)


def _observe(rows: set[Row], before: object, after: object, *, by: str | None = None) -> None:
    """Add the change that is being made to the rows."""
    frames = list(_frames())
    names = [name for name, _ in frames]
    decided = (each for each in names if each not in _HELPERS)
    function = by or next(each for each in decided if not each.startswith("request_queue."))
    events = (_event_of(name, frame) for name, frame in frames)
    rows.add((before, next(each for each in events if each), after, function))


class _Observed(Request):
    """A request that records its changes of state; the first one starts from None."""

    rows: set[Row]

    @property  # type: ignore[override]
    def state(self) -> RequestState:
        return self._state

    @state.setter
    def state(self, state: RequestState) -> None:
        before = getattr(self, "_state", None)
        self._state = state
        if before is None:  # it is being made
            self._has_arrived = False
        elif not self._has_arrived:
            self._has_arrived = True
            _observe(self.rows, None, state)
        elif state is not before:
            _observe(self.rows, before, state)


def _observe_devices(monkeypatch: pytest.MonkeyPatch, rows: set[Row]) -> None:
    class ObservedHealth(health._DeviceHealth):
        @property  # type: ignore[override]
        def state(self) -> DeviceState:
            return self._state

        @state.setter
        def state(self, state: DeviceState) -> None:
            before = getattr(self, "_state", None)
            self._state = state
            if state is not before:
                _observe(rows, before, state)

    forget = Health.forget

    def observed_forget(self: Health, device_id: int) -> None:
        _observe(rows, self.state_of(device_id), None, by="health.forget")
        forget(self, device_id)

    monkeypatch.setattr(health, "_DeviceHealth", ObservedHealth)
    monkeypatch.setattr(Health, "forget", observed_forget)


def _lose_the_last_device(make: type[Request]) -> None:
    """One request is queued and one waits for room when no device is left."""
    state = make_state(max_samples=1)
    drive(state, 0.0, *(make(each, 1, 0.0) for each in range(3)))
    lose(state, 1.0)


def _retire_a_device_on_probation() -> None:
    state = on_probation(devices=2)
    assert drive(state, 2.0, DeviceRetired(0)).close == (0,)


def _report_devices() -> None:
    """Each news comes to a ready device and to one on probation; one is proven in quarantine."""
    for news in DeviceNews:
        drive(make_state(devices=2), 2.0, DeviceReported(0, news))
        drive(on_probation(devices=2), 2.0, DeviceReported(0, news))
    state = make_state(devices=2)
    for news in (DeviceNews.LOST, DeviceNews.READY):
        drive(state, 2.0, DeviceReported(0, news))
    assert drive(state, 2.1).reload == [0]
    drive(state, 2.1, DeviceOpened(0, 1, 1))


def _be_slow_on_probation() -> None:
    """Device 0 takes 10 s for each inference, device 1 takes 100 ms."""
    state = on_probation(devices=2)
    for number in range(1, 60, 2):
        now = 20.0 * number
        batches = drive(state, now, *requests(2, number, accepted_at=now)).dispatch
        for batch in sorted(batches, key=lambda each: -each.activation.device_id):
            at = now + (0.1 if batch.activation.device_id else 10.0)
            drive(state, at, answer(batch, at))


@pytest.fixture(scope="module")
def observed() -> Iterator[tuple[set[Row], set[Row]]]:
    """All changes of requests, and of devices, on 200 simulated hosts."""
    requests: set[Row] = set()
    devices: set[Row] = set()

    class Observed(_Observed):
        rows = requests

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(driver, "Request", Observed)
        _observe_devices(monkeypatch, devices)
        for seed in _SEEDS:
            driver.Simulation(make_scenario(seed), checks_invariants=False).run()
        _lose_the_last_device(Observed)
        _retire_a_device_on_probation()
        _report_devices()
        _be_slow_on_probation()
        yield requests, devices


@pytest.mark.interpreted
def test_requests_change_exactly_as_their_table_says(
    observed: tuple[set[Row], set[Row]],
) -> None:
    """The changes that the simulation makes are exactly the rows of the table."""
    rows, _ = observed

    assert rows == set(REQUEST_TRANSITIONS)
    assert len(REQUEST_TRANSITIONS) == len(set(REQUEST_TRANSITIONS))


@pytest.mark.interpreted
def test_devices_change_exactly_as_their_table_says(
    observed: tuple[set[Row], set[Row]],
) -> None:
    """The changes that the simulation makes are exactly the rows of the table."""
    _, rows = observed

    assert rows == set(DEVICE_TRANSITIONS)
    assert len(DEVICE_TRANSITIONS) == len(set(DEVICE_TRANSITIONS))
