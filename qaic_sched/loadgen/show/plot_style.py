"""The style of all plots: colours for colour-blind readers, dark text, units on every axis.

Figures use matplotlib's object API, without its global state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qaic_sched.extras import require
from qaic_sched.loadgen.report.formats import percentile_name, seconds, time_unit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from qaic_sched.loadgen.report.report import Report

__all__ = [
    "BLUE",
    "DPI",
    "GREEN",
    "GREY",
    "ORANGE",
    "PALE",
    "RED",
    "latency_axis",
    "legend",
    "new_figure",
    "plain_numbers",
    "slo_line",
    "time_scale",
]

DPI = 150
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
"""Okabe and Ito's colours, which also differ in brightness."""
TEXT, GREY, PALE = "#222222", "#555555", "#D9D9D9"
LOG_SPAN = 15.0
"""An axis is logarithmic if its largest value is more than this times the smallest."""
MAX_LOG_SPAN = 1e5
"""A logarithmic axis shows at most this span, from the largest value down."""
DECADE_TICKS_SPAN = 200.0
"""With a larger span, a logarithmic axis has ticks at powers of ten only."""
MAX_TARGET_CHARS = 90


def new_figure(
    report: Report, title: str, size: tuple[float, float] = (8.0, 4.5)
) -> tuple[Figure, Axes]:
    """Make an empty plot with a title, and the target as its subtitle."""
    figure: Figure = require("matplotlib.figure", "load").Figure(size, dpi=DPI)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)
    axes = figure.add_subplot()
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=TEXT)
    target, rest = report.target[:MAX_TARGET_CHARS], report.target[MAX_TARGET_CHARS:]
    axes.set_title(f"{target}…" if rest else target, loc="left", fontsize=9, color=GREY)
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY, labelsize=9)
    axes.xaxis.label.set_color(TEXT)
    axes.yaxis.label.set_color(TEXT)
    for side in axes.spines.values():
        side.set_color(PALE)
    return figure, axes


def time_scale(values_s: Iterable[float | None]) -> tuple[float, str]:
    """Return the unit for the median of some times: its length in seconds, and its name."""
    known = sorted(value for value in values_s if value)
    return time_unit(known[len(known) // 2]) if known else (1.0, "s")


def latency_axis(axes: Axes, values: Iterable[float | None], label: str) -> None:
    """Label the y axis, and make it logarithmic if the values span more than `LOG_SPAN`."""
    axes.set_ylabel(label)
    known = [value for value in values if value and value > 0]
    if not known or max(known) < LOG_SPAN * min(known):
        axes.set_ylim(bottom=0)
        return
    ticker = require("matplotlib.ticker", "load")
    axes.set_yscale("log")
    top, bottom = max(known), max(min(known), max(known) / MAX_LOG_SPAN)
    axes.set_ylim(bottom / 1.5, top * 1.5)
    subs = (1.0,) if top > DECADE_TICKS_SPAN * bottom else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=30))
    plain_numbers(axes.yaxis)
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def plain_numbers(axis: Axis) -> None:
    """Label an axis with plain numbers: 0.02, 15,000."""
    ticker = require("matplotlib.ticker", "load")
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.10g}"))


def slo_line(axes: Axes, report: Report, scale: float) -> None:
    """Draw a line at the limit of the plan's SLO, if there is one."""
    slo = report.plan.rules.slo
    if slo is None:
        return
    label = f"SLO: {percentile_name(slo.percentile)} at most {seconds(slo.limit_s)}"
    axes.axhline(slo.limit_s / scale, color=RED, linestyle=":", linewidth=1.6, label=label)


def legend(figure: Figure, *axes: Axes) -> None:
    """Draw one legend for all axes, below the plot."""
    found = [each.get_legend_handles_labels() for each in axes]
    handles = [handle for handles, _ in found for handle in handles]
    labels = [label for _, labels in found for label in labels]
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 3),
        frameon=False,
        fontsize=9,
        labelcolor=TEXT,
    )
