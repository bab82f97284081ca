"""The counters of a scheduler: a record per device, and the outcomes of requests.

Percentiles over several devices come from merged histograms, never from averages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qaic_sched.metrics.histogram import Histogram
from qaic_sched.metrics.vendor import latency_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SchedulerMetrics"]

_OUTCOMES = ("failed", "cancelled", "expired", "rejected")


@dataclass(slots=True)
class _DeviceRecord:
    """The counters of one device since the scheduler opened."""

    activations: int
    counted_until: float
    execute: Histogram = field(default_factory=Histogram)
    samples: int = 0
    errors: int = 0
    retries: int = 0
    hedges: int = 0
    busy_s: float = 0.0
    run_samples: int = 0
    """Samples of all inferences, failed ones included; `run_size` is their batch sizes' sum."""
    run_size: int = 0
    available_s: float = 0.0
    """Seconds that activations were loaded, summed over them, up to `counted_until`."""

    def count_available(self, now: float) -> None:
        self.available_s += self.activations * (now - self.counted_until)
        self.counted_until = now

    def count_run(self, samples: int, size: int, execute_s: float) -> None:
        self.run_samples += samples
        self.run_size += size
        self.busy_s += execute_s

    def merge(self, other: _DeviceRecord) -> None:
        """Add the record of another model on the device; both are counted until the same time."""
        self.activations += other.activations
        self.execute.merge(other.execute)
        self.samples += other.samples
        self.errors += other.errors
        self.retries += other.retries
        self.hedges += other.hedges
        self.busy_s += other.busy_s
        self.run_samples += other.run_samples
        self.run_size += other.run_size
        self.available_s += other.available_s

    def snapshot(self, now: float, state: str) -> dict[str, Any]:
        self.count_available(now)
        return {
            **latency_metrics(self.execute),
            "batches": self.execute.count,
            "samples": self.samples,
            "fill": _ratio(self.run_samples, self.run_size),
            "utilisation": _ratio(self.busy_s, self.available_s),
            "errors": self.errors,
            "retries": self.retries,
            "hedges": self.hedges,
            "state": state,
            "activations": self.activations,
        }


class SchedulerMetrics:
    """The counters and histograms of one scheduler; belongs to one thread.

    `opened_at` and every `now` are seconds of the same clock. A device must be added before
    anything is recorded for it; a removed device stays in the snapshot.
    """

    def __init__(self, opened_at: float) -> None:
        self._opened_at = opened_at
        self._devices: dict[int, _DeviceRecord] = {}
        self._outcomes = dict.fromkeys(_OUTCOMES, 0)
        self._queue = Histogram()
        self._total = Histogram()

    def add_device(self, device_id: int, num_activations: int, now: float | None = None) -> None:
        """Set the number of activations of a device from `now` on, by default since opening.

        Call it again, with `now`, whenever the number changes; 0 means that the device is removed.
        """
        at = self._opened_at if now is None else now
        record = self._devices.setdefault(device_id, _DeviceRecord(num_activations, at))
        if now is not None:
            record.count_available(now)
        record.activations = num_activations

    def record_batch(self, device_id: int, execute_s: float, samples: int, size: int) -> None:
        """Record a batch of `samples` that ran at a compiled batch size of `size`."""
        record = self._devices[device_id]
        record.execute.record(execute_s)
        record.samples += samples
        record.count_run(samples, size, execute_s)

    def record_error(self, device_id: int, samples: int, size: int, execute_s: float) -> None:
        """Record a failed batch; it counts for errors, fill and utilisation only."""
        record = self._devices[device_id]
        record.errors += 1
        record.count_run(samples, size, execute_s)

    def record_retry(self, device_id: int) -> None:
        """Count a batch that was sent to a device after it had failed on another."""
        self._devices[device_id].retries += 1

    def record_hedge(self, device_id: int) -> None:
        """Count a batch that was sent to a device because another is late with it."""
        self._devices[device_id].hedges += 1

    def record_done(self, queue_s: float, total_s: float) -> None:
        """Record a request that is done, with its seconds in the queue and in total."""
        self._queue.record(queue_s)
        self._total.record(total_s)

    def record_outcome(self, outcome: str) -> None:
        """Count a request that ended as "failed", "cancelled", "expired" or "rejected"."""
        self._outcomes[outcome] += 1

    def merge(self, other: SchedulerMetrics, now: float) -> None:
        """Add the counters of another scheduler up to `now`.

        Call it only on metrics that were made at `now` and have recorded nothing themselves.
        """
        for device_id, record in other._devices.items():
            record.count_available(now)
            self._devices.setdefault(device_id, _DeviceRecord(0, now)).merge(record)
        for outcome, count in other._outcomes.items():
            self._outcomes[outcome] += count
        self._queue.merge(other._queue)
        self._total.merge(other._total)

    def totals(self) -> dict[int, tuple[int, float]]:
        """Return the inferences and busy seconds of each device, failed inferences included."""
        return {
            device_id: (record.execute.count + record.errors, record.busy_s)
            for device_id, record in self._devices.items()
        }

    def snapshot(self, now: float, states: Mapping[int, str]) -> dict[str, Any]:
        """Return the value of `get_metrics()`: the whole, `requests`, and `devices` by id.

        `states` has the current state of each device; a device without one was removed.
        """
        whole = Histogram()
        for record in self._devices.values():
            whole.merge(record.execute)
        return {
            **latency_metrics(whole),
            "requests": {
                "done": self._total.count,
                **self._outcomes,
                "queue": latency_metrics(self._queue),
                "total": latency_metrics(self._total),
            },
            "devices": {
                device_id: record.snapshot(now, states.get(device_id, "removed"))
                for device_id, record in sorted(self._devices.items())
            },
        }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
