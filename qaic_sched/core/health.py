"""Which devices may get work: quarantine, probes and readmission.

Rules of this file:
- A device that is lost, restarted or stuck goes into quarantine at once. One whose inferences fail
  goes after a few failures in a row that are proven to be its fault, or after many that may be, and
  an outlier after more slow answers than a few. A device in quarantine gets no work.
- A failed inference may be the fault of a request. `recovery` finds out; until then it is a failure
  that may be the device's.
- After a while it is probed, that is reloaded from scratch. Each failed reload doubles the time to
  the next probe, up to a bound. Nothing else brings a device back.
- An outlier is reloaded only once it has answered the batches that it holds, as it still does.
- A device that came back is on probation: it works with one activation until it has answered a few
  batches in good time, and the first failure that is its fault puts it back into quarantine.
- What holds for all models of the host, they learn from each other: that a device is lost, has
  restarted or is slow, and that it is back. A loss reported is as good as one seen. News that a
  device is back bring it back only from a loss, or from what was itself reported: a device that is
  stuck, fails inferences or is slow for this model has to show itself that it is not any more.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from qaic_sched.core.model import Failure, Fault

__all__ = ["DEVICE_TRANSITIONS", "DeviceState", "Health"]


class DeviceState(Enum):
    """The health of a device. `DEVICE_TRANSITIONS` has its life."""

    READY = "ready"
    PROBATION = "probation"
    QUARANTINED = "quarantined"


_READY: Final = DeviceState.READY
_PROBATION: Final = DeviceState.PROBATION
_QUARANTINED: Final = DeviceState.QUARANTINED

DEVICE_TRANSITIONS: Final[tuple[tuple[DeviceState | None, str, DeviceState | None, str], ...]] = (
    (None, "opened", _READY, "health.opened"),
    (_READY, "batch fails", _QUARANTINED, "health._quarantine"),
    (_READY, "device is stuck", _QUARANTINED, "health._quarantine"),
    (_READY, "batch is answered", _QUARANTINED, "health._quarantine"),
    (_READY, "holds nothing and retires", None, "health.forget"),
    (_QUARANTINED, "opened", _PROBATION, "health.opened"),
    (_QUARANTINED, "holds nothing and retires", None, "health.forget"),
    (_PROBATION, "batch is answered", _READY, "health.succeeded"),
    (_PROBATION, "batch fails", _QUARANTINED, "health._quarantine"),
    (_PROBATION, "device is stuck", _QUARANTINED, "health._quarantine"),
    (_PROBATION, "batch is answered", _QUARANTINED, "health._quarantine"),
    (_PROBATION, "holds nothing and retires", None, "health.forget"),
    (_READY, "reported lost", _QUARANTINED, "health._quarantine"),
    (_PROBATION, "reported lost", _QUARANTINED, "health._quarantine"),
    (_READY, "reported slow", _QUARANTINED, "health._quarantine"),
    (_PROBATION, "reported slow", _QUARANTINED, "health._quarantine"),
    (_PROBATION, "reported ready", _READY, "health.reported_ready"),
    (_QUARANTINED, "opened", _READY, "health.opened"),
)
"""(state, event, next state, module and function that decides it); None is not open."""

_NEVER: Final = float("inf")
_MAX_PROVEN: Final = 3
"""Failures in a row, its own fault, that put a ready device into quarantine."""
_MAX_FAILURES: Final = 12
"""Failures in a row that do so whosever fault they are: until that is known, a device that fails
everything at once takes in more and more."""
_MAX_FAILURES_ON_PROBATION: Final = 3
"""The same for a device on probation."""
_PROBATION_ANSWERS: Final = 3
"""Answers in a row that end a probation."""
_FIRST_PROBE_S: Final = 0.1
"""Time from a quarantine to the first probe."""
_LONGEST_PROBE_S: Final = 30.0
"""Longest time between two probes."""


class _DeviceHealth:
    """The health of one device."""

    __slots__ = (
        "backoff_s",
        "failures",
        "heeds_news",
        "is_lost",
        "is_proven",
        "is_slow",
        "probe_at",
        "state",
        "successes",
    )

    def __init__(self) -> None:
        self.state = DeviceState.READY
        """Its state; `DEVICE_TRANSITIONS` has the changes."""
        self.is_slow = False
        """Whether its last quarantine was for being an outlier."""
        self.heeds_news = False
        """Whether another model may show that the cause of its last quarantine is over."""
        self.is_lost = False
        """Whether it is known to be lost, or to have restarted, since it was opened."""
        self.is_proven = False
        """Whether one has, since that quarantine: it needs no probation."""
        self.failures: list[Failure] = []
        """Failed inferences of new requests since the last answer or quarantine; those that are
        known to be the fault of a request are not among them."""
        self.successes = 0
        """Answers since its probation began, slow ones excluded; not kept while it is ready."""
        self.backoff_s = _FIRST_PROBE_S
        """Time from the next quarantine, or from the last failed probe, to a probe."""
        self.probe_at = _NEVER
        """When it is probed; infinite while it is in use or being reloaded."""


class Health:
    """The health of every device that is open, in quarantine or being reloaded."""

    __slots__ = ("_devices", "_next_probe_at")

    def __init__(self) -> None:
        self._devices: dict[int, _DeviceHealth] = {}
        """By device id; devices that were closed for good are absent."""
        self._next_probe_at = _NEVER
        """The earliest `probe_at` of all devices: asked at every event, changed seldom."""

    def state_of(self, device_id: int) -> DeviceState:
        """Return the state of a device."""
        return self._devices[device_id].state

    def is_slow(self, device_id: int) -> bool:
        """Return whether the device's last quarantine was for being an outlier."""
        return self._devices[device_id].is_slow

    def opened(self, device_id: int) -> DeviceState:
        """Note that a device was loaded: ready the first time, else on probation if not proven."""
        device = self._devices.get(device_id)
        if device is None:
            device = self._devices[device_id] = _DeviceHealth()
        else:
            device.state = DeviceState.READY if device.is_proven else DeviceState.PROBATION
            device.successes = 0
            device.is_lost = False
            self._probe(device, _NEVER)
        return device.state

    def succeeded(self, device_id: int) -> bool:
        """Note that a device answered in good time; return whether that ends its probation."""
        device = self._devices[device_id]
        if device.failures:
            device.failures = []
        if device.state is not _PROBATION:
            return False
        device.successes += 1
        if device.successes < _PROBATION_ANSWERS:
            return False
        device.state = DeviceState.READY
        device.backoff_s = _FIRST_PROBE_S
        return True

    def failed(self, device_id: int, fault: Fault, now: float) -> bool:
        """Note a fault of a device; return whether it goes into quarantine."""
        if self.is_quarantined(device_id):
            return False
        if fault is Fault.INFERENCE:
            failure = Failure(device_id)
            return self.suspect(failure, now) or self.blame(failure, now)
        heeds_news = fault is Fault.LOST or fault is Fault.RESTARTED
        self._quarantine(self._devices[device_id], now, heeds_news=heeds_news)
        return True

    def suspect(self, failure: Failure, now: float) -> bool:
        """Note a failure that may be its device's fault; return whether that means quarantine."""
        device = self._devices[failure.device_id]
        if device.state is DeviceState.QUARANTINED:
            return False
        device.failures.append(failure)
        is_ready = device.state is DeviceState.READY
        if len(device.failures) < (_MAX_FAILURES if is_ready else _MAX_FAILURES_ON_PROBATION):
            return False
        self._quarantine(device, now)
        return True

    def is_suspected_of(self, failure: Failure) -> bool:
        """Return whether a failure counts: its device has neither answered nor left since."""
        device = self._devices.get(failure.device_id)
        return device is not None and failure in device.failures

    def blame(self, failure: Failure, now: float) -> bool:
        """Note that a failure was its device's fault; return whether that means quarantine."""
        if not self.is_suspected_of(failure):
            return False
        failure.is_proven = True
        device = self._devices[failure.device_id]
        is_ready = device.state is DeviceState.READY
        if is_ready and sum(each.is_proven for each in device.failures) < _MAX_PROVEN:
            return False
        self._quarantine(device, now)
        return True

    def acquit(self, failure: Failure) -> None:
        """Note that a failure was not its device's fault."""
        if self.is_suspected_of(failure):
            self._devices[failure.device_id].failures.remove(failure)

    def quarantine_outlier(self, device_id: int, now: float, *, is_reported: bool = False) -> None:
        """Put a device in use that is far slower than the others into quarantine."""
        device = self._devices[device_id]
        self._quarantine(device, now, is_slow=True, heeds_news=is_reported)

    def found_lost(self, device_id: int) -> bool:
        """Note that a device is lost, or has restarted; return whether that is news.

        A device that is being reloaded fails what it holds because of that.
        """
        device = self._devices[device_id]
        is_news = not device.is_lost and not self.is_reloading(device_id)
        device.is_lost = True
        return is_news

    def reported_reloaded(self, device_id: int, now: float) -> None:
        """Note that another model has loaded a device again: probe it now, if that may help."""
        device = self._devices[device_id]
        if device.state is DeviceState.QUARANTINED and device.heeds_news:
            if device.probe_at < _NEVER:
                self._probe(device, now)
            else:
                device.backoff_s = _FIRST_PROBE_S / 2  # the reload under way may be too early

    def reported_ready(self, device_id: int) -> bool:
        """Note that a device has proven itself for another model; return if that ends a probation.

        One that is still in quarantine needs no probation once it is loaded.
        """
        device = self._devices[device_id]
        if device.state is DeviceState.READY or not device.heeds_news:
            return False
        device.is_proven = True
        if device.state is DeviceState.QUARANTINED:
            return False
        device.backoff_s = _FIRST_PROBE_S
        device.state = DeviceState.READY
        return True

    def postpone_probe(self, device_id: int, now: float) -> None:
        """Probe a device a little later, as it may not be reloaded yet."""
        self._probe(self._devices[device_id], now + _FIRST_PROBE_S)

    def probe_failed(self, device_id: int, now: float) -> None:
        """Note that a reload failed: probe again, after twice the time."""
        device = self._devices[device_id]
        device.backoff_s = min(2 * device.backoff_s, _LONGEST_PROBE_S)
        self._probe(device, now + device.backoff_s)

    def due_probes(self, now: float) -> list[int]:
        """Return the devices to reload now, each once until `opened` or `probe_failed`."""
        due = [each for each, device in self._devices.items() if device.probe_at <= now]
        for device_id in due:
            self._probe(self._devices[device_id], _NEVER)
        return due

    def is_reloading(self, device_id: int) -> bool:
        """Return whether a device was returned by `due_probes` and its reload has not ended."""
        device = self._devices[device_id]
        return self.is_quarantined(device_id) and device.probe_at == _NEVER

    def is_quarantined(self, device_id: int) -> bool:
        """Return whether a device is in quarantine."""
        return self._devices[device_id].state is DeviceState.QUARANTINED

    def forget(self, device_id: int) -> None:
        """Remove a device that was closed for good; if it comes back, it is new."""
        self._probe(self._devices[device_id], _NEVER)
        del self._devices[device_id]

    def next_probe_at(self) -> float:
        """Return when `due_probes` will return a device; infinity if that is never."""
        return self._next_probe_at

    def _quarantine(
        self,
        device: _DeviceHealth,
        now: float,
        *,
        is_slow: bool = False,
        heeds_news: bool = False,
    ) -> None:
        """Put a device into quarantine and plan its probe."""
        if device.state is DeviceState.PROBATION:
            device.backoff_s = min(2 * device.backoff_s, _LONGEST_PROBE_S)
        device.is_slow = is_slow
        device.heeds_news = heeds_news
        device.is_proven = False
        device.failures = []
        self._probe(device, now + device.backoff_s)
        device.state = DeviceState.QUARANTINED

    def _probe(self, device: _DeviceHealth, at: float) -> None:
        device.probe_at = at
        self._next_probe_at = min(each.probe_at for each in self._devices.values())

    def check(self) -> None:
        """Assert that `_next_probe_at` is the first of all probes."""
        first = min((each.probe_at for each in self._devices.values()), default=_NEVER)
        assert self._next_probe_at == first, "a probe would be missed"
