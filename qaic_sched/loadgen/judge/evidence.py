"""Facts from the records, before any judgement: requests done, inferences, devices.

Rules of this file:
- An inference counts once, even if it answered many requests.
- The target's metrics are kept next to the numbers from the requests, never in place of them, so
  that the checks can compare the two.
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
    """The inferences that answered requests, in the order of their ids."""

    device: NDArray[np.int32]
    ready_ns: NDArray[np.int64]
    """When the last of the inference's requests was due."""
    started_ns: NDArray[np.int64]
    completed_ns: NDArray[np.int64]
    requests: int
    """The number of requests that they answered."""

    @classmethod
    def of(cls, records: Records, rows: NDArray[np.bool_]) -> Inferences | None:
        """Collect the inferences of some rows; None unless the target reports one for every row."""
        known = rows & (records.inference >= 0)
        known &= (records.started_ns >= 0) & (records.completed_ns >= 0)
        if not known.any() or (rows & ~known).any():
            return None
        order = np.flatnonzero(known)
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
        """Execution times."""
        return self.completed_ns - self.started_ns


@dataclass(frozen=True, slots=True)
class Totals:
    """The work of one device during the run, by the target's metrics."""

    busy_s: float
    inferences: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """The records of a run, and the facts that several checks need."""

    plan: Plan
    info: TargetInfo
    records: Records
    until_ns: int
    """The end of the warm-up."""
    done: NDArray[np.bool_]
    measured: NDArray[np.bool_]
    """Requests done, and planned after the warm-up."""
    inferences: Inferences | None
    """Of all requests done; None if the target does not report them."""
    totals: dict[int, Totals]
    """Device id -> totals; empty if the target has no metrics."""

    @classmethod
    def of(cls, plan: Plan, info: TargetInfo, records: Records, until_ns: int = 0) -> Evidence:
        """Collect the facts; requests planned before `until_ns` belong to the warm-up."""
        done = records.outcome == Outcome.DONE
        measured = done & (records.planned_ns >= until_ns)
        inferences = Inferences.of(records, done)
        return cls(plan, info, records, until_ns, done, measured, inferences, _totals(records))

    @property
    def activations(self) -> int:
        """Number of activations of all devices; 0 if it is not known."""
        return sum(self.info.activations.values())


def _totals(records: Records) -> dict[int, Totals]:
    """Subtract the first sample from the last: metrics may have counted before the run."""
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
    """Return a report for each device that the target or a reply names."""
    seen = set(np.unique(evidence.records.device[evidence.done]).tolist()) - {-1}
    devices = sorted(seen | evidence.totals.keys() | evidence.info.activations.keys())
    return tuple(_device_report(evidence, device, duration_s) for device in devices)


def _device_report(evidence: Evidence, device: int, duration_s: float) -> DeviceReport:
    totals = evidence.totals.get(device) or _totals_by_requests(evidence.inferences, device)
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


def _totals_by_requests(inferences: Inferences | None, device: int) -> Totals:
    """Return a device's totals by its requests, for a target without metrics."""
    if inferences is None:
        return Totals(0.0, 0)
    execute_ns = inferences.execute_ns[inferences.device == device]
    return Totals(float(execute_ns.sum()) / 1e9, len(execute_ns))


def _p99(latency_ns: NDArray[np.int64]) -> float | None:
    if len(latency_ns) < floor(99.0, over=0):
        return None
    index = nearest_rank(len(latency_ns), 99.0) - 1
    return float(np.partition(latency_ns, index)[index]) / 1e9


def balance(devices: tuple[DeviceReport, ...]) -> dict[str, float]:
    """Measure how evenly the devices were busy; Jain's index is 1 for equal busy times."""
    busy = np.array([device.busy_s for device in devices])
    if not busy.any():
        return {}
    return {
        "max_over_mean": float(busy.max() / busy.mean()),
        "jain": float(busy.sum() ** 2 / (len(busy) * (busy**2).sum())),
        "cv": float(busy.std() / busy.mean()),
    }
