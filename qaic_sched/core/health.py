"""Which devices may be given work: quarantine, probes, and re-admission.

Rules of this file:
- A device that is lost, was restarted or is stuck goes into quarantine at once, one whose
  inferences fail goes after a few failures in a row, one that is far slower than the others after
  more of such answers. It is given nothing there.
- After a while it is probed: reloaded from scratch. While that fails, the next probe takes twice
  as long, up to a bound; nothing else brings a device back.
- A device that is slow is reloaded only when it has answered what it holds: it would have.
- A device that came back is on probation: it works with one activation until it has answered a
  few batches in good time, and fails back into quarantine with its first failure.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from qaic_sched.core.model import Fault

__all__ = ["DeviceState", "Health"]

_NEVER: Final = float("inf")
_MAX_FAILURES: Final = 3
"""Failures in a row that put a device into quarantine."""
_PROVEN: Final = 3
"""Answers in a row that end a probation."""
_FIRST_PROBE_S: Final = 0.1
_LAST_PROBE_S: Final = 30.0
"""From quarantine to the first probe, and the most that lies between two."""


class DeviceState(Enum):
    """What a device is good for."""

    READY = "ready"
    PROBATION = "probation"
    QUARANTINED = "quarantined"


_PROBATION: Final = DeviceState.PROBATION


class _Record:
    """One device's health."""

    __slots__ = ("backoff_s", "failures", "is_slow", "probe_at", "state", "successes")

    def __init__(self) -> None:
        self.state = DeviceState.READY
        self.is_slow = False
        self.failures = 0
        self.successes = 0
        self.backoff_s = _FIRST_PROBE_S
        self.probe_at = _NEVER


class Health:
    """The health of every device that was ever opened."""

    __slots__ = ("_next_probe_at", "_records")

    def __init__(self) -> None:
        self._records: dict[int, _Record] = {}
        self._next_probe_at = _NEVER

    def state_of(self, device_id: int) -> DeviceState:
        """What the device is good for."""
        return self._records[device_id].state

    def is_slow(self, device_id: int) -> bool:
        """Whether the device's last quarantine was because it was slow."""
        return self._records[device_id].is_slow

    def opened(self, device_id: int) -> DeviceState:
        """A device was loaded: ready the first time, on probation after a quarantine."""
        record = self._records.get(device_id)
        if record is None:
            record = self._records[device_id] = _Record()
        else:
            record.state = DeviceState.PROBATION
            record.successes = 0
            self._probe(record, _NEVER)
        return record.state

    def succeeded(self, device_id: int) -> bool:
        """A device answered as it should; True if that ends its probation."""
        record = self._records[device_id]
        record.failures = 0
        if record.state is not _PROBATION:
            return False
        record.successes += 1
        if record.successes < _PROVEN:
            return False
        record.state = DeviceState.READY
        record.backoff_s = _FIRST_PROBE_S
        return True

    def failed(self, device_id: int, fault: Fault, now: float) -> bool:
        """A device failed a batch; True if that puts it into quarantine."""
        record = self._records[device_id]
        if record.state is DeviceState.QUARANTINED:
            return False
        record.failures += 1
        forgives = fault is Fault.INFERENCE and record.state is DeviceState.READY
        if forgives and record.failures < _MAX_FAILURES:
            return False
        self._quarantine(record, now, is_slow=False)
        return True

    def lagged(self, device_id: int, now: float) -> None:
        """A device that is in use is far slower than the others: put it into quarantine."""
        self._quarantine(self._records[device_id], now, is_slow=True)

    def postpone_probe(self, device_id: int, now: float) -> None:
        """The device may not be reloaded yet: name it again soon."""
        self._probe(self._records[device_id], now + _FIRST_PROBE_S)

    def probe_failed(self, device_id: int, now: float) -> None:
        """The device could not be reloaded: try again, later each time."""
        record = self._records[device_id]
        record.backoff_s = min(2 * record.backoff_s, _LAST_PROBE_S)
        self._probe(record, now + record.backoff_s)

    def due_probes(self, now: float) -> list[int]:
        """Devices to be reloaded now; each is named once until `opened` or `probe_failed`."""
        due = [each for each, record in self._records.items() if record.probe_at <= now]
        for device_id in due:
            self._probe(self._records[device_id], _NEVER)
        return due

    def is_reloading(self, device_id: int) -> bool:
        """Whether the device was named by `due_probes`, and how that ended is not known."""
        record = self._records[device_id]
        return self.is_out(device_id) and record.probe_at == _NEVER

    def is_out(self, device_id: int) -> bool:
        """Whether the device is to be given nothing."""
        return self._records[device_id].state is DeviceState.QUARANTINED

    def forget(self, device_id: int) -> None:
        """A device is gone for good: should it come back, it is new."""
        self._probe(self._records[device_id], _NEVER)
        del self._records[device_id]

    def next_probe_at(self) -> float:
        """When `due_probes` will name a device."""
        return self._next_probe_at

    def _quarantine(self, record: _Record, now: float, *, is_slow: bool) -> None:
        if record.state is DeviceState.PROBATION:
            record.backoff_s = min(2 * record.backoff_s, _LAST_PROBE_S)
        record.state = DeviceState.QUARANTINED
        record.is_slow = is_slow
        record.failures = 0
        self._probe(record, now + record.backoff_s)

    def _probe(self, record: _Record, at: float) -> None:
        # Asked at every event, changed when a device fails: so the first of all is kept.
        record.probe_at = at
        self._next_probe_at = min(each.probe_at for each in self._records.values())

    def check(self) -> None:
        """Assert that the next probe is the first of all."""
        first = min((each.probe_at for each in self._records.values()), default=_NEVER)
        assert self._next_probe_at == first, "a probe would be missed"
