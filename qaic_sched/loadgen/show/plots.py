"""Plots of a report: a function for each figure, and one that writes them all.

A figure is None, and has no file, if the report lacks its numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qaic_sched.extras import require
from qaic_sched.loadgen.report.formats import seconds
from qaic_sched.loadgen.show.plot_style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    RED,
    latency_axis,
    legend,
    new_figure,
    plain_numbers,
    slo_line,
    time_scale,
)
from qaic_sched.loadgen.show.search_plots import (
    figure_for_scaling,
    figure_for_throughput,
    figure_for_wait,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from qaic_sched.loadgen.report.report import Latency, Report, Series

__all__ = [
    "figure_for_latency_over_time",
    "figure_for_percentiles",
    "figure_for_queue",
    "figure_for_utilisation",
    "plot",
]

TICKS = 50.0, 90.0, 99.0, 99.9, 99.99, 99.999
MAX_LABELLED_ROWS = 16
"""With more devices, only every second, fourth, ... row has a label."""


def plot(report: Report, directory: Path) -> list[Path]:
    """Write a PNG file for each figure that the report has numbers for; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Callable[[Report], Figure | None]] = {
        "latency_percentiles": figure_for_percentiles,
        "utilisation": figure_for_utilisation,
        "queue": figure_for_queue,
        "latency_over_time": figure_for_latency_over_time,
        "throughput": figure_for_throughput,
        "scaling": figure_for_scaling,
        "wait": figure_for_wait,
    }
    paths = []
    for name, make in figures.items():
        if figure := make(report):
            paths.append(directory / f"{name}.png")
            figure.savefig(paths[-1])
    return paths


def figure_for_percentiles(report: Report) -> Figure | None:
    """Plot latency and response time by percentile; coordinated omission hides the difference."""
    if report.scheduled is None:
        return None
    figure, axes = new_figure(report, "Latency by percentile")
    curves = {"latency (from planned)": (report.scheduled, BLUE, "-")}
    if report.response:
        curves["response time (from sent)"] = (report.response, ORANGE, "--")
    scale, unit = time_scale(each.value_s for each in report.scheduled.percentiles)
    values: list[float] = []
    for label, (latency, colour, line) in curves.items():
        rarity, curve_s = _curve(latency)
        axes.plot(rarity, curve_s / scale, line, color=colour, label=label, linewidth=1.8)
        values += (curve_s / scale).tolist()
    slo_line(axes, report, scale)
    latency_axis(axes, values, f"latency, {unit}")
    _percentile_axis(axes, report.scheduled.count)
    legend(figure, axes)
    return figure


def _curve(latency: Latency) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return 1 / (1 - quantile) and seconds; the maximum is at the number of requests."""
    shares, curve_s = np.array(latency.curve).T
    return 1 / np.maximum(1 - shares, 1 / max(latency.count, 2)), curve_s


def _percentile_axis(axes: Axes, count: int) -> None:
    ticker = require("matplotlib.ticker", "load")
    axes.set_xscale("log")
    axes.set_xlim(max(axes.dataLim.xmin * 0.8, 1), max(count, 10) * 1.15)
    shown = [each for each in TICKS if 1 / (1 - each / 100) <= max(count, 10)]
    axes.set_xticks([1 / (1 - each / 100) for each in shown], [f"{each:g}" for each in shown])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("percentile, % (logarithmic in the share of slower requests)")


def figure_for_utilisation(report: Report) -> Figure | None:
    """Plot the utilisation of each device over time."""
    devices = report.series.utilisation
    shares = np.array([[*row] for row in devices.values()], float)
    if not shares.size or np.isnan(shares).all():
        return None
    height = min(2.2 + 0.3 * len(devices), 8.0)
    figure, axes = new_figure(report, "Utilisation of each device", (8.0, height))
    colours = require("matplotlib", "load").colormaps["cividis"].with_extremes(bad=PALE)
    mesh = axes.pcolormesh(
        _edges(report.series, shares.shape[1]),
        np.arange(len(devices) + 1) - 0.5,
        np.ma.masked_invalid(100 * shares),
        cmap=colours,
        vmin=0,
        vmax=100,
    )
    axes.grid(visible=False)
    if len(devices) <= MAX_LABELLED_ROWS:
        axes.hlines(np.arange(1, len(devices)) - 0.5, *axes.get_xlim(), color="white", linewidth=1)
    step = 1 << max((len(devices) - 1) // MAX_LABELLED_ROWS, 0).bit_length()
    rows = range(0, len(devices), step)
    axes.set_yticks([*rows], [[*devices][row] for row in rows])
    axes.invert_yaxis()
    axes.set_ylabel("device")
    unknown = " (grey: unknown)" if np.isnan(shares).any() else ""
    axes.set_xlabel(f"time since the start, s{unknown}")
    figure.colorbar(mesh, ax=axes, label="busy, %", ticks=[0, 25, 50, 75, 100], pad=0.01)
    return figure


def _edges(series: Series, count: int) -> NDArray[Any]:
    return np.arange(count + 1) * series.window_s


def _middles(series: Series, count: int) -> NDArray[Any]:
    return (np.arange(count) + 0.5) * series.window_s


def figure_for_queue(report: Report) -> Figure | None:
    """Plot queued samples and requests in flight over time, with the arrivals behind."""
    series = report.series
    if not series.arrivals:
        return None
    figure, axes = new_figure(report, "Queue, requests in flight and arrivals")
    behind = axes.twinx()
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    at = _middles(series, len(series.arrivals))
    rates = np.array(series.arrivals) / series.window_s
    behind.bar(at, rates, series.window_s, color=PALE, label="arrivals (right axis)")
    behind.set_ylim(0, max(float(rates.max()), 1e-9) * 1.6)
    behind.set_ylabel("arrivals per second", color=GREY)
    plain_numbers(behind.yaxis)
    behind.tick_params(colors=GREY, labelsize=9)
    _line(axes, at, series.in_flight, BLUE, "requests in flight")
    _line(axes, at, series.queued_samples, RED, "samples queued", "--")
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.set_ylabel("requests, samples")
    axes.set_xlabel("time since the start, s")
    legend(figure, axes, behind)
    return figure


def _line(
    axes: Axes,
    at: NDArray[Any],
    values: Sequence[float | None],
    colour: str,
    label: str,
    line: str = "-",
) -> None:
    """Draw a line with gaps for unknown values, and dots if there are gaps or few values."""
    known = np.array(values, float)
    if known.size and not np.isnan(known).all():
        has_gaps = bool(np.isnan(known).any())
        marker = "." if has_gaps or len(known) < 30 else ""
        axes.plot(at, known, line, marker=marker, color=colour, label=label, linewidth=1.5)


def figure_for_latency_over_time(report: Report) -> Figure | None:
    """Plot p50 and p99 of each window, with the warm-up shaded."""
    series = report.series
    known = [value_s for value_s in (*series.p50_s, *series.p99_s) if value_s is not None]
    if not known:
        return None
    figure, axes = new_figure(report, "Latency over time, from the planned instant")
    scale, unit = time_scale(known)
    at = _middles(series, len(series.p50_s))
    for values_s, colour, label in (
        (series.p99_s, BLUE, "p99 of each window"),
        (series.p50_s, GREEN, "p50 of each window"),
    ):
        scaled = [None if value_s is None else value_s / scale for value_s in values_s]
        _line(axes, at, scaled, colour, label)
    slo_line(axes, report, scale)
    latency_axis(axes, (value_s / scale for value_s in known), f"latency, {unit}")
    if report.warm_up.until_s > 0:
        label = f"warm-up, excluded: {seconds(report.warm_up.until_s)}"
        axes.axvspan(0, report.warm_up.until_s, color=GREY, alpha=0.2, label=label, linewidth=0)
    axes.set_xlim(0, len(series.p50_s) * series.window_s)
    axes.set_xlabel("planned instant, s since the start")
    legend(figure, axes)
    return figure
