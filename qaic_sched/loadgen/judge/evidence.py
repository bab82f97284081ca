"""What the records say before anyone judges it: who was done, which inferences ran, on what.

Rules of this file:
- An inference may answer many requests; it counts once.
- What the target's own metrics say stands beside what the requests say, never instead of it, so
  that one can be held against the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qaic_sched.loadgen.judge.percentiles import floor, nearest_rank
from qaic_sched.loadgen.report.report import DeviceReport
from qaic_sched.loadgen.targets.base import Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qaic_sched.loadgen.inject.records import Records
    from qaic_sched.loadgen.plan.plan import Plan
    from qaic_sched.loadgen.targets.base import TargetInfo

__all__ = ["Evidence", "Inferences", "Totals", "balance", "device_reports"]


@dataclass(frozen=True, slots=True)
class Inferences:
    """The inferences that answered requests, each once, in the order of their ids."""

    device: NDArray[np.int32]
    ready_ns: NDArray[np.int64]
    """When the last of its requests was due."""
    started_ns: NDArray[np.int64]
    completed_ns: NDArray[np.int64]
    requests: int
    """How many they answered, all together."""

    @classmethod
    def of(cls, records: Records, rows: NDArray[np.bool_]) -> Inferences | None:
        """Of these rows; None if the target does not tell, or not of all of them."""
        told = rows & (records.inference >= 0)
        told &= (records.started_ns >= 0) & (records.completed_ns >= 0)
        if not told.any() or (rows & ~told).any():
            return None
        order = np.flatnonzero(told)
        order = order[np.argsort(records.inference[order], kind="stable")]
        ids = records.inference[order]
        firsts = np.flatnonzero(np.diff(ids, prepend=ids[0] - 1))
        return cls(
            records.device[order][firsts],
            np.maximum.reduceat(records.planned_ns[order], firsts),
            records.started_ns[order][firsts],
            records.completed_ns[order][firsts],
            len(order),
        )

    def __len__(self) -> int:
        return len(self.device)

    @property
    def execute_ns(self) -> NDArray[np.int64]:
        """Execute times."""
        return self.completed_ns - self.started_ns


@dataclass(frozen=True, slots=True)
class Totals:
    """What one device did during the run, as the target's own metrics have it."""

    busy_s: float
    inferences: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """A run, seen from all sides."""

    plan: Plan
    info: TargetInfo
    records: Records
    until_ns: int
    """What was planned before belongs to the warm-up."""
    done: NDArray[np.bool_]
    measured: NDArray[np.bool_]
    """Done, and planned after the warm-up."""
    inferences: Inferences | None
    """Of all that was done."""
    totals: dict[int, Totals]
    """By device; empty if the target does not tell."""

    @classmethod
    def of(cls, plan: Plan, info: TargetInfo, records: Records, until_ns: int = 0) -> Evidence:
        """Look at everything once."""
        done = records.outcome == Outcome.DONE
        measured = done & (records.planned_ns >= until_ns)
        inferences = Inferences.of(records, done)
        return cls(plan, info, records, until_ns, done, measured, inferences, _totals(records))

    @property
    def activations(self) -> int:
        """Of all devices; 0 is not known."""
        return sum(self.info.activations.values())


def _totals(records: Records) -> dict[int, Totals]:
    """From the first sample to the last: metrics may have counted before the run."""
    if len(records.device_samples) < 2:
        return {}
    first, last = records.device_samples[0], records.device_samples[-1]
    return {
        device: Totals(
            busy_s - first.busy_s.get(device, 0.0),
            last.inferences.get(device, 0) - first.inferences.get(device, 0),
        )
        for device, busy_s in sorted(last.busy_s.items())
    }


def device_reports(evidence: Evidence, duration_s: float) -> tuple[DeviceReport, ...]:
    """One per device that the target or its answers name."""
    told = set(np.unique(evidence.records.device[evidence.done]).tolist()) - {-1}
    devices = sorted(told | evidence.totals.keys() | evidence.info.activations.keys())
    return tuple(_device_report(evidence, device, duration_s) for device in devices)


def _device_report(evidence: Evidence, device: int, duration_s: float) -> DeviceReport:
    totals = evidence.totals.get(device) or _told(evidence.inferences, device)
    activations = evidence.info.activations.get(device, 0)
    rows = np.flatnonzero(evidence.done & (evidence.records.device == device))
    sent = evidence.records.sent_ns[rows]
    started = evidence.records.started_ns[rows]
    latency = evidence.records.done_ns[rows] - sent
    available_s = duration_s * activations
    return DeviceReport(
        device_id=device,
        activations=activations,
        inferences=totals.inferences,
        busy_s=totals.busy_s,
        utilisation=totals.busy_s / available_s if available_s else 0.0,
        requests=len(rows),
        mean_execute_s=totals.busy_s / totals.inferences if totals.inferences else None,
        mean_wait_s=float((started - sent)[started >= 0].mean()) / 1e9
        if (started >= 0).any()
        else None,
        p99_s=_p99(latency),
    )


def _told(inferences: Inferences | None, device: int) -> Totals:
    """What requests say of a device whose target has no metrics."""
    if inferences is None:
        return Totals(0.0, 0)
    services = inferences.execute_ns[inferences.device == device]
    return Totals(float(services.sum()) / 1e9, len(services))


def _p99(latency_ns: NDArray[np.int64]) -> float | None:
    if len(latency_ns) < floor(99.0, over=0):
        return None
    index = nearest_rank(len(latency_ns), 99.0) - 1
    return float(np.partition(latency_ns, index)[index]) / 1e9


def balance(devices: tuple[DeviceReport, ...]) -> dict[str, float]:
    """How evenly the devices were busy; Jain's index is 1 where all were equally so."""
    busy = np.array([device.busy_s for device in devices])
    if not busy.any():
        return {}
    return {
        "max_over_mean": float(busy.max() / busy.mean()),
        "jain": float(busy.sum() ** 2 / (len(busy) * (busy**2).sum())),
        "cv": float(busy.std() / busy.mean()),
    }
