"""The run over time: arrivals, requests in flight, latency and utilisation by window.

Rules of this file:
- Windows have equal length, from the start of the run to its end.
- The requests in flight of a window are an exact time average, not a sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qaic_sched.loadgen.judge.percentiles import nearest_rank
from qaic_sched.loadgen.report.report import Series
from qaic_sched.loadgen.targets.base import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from qaic_sched.loadgen.inject.records import Records
    from qaic_sched.loadgen.targets.base import DeviceSample, TargetInfo

__all__ = ["over_time", "time_out"]

WINDOWS = 100


def over_time(records: Records, info: TargetInfo) -> Series:
    """Compute the time series of a run."""
    is_done = records.outcome == Outcome.DONE
    end_ns = max(_end(records), WINDOWS)
    edges = np.arange(WINDOWS + 1) * end_ns // WINDOWS
    latency = (records.done_ns - records.planned_ns)[is_done]
    planned_in = _window(records.planned_ns[is_done], end_ns)
    known = [np.sort(each) for each in _by_window(latency, planned_in)]
    is_sent, is_answered = records.sent_ns >= 0, records.done_ns >= 0
    out = time_out(records.sent_ns[is_sent], records.done_ns[is_answered], edges)
    return Series(
        window_s=end_ns / WINDOWS / 1e9,
        arrivals=_counts(records.planned_ns, end_ns),
        completions=_counts(records.done_ns[is_done], end_ns),
        in_flight=tuple((np.diff(out) / np.diff(edges)).tolist()),
        queued_samples=_queued(records.device_samples, end_ns),
        p50_s=tuple(_percentile(each, 50) for each in known),
        p99_s=tuple(_percentile(each, 99) for each in known),
        utilisation=_utilisation(records.device_samples, info, edges),
    )


def time_out(
    entered_ns: NDArray[np.int64], left_ns: NDArray[np.int64], edges_ns: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the total time spent inside by all requests, up to each instant of `edges_ns`.

    Entries and exits need not be paired. The integers may overflow on the way; as they wrap around,
    differences between two instants are exact.
    """
    return _elapsed(entered_ns, edges_ns) - _elapsed(left_ns, edges_ns)


def _elapsed(events_ns: NDArray[np.int64], edges_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, for each edge, the summed time since the events before it."""
    ordered = np.sort(events_ns)
    sums = np.concatenate((np.zeros(1, np.int64), np.cumsum(ordered)))
    before = np.searchsorted(ordered, edges_ns, side="right")
    elapsed: NDArray[np.int64] = before * edges_ns - sums[before]
    return elapsed


def _end(records: Records) -> int:
    rows = (records.planned_ns, records.done_ns)
    return max(records.ended_ns, *(int(each.max(initial=0)) for each in rows))


def _window(instants_ns: NDArray[np.int64], end_ns: int) -> NDArray[np.int64]:
    """Return the index of each instant's window; the end belongs to the last one."""
    return np.minimum(instants_ns * WINDOWS // end_ns, WINDOWS - 1)


def _counts(instants_ns: NDArray[np.int64], end_ns: int) -> tuple[int, ...]:
    return tuple(np.bincount(_window(instants_ns, end_ns), minlength=WINDOWS).tolist())


def _by_window(
    values: NDArray[np.int64], windows: NDArray[np.int64]
) -> Iterable[NDArray[np.int64]]:
    """Split values by their window; `windows` must ascend."""
    return np.split(values, np.searchsorted(windows, np.arange(1, WINDOWS)))


def _percentile(ordered: NDArray[np.int64], percentile: float) -> float | None:
    if not len(ordered):
        return None
    return float(ordered[nearest_rank(len(ordered), percentile) - 1]) / 1e9


def _queued(samples: list[DeviceSample], end_ns: int) -> tuple[float | None, ...]:
    """Return the mean of the samples in each window."""
    known: list[list[int]] = [[] for _ in range(WINDOWS)]
    for sample in samples:
        known[min(sample.at_ns * WINDOWS // end_ns, WINDOWS - 1)].append(sample.queued_samples)
    return tuple(sum(each) / len(each) if each else None for each in known)


def _utilisation(
    samples: list[DeviceSample], info: TargetInfo, edges: NDArray[np.int64]
) -> dict[str, tuple[float | None, ...]]:
    """Interpolate busy time between samples; after the last one it is not known."""
    if len(samples) < 2:
        return {}
    at = np.array([sample.at_ns for sample in samples])
    window_s = np.diff(edges) / 1e9
    is_known = edges[:-1] < at[-1]
    shares = {}
    for device, activations in sorted(info.activations.items()):
        busy = [sample.busy_s.get(device, 0.0) for sample in samples]
        share = np.diff(np.interp(edges, at, busy)) / (window_s * activations)
        shares[str(device)] = tuple(
            min(each, 1.0) if known else None
            for each, known in zip(share.tolist(), is_known.tolist(), strict=True)
        )
    return shares
