"""Sweeps over the shape of a host: the rate of each shape, the best one, and the scaling.

Rules of this file:
- Shapes are compared by the completed rate of the runs that pass; if none passes, of all runs, with
  a note.
- An impossible shape, for which `measure` raises `ConfigError`, is skipped and named.
- Scaling compares the best shape for each number of devices with the least number measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from qaic_sched.errors import ConfigError
from qaic_sched.extras import require
from qaic_sched.loadgen.report.formats import number, percent
from qaic_sched.loadgen.report.report import Search
from qaic_sched.loadgen.search.points import judged, late_note

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from qaic_sched.loadgen.report.report import Point, Report
    from qaic_sched.loadgen.search.points import JudgedRun

__all__ = ["Grid", "Shape", "best_by_devices", "sweep_shapes"]


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a host: what a sweep varies."""

    devices: int
    num_activations: int
    set_size: int
    batch: int
    """Samples per request."""

    def __str__(self) -> str:
        """All four values, by their names in the configuration."""
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


@dataclass(frozen=True, slots=True)
class Grid:
    """The values to combine to shapes."""

    devices: tuple[int, ...] = (1,)
    num_activations: tuple[int, ...] = (1,)
    set_size: tuple[int, ...] = (2,)
    batch: tuple[int, ...] = (1,)

    def shapes(self) -> Iterator[Shape]:
        """Yield all combinations; the last field changes fastest."""
        values = self.devices, self.num_activations, self.set_size, self.batch
        return (Shape(*each) for each in product(*values))


async def sweep_shapes(measure: Callable[[Shape], Awaitable[Report]], grid: Grid) -> Search:
    """Make one run with each shape of the grid."""
    require("scipy.optimize", "load")  # fail before the runs, not after them
    runs: list[JudgedRun] = []
    skipped: list[str] = []
    for shape in grid.shapes():
        try:
            report = await measure(shape)
        except ConfigError as error:
            skipped.append(f"Skipped {shape}: {error}")
        else:
            runs.append(judged(report, report.plan.rules.slo, shape=asdict(shape)))
    best = _best_points(runs)
    notes = [*_best_notes(runs, best), *_scaling_notes(best), *_problems(runs), *skipped]
    return Search(
        kind="shapes",
        points=tuple(run.point for run in runs),
        best_rate=max((point.completed_rate for point in best), default=None),
        note="\n".join(notes),
    )


def best_by_devices(points: Sequence[Point]) -> dict[int, Point]:
    """Return number of devices -> the point with the highest completed rate, ascending."""
    best: dict[int, Point] = {}
    for point in sorted(points, key=lambda point: point.completed_rate):
        if "devices" in point.shape:
            best[point.shape["devices"]] = point
    return dict(sorted(best.items()))


def _best_points(runs: Sequence[JudgedRun]) -> list[Point]:
    return [run.point for run in runs if run.passes] or [run.point for run in runs]


def _best_notes(runs: Sequence[JudgedRun], points: Sequence[Point]) -> list[str]:
    """Name the best shape, and the best for each value of a field that has several."""
    if not points:
        return ["No shape could be run."]
    passed = any(run.passes for run in runs)
    notes = [] if passed else ["No run passed: the best shapes below are of failed runs."]
    notes.append(f"Best: {_described(max(points, key=_rate))}.")
    for name in points[0].shape:
        values = sorted({point.shape[name] for point in points})
        for value in values if len(values) > 1 else ():
            top = max((point for point in points if point.shape[name] == value), key=_rate)
            notes.append(f"Best with {name} {value}: {_described(top)}.")
    return notes


def _described(point: Point) -> str:
    return f"{number(point.completed_rate)}/s with {Shape(**point.shape)}"


def _rate(point: Point) -> float:
    return point.completed_rate


def _scaling_notes(points: Sequence[Point]) -> list[str]:
    """State the efficiency per device, and fit Gunther's scalability law."""
    best = best_by_devices(points)
    rates = {devices: point.completed_rate for devices, point in best.items()}
    least = min(rates, default=0)
    if len(best) < 2 or not rates[least]:
        return []
    shares = [
        f"{devices} × {percent(rate / devices / (rates[least] / least))}"
        for devices, rate in rates.items()
    ]
    return [f"Rate per device, relative to {least}: {', '.join(shares)}.", _usl_note(rates)]


def _usl_note(rates: Mapping[int, float]) -> str:
    """Fit X(N) = g N / (1 + a (N - 1) + b N (N - 1)); a is contention, b is coherency."""
    if len(rates) < 4:
        return "No scalability law is fitted: that needs at least four numbers of devices."
    devices, measured = np.array([*rates], float), np.array([*rates.values()])
    first = measured[0] / devices[0]
    fit, _ = require("scipy.optimize", "load").curve_fit(
        _usl,
        devices,
        measured / first,
        p0=(1.0, 0.01, 0.0001),
        bounds=(0.0, np.inf),
        maxfev=10_000,
    )
    error = float(np.max(np.abs(_usl(devices, *fit) * first / measured - 1)))
    gain, alpha, beta = map(float, fit)
    peak = (
        f"a peak at {number(sqrt((1 - alpha) / beta), 3)} devices" if _has_peak(fit) else "no peak"
    )
    return (
        f"Universal scalability law: {number(gain * first)}/s for one device, contention "
        f"{number(alpha, 3)}, coherency {number(beta, 3)}, {peak}; within {percent(error)}."
    )


def _usl(
    devices: NDArray[np.float64], gain: float, alpha: float, beta: float
) -> NDArray[np.float64]:
    return gain * devices / (1 + alpha * (devices - 1) + beta * devices * (devices - 1))


def _has_peak(fit: NDArray[np.float64]) -> bool:
    """Return whether the fitted curve falls within a realistic number of devices."""
    _, alpha, beta = fit
    return bool(alpha < 1 and beta > 1e-9)


def _problems(runs: Sequence[JudgedRun]) -> list[str]:
    failed = [f"Failed: {Shape(**run.point.shape)}." for run in runs if not run.passes]
    late = [str(Shape(**run.point.shape)) for run in runs if run.is_late]
    return [*failed, *([late_note("; ".join(late))] if late else [])]
