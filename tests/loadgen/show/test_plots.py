"""Plots of a run: their content, and figures left out for missing numbers."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from qaic_sched.loadgen.show.plots import (
    figure_for_latency_over_time,
    figure_for_percentiles,
    figure_for_queue,
    figure_for_utilisation,
    plot,
)
from tests.loadgen.reports import Host, make_report, make_search
from tests.loadgen.show.figures import texts, ticks

if TYPE_CHECKING:
    from qaic_sched.loadgen.report.report import Report

BASE = make_report()
ALL = figure_for_percentiles, figure_for_utilisation, figure_for_queue, figure_for_latency_over_time


def without_series(**changes: object) -> Report:
    """A report with other time series."""
    return make_report(series=msgspec.structs.replace(BASE.series, **changes))


def test_percentiles_stand_on_a_logarithmic_axis_of_rarity() -> None:
    """Both curves, the SLO, and ticks up to the percentile that the requests support."""
    figure = figure_for_percentiles(BASE)
    assert figure is not None

    assert figure.axes[0].get_xscale() == "log"
    assert ticks(figure, "x") == ["50", "90", "99", "99.9", "99.99"]
    assert np.allclose(figure.axes[0].get_xticks(), [2, 10, 100, 1_000, 10_000])
    assert texts(figure) == {
        "latency (from planned)",
        "response time (from sent)",
        "SLO: p99 at most 50.0 ms",
        "latency, ms",
        "percentile, % (logarithmic in the share of slower requests)",
        BASE.target,
    }


def test_the_curve_ends_at_the_maximum_where_one_of_all_requests_is() -> None:
    """The curve ends with the maximum, at a finite position."""
    figure = figure_for_percentiles(BASE)
    assert figure is not None
    assert BASE.scheduled is not None
    x, y = figure.axes[0].lines[0].get_data()

    assert x[-1] == pytest.approx(BASE.scheduled.count)
    assert y[-1] == pytest.approx(BASE.scheduled.max_s * 1_000)


def test_few_requests_have_few_ticks() -> None:
    """A hundred requests have no tick for p99.9."""
    figure = figure_for_percentiles(make_report(Host(rate=5.0, duration_s=20.0)))
    assert figure is not None

    assert ticks(figure, "x") == ["50", "90"]


@pytest.mark.parametrize(
    ("devices", "labels"),
    [
        (1, ["0"]),
        (4, ["0", "1", "2", "3"]),
        (64, [str(device) for device in range(0, 64, 4)]),
    ],
)
def test_utilisation_has_a_row_for_each_device(devices: int, labels: list[str]) -> None:
    """Each device has a row from 0 to 100 %, with a readable number of labels."""
    figure = figure_for_utilisation(make_report(Host(devices=devices, duration_s=5.0)))
    assert figure is not None
    mesh = figure.axes[0].collections[0]

    assert ticks(figure, "y") == labels
    assert mesh.get_clim() == (0, 100)
    assert mesh.get_array() is not None
    assert mesh.get_array().size == devices * 100
    assert {"device", "busy, %", "time since the start, s"} <= texts(figure)


def test_utilisation_that_is_not_known_is_grey_and_said_to_be() -> None:
    """Unknown utilisation is grey, and the label says so."""
    holes = {key: (None, *row[1:]) for key, row in BASE.series.utilisation.items()}
    figure = figure_for_utilisation(without_series(utilisation=holes))
    assert figure is not None

    array = figure.axes[0].collections[0].get_array()
    assert np.ma.count_masked(array) == 4
    assert "time since the start, s (grey: unknown)" in texts(figure)


def test_the_queue_stands_before_the_arrivals() -> None:
    """Lines are on the left axis, in front of the bars of arrivals."""
    figure = figure_for_queue(BASE)
    assert figure is not None
    front, behind = figure.axes

    assert front.get_zorder() > behind.get_zorder()
    assert len(behind.patches) == len(BASE.series.arrivals)
    heights = [bar.get_height() for bar in behind.patches]
    assert np.allclose(np.array(heights) * BASE.series.window_s, BASE.series.arrivals)
    assert {
        "requests in flight",
        "samples queued",
        "arrivals (right axis)",
        "arrivals per second",
        "requests, samples",
    } <= texts(figure)


def test_an_unknown_queue_has_no_line() -> None:
    """An unknown queue has no line, and the rest is drawn."""
    figure = figure_for_queue(without_series(queued_samples=(None,) * 100))
    assert figure is not None

    assert len(figure.axes[0].lines) == 1
    assert "samples queued" not in texts(figure)


def test_latency_over_time_shades_the_warm_up() -> None:
    """p50 and p99 have gaps for empty windows; the warm-up is shaded."""
    gaps = (None, *BASE.series.p99_s[1:])
    figure = figure_for_latency_over_time(without_series(p99_s=gaps))
    assert figure is not None
    shade = figure.axes[0].patches[0]

    assert shade.get_extents().width > 0
    assert np.isnan(figure.axes[0].lines[0].get_ydata()[0])
    assert texts(figure) == {
        "p99 of each window",
        "p50 of each window",
        "SLO: p99 at most 50.0 ms",
        "warm-up, excluded: 1.00 s",
        "latency, ms",
        "planned instant, s since the start",
        BASE.target,
    }


def test_a_wide_range_of_latencies_is_logarithmic_with_plain_numbers() -> None:
    """A wide span is logarithmic with plain numbers, a small one linear."""
    wild = figure_for_latency_over_time(make_report(Host(rate=830.0)))
    calm = figure_for_latency_over_time(BASE)
    assert wild is not None
    assert calm is not None

    assert wild.axes[0].get_yscale() == "log"
    assert calm.axes[0].get_yscale() == "linear"
    assert {"20", "50", "100"} <= {*ticks(wild, "y")}


def test_figures_without_numbers_are_none() -> None:
    """A report without numbers has no figures."""
    nothing = without_series(
        arrivals=(), p50_s=(None,) * 100, p99_s=(None,) * 100, utilisation={"0": (None,) * 100}
    )
    nothing = msgspec.structs.replace(nothing, scheduled=None, response=None, lag=None)

    assert [make(nothing) for make in ALL] == [None] * 4


def test_an_empty_report_writes_no_files(tmp_path: Path) -> None:
    """An empty report writes no files, only the folder."""
    series = msgspec.structs.replace(
        BASE.series, arrivals=(), p50_s=(), p99_s=(), utilisation={}, queued_samples=()
    )

    assert plot(make_report(scheduled=None, series=series), tmp_path / "new") == []
    assert (tmp_path / "new").is_dir()


@pytest.mark.slow
def test_every_figure_becomes_a_png(tmp_path: Path) -> None:
    """All seven figures become PNG files of a sensible size."""
    paths = plot(make_report(search=make_search()), tmp_path)
    paths += plot(make_report(search=make_search("shapes")), tmp_path)

    assert {path.name for path in paths} == {
        f"{name}.png"
        for name in (
            "latency_percentiles",
            "utilisation",
            "queue",
            "latency_over_time",
            "throughput",
            "scaling",
            "wait",
        )
    }
    for path in {*paths}:
        head = path.read_bytes()[:24]
        assert head.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", head[16:])
        assert width == 1_200
        assert 300 <= height <= 1_300
        assert 10_000 < path.stat().st_size < 500_000
