"""Plots of searches: curves, marks and labels that do not cover each other."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from qaic_sched.loadgen.report.report import Search
from qaic_sched.loadgen.show.search_plots import (
    LABEL_DISTANCE,
    figure_for_scaling,
    figure_for_throughput,
    figure_for_wait,
)
from tests.loadgen.reports import make_report, make_search
from tests.loadgen.show.figures import texts, ticks

SLO_SEARCH = make_search()
SHAPES = make_search("shapes")


def test_throughput_has_three_percentiles_the_slo_the_knee_and_the_best() -> None:
    """Latency is plotted over completed samples; labels are the offered rates."""
    figure = figure_for_throughput(make_report(search=SLO_SEARCH))
    assert figure is not None
    axes = figure.axes[0]
    p99 = axes.lines[0].get_data()

    assert np.allclose(p99[0], [point.completed_rate for point in SLO_SEARCH.points])
    assert np.allclose(p99[1], [1_000 * (point.p99_s or 0) for point in SLO_SEARCH.points])
    assert [text.get_text() for text in axes.texts] == [
        "790",
        "740",
        "700",
        "640",
        "560",
        "400",
        "200",
    ]
    assert texts(figure) >= {
        "p50",
        "p95",
        "p99",
        "SLO: p99 at most 50.0 ms",
        "knee: 639.0/s",
        "best within the SLO: 740/s",
        "latency, ms",
        "completed samples per second (labels: offered per second)",
    }


def test_labels_of_runs_that_are_close_are_left_out() -> None:
    """Labels of close points are left out."""
    points = [
        msgspec.structs.replace(point, offered_rate=700.0 + step, completed_rate=699.0 + step)
        for step in range(10)
        for point in SLO_SEARCH.points[4:5]
    ]
    search = msgspec.structs.replace(SLO_SEARCH, points=(*SLO_SEARCH.points, *points))
    figure = figure_for_throughput(make_report(search=search))
    assert figure is not None
    axes = figure.axes[0]
    share = axes.transData + axes.transAxes.inverted()
    at = [share.transform(text.xy) for text in axes.texts]

    assert 5 <= len(at) < len(search.points)
    for row, (x, y) in enumerate(at):
        for x2, y2 in at[:row]:
            assert abs(x - x2) > LABEL_DISTANCE[0] * 0.9 or abs(y - y2) > LABEL_DISTANCE[1] * 0.9


def test_closed_loops_are_labelled_with_their_concurrency() -> None:
    """Points of closed loops have their number of callers as labels."""
    points = tuple(
        msgspec.structs.replace(point, offered_rate=None, concurrency=2**row)
        for row, point in enumerate(SLO_SEARCH.points)
    )
    search = Search(kind="concurrency", points=points)
    figure = figure_for_throughput(make_report(search=search))
    assert figure is not None

    assert {text.get_text() for text in figure.axes[0].texts} >= {"64", "2", "1"}
    assert "completed samples per second (labels: callers)" in texts(figure)


def test_scaling_has_the_ideal_line_and_the_efficiency_of_each() -> None:
    """The best shape for each number of devices is a line, the others are dots."""
    figure = figure_for_scaling(make_report(search=SHAPES))
    assert figure is not None
    axes = figure.axes[0]
    ideal, best = (line.get_data() for line in axes.lines)

    assert ideal[0].tolist() == best[0].tolist() == [1, 2, 4, 8, 16]
    assert np.allclose(ideal[1], [180.0 * count for count in ideal[0]])
    assert np.allclose(best[1], [180.0 * n / (1 + 0.01 * (n - 1)) for n in best[0]])
    assert [text.get_text() for text in axes.texts] == [
        "100 %",
        "99.0 %",
        "97.1 %",
        "93.5 %",
        "87.0 %",
    ]
    assert len(axes.collections[0].get_offsets()) == 5
    assert ticks(figure, "x") == ["1", "2", "4", "8", "16"]
    assert {"ideal", "best shape", "other shapes"} <= texts(figure)


@pytest.mark.parametrize(("most", "scale"), [(4, "linear"), (16, "log")])
def test_many_cards_stand_on_logarithmic_axes(most: int, scale: str) -> None:
    """A wide span of devices has logarithmic axes."""
    points = tuple(point for point in SHAPES.points if point.shape["devices"] <= most)
    search = msgspec.structs.replace(SHAPES, points=points)
    figure = figure_for_scaling(make_report(search=search))
    assert figure is not None

    assert figure.axes[0].get_xscale() == scale


def test_wait_has_what_theory_says_and_what_was_measured() -> None:
    """Predicted and measured waits are plotted over the load in percent."""
    figure = figure_for_wait(make_report(search=SLO_SEARCH))
    assert figure is not None
    predicted, measured = (line.get_data() for line in figure.axes[0].lines)

    assert np.allclose(predicted[0], [25, 50, 70, 80, 87.5, 92.5, 98.75], atol=0.6)
    assert np.allclose(predicted[1] / measured[1], 1.02)
    assert {"predicted", "measured", "load: busy time of all devices, %"} <= texts(figure)


def test_searches_without_the_numbers_have_no_figure() -> None:
    """A search without the numbers of a figure has no figure."""
    report = make_report()
    nothing = tuple(
        msgspec.structs.replace(point, p50_s=None, predicted_wait_s=None)
        for point in SLO_SEARCH.points
    )
    empty = make_report(search=msgspec.structs.replace(SLO_SEARCH, points=nothing))

    assert figure_for_throughput(report) is figure_for_scaling(report) is None
    assert figure_for_wait(report) is None
    assert figure_for_throughput(empty) is figure_for_wait(empty) is None
    assert figure_for_scaling(make_report(search=SLO_SEARCH)) is None
    assert figure_for_throughput(make_report(search=SHAPES)) is None
    assert figure_for_wait(make_report(search=SHAPES)) is None
