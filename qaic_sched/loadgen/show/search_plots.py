"""Plots of a search: latency over throughput, throughput over devices, predicted waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qaic_sched.extras import require
from qaic_sched.loadgen.report.formats import number, percent
from qaic_sched.loadgen.search.sweep import best_by_devices
from qaic_sched.loadgen.show.plot_style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    latency_axis,
    legend,
    new_figure,
    plain_numbers,
    slo_line,
    time_scale,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qaic_sched.loadgen.report.report import Point, Report, Search

__all__ = ["figure_for_scaling", "figure_for_throughput", "figure_for_wait"]

CURVES = ("p99_s", BLUE, "o"), ("p95_s", ORANGE, "s"), ("p50_s", GREEN, "^")
LABEL_DISTANCE = 0.09, 0.06
"""A label closer to another than these shares of the axes, in x and in y, is left out."""
LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
LOG_DEVICES_SPAN = 8
"""Axes are logarithmic if the numbers of devices span more than this factor."""


def figure_for_throughput(report: Report) -> Figure | None:
    """Plot latency over the completed rate; labels are offered rates or callers."""
    search = report.search
    points = sorted(search.points, key=_order) if search and search.kind != "shapes" else []
    if search is None or not any(point.p50_s for point in points):
        return None
    figure, axes = new_figure(
        report, "Latency from the planned instant over throughput", (8.0, 5.0)
    )
    scale, unit = time_scale(point.p95_s or point.p50_s for point in points)
    for field, colour, marker in CURVES:
        known = [point for point in points if getattr(point, field) is not None]
        axes.plot(
            [point.completed_rate for point in known],
            [getattr(point, field) / scale for point in known],
            marker=marker,
            markersize=5,
            color=colour,
            label=field.removesuffix("_s"),
        )
    _marks(axes, report, search, scale)
    values = [getattr(point, field) for point in points for field, _, _ in CURVES]
    latency_axis(axes, [value and value / scale for value in values], f"latency, {unit}")
    plain_numbers(axes.xaxis)
    axes.set_xlim(left=0)
    axes.margins(y=0.12)
    is_open = points[0].offered_rate is not None
    asked = "offered per second" if is_open else "callers"
    axes.set_xlabel(f"completed samples per second (labels: {asked})")
    _label(axes, [(_top(point, scale), _asked(point)) for point in points])
    legend(figure, axes)
    return figure


def _order(point: Point) -> tuple[float, float]:
    return point.offered_rate or point.concurrency or 0.0, point.completed_rate


def _asked(point: Point) -> str:
    return number(point.concurrency if point.offered_rate is None else point.offered_rate)


def _top(point: Point, scale: float) -> tuple[float, float]:
    """Return the position of a run's highest mark."""
    values = [getattr(point, field) for field, _, _ in CURVES]
    return point.completed_rate, max((value for value in values if value), default=0.0) / scale


def _marks(axes: Axes, report: Report, search: Search, scale: float) -> None:
    slo_line(axes, report, scale)
    if search.knee_rate is not None:
        label = f"knee: {number(search.knee_rate)}/s"
        axes.axvline(search.knee_rate, color=GREY, linestyle="-.", linewidth=1.2, label=label)
    best = [
        point.completed_rate
        for point in search.points
        if search.best_rate in (point.offered_rate, point.completed_rate)
    ]
    if best:
        label = f"best within the SLO: {number(search.best_rate)}/s"
        axes.axvline(best[0], color=RED, linewidth=1.2, alpha=0.6, label=label)


def _label(axes: Axes, labels: Sequence[tuple[tuple[float, float], str]]) -> None:
    """Write labels to the upper left of their marks; leave out those that would overlap."""
    axes.autoscale_view()  # sets the limits
    to_share = axes.transData + axes.transAxes.inverted()
    placed: list[tuple[float, float]] = []
    for at, text in reversed(labels):
        x, y = to_share.transform(at)
        if all(
            abs(x - x2) > LABEL_DISTANCE[0] or abs(y - y2) > LABEL_DISTANCE[1] for x2, y2 in placed
        ):
            placed.append((x, y))
            axes.annotate(
                text,
                at,
                xytext=(-4, 4),
                textcoords="offset points",
                ha="right" if x > LABEL_DISTANCE[0] else "left",
                fontsize=8,
                color=GREY,
                bbox=LABEL_BOX,
            )


def figure_for_scaling(report: Report) -> Figure | None:
    """Plot the throughput of the best shape for each number of devices, and ideal scaling."""
    points = report.search.points if report.search else ()
    best = best_by_devices(points)
    if len(best) < 2:
        return None
    figure, axes = new_figure(report, "Throughput over devices", (8.0, 5.0))
    counts, rates = [*best], [point.completed_rate for point in best.values()]
    per_device = rates[0] / counts[0]
    others = [point for point in points if point not in best.values()]
    axes.scatter(
        [point.shape["devices"] for point in others],
        [point.completed_rate for point in others],
        s=14,
        color="#999999",
        label="other shapes",
    )
    ideal = [per_device * count for count in counts]
    # On top, or measurements that scale ideally would hide it.
    axes.plot(counts, ideal, "--", color=GREY, label="ideal", linewidth=1.4, zorder=3)
    axes.plot(counts, rates, "o-", color=BLUE, label="best shape", linewidth=1.8)
    _device_axes(axes, counts)
    for count, rate in best.items():
        _efficiency(axes, count, rate.completed_rate, per_device)
    legend(figure, axes)
    return figure


def _device_axes(axes: Axes, counts: Sequence[int]) -> None:
    ticker = require("matplotlib.ticker", "load")
    if max(counts) > LOG_DEVICES_SPAN * min(counts):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    else:
        axes.set_ylim(bottom=0)
    axes.margins(x=0.1, y=0.12)
    axes.set_xticks(counts, [number(count) for count in counts])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    plain_numbers(axes.yaxis)
    axes.set_xlabel("devices (labels: rate per device, relative to the fewest)")
    axes.set_ylabel("completed samples per second")


def _efficiency(axes: Axes, count: int, rate: float, per_device: float) -> None:
    axes.annotate(
        percent(rate / count / per_device) if per_device else "",
        (count, rate),
        xytext=(6, -4),
        textcoords="offset points",
        va="top",
        fontsize=9,
        color=BLUE,
        bbox=LABEL_BOX,
    )


def figure_for_wait(report: Report) -> Figure | None:
    """Plot the predicted and the measured mean wait over the load."""
    points = report.search.points if report.search else ()
    known = [
        (100 * point.utilisation, point.predicted_wait_s, point.measured_wait_s)
        for point in points
        if point.utilisation is not None
        and point.predicted_wait_s is not None
        and point.measured_wait_s is not None
    ]
    if report.search is None or len({load for load, _, _ in known}) < 2:
        return None
    figure, axes = new_figure(report, "Predicted and measured wait")
    loads, predicted_s, measured_s = np.array(sorted(known)).T
    scale, unit = time_scale(measured_s.tolist())
    # Different hosts have different curves.
    line = "" if report.search.kind == "shapes" else "-"
    axes.plot(
        loads, predicted_s / scale, f"{line}s", color=GREY, mfc="none", ms=9, label="predicted"
    )
    axes.plot(loads, measured_s / scale, "o", color=BLUE, markersize=5, label="measured")
    waits = [*(predicted_s / scale), *(measured_s / scale)]
    latency_axis(axes, waits, f"mean wait before the start, {unit}")
    axes.set_xlabel("load: busy time of all devices, %")
    legend(figure, axes)
    return figure
