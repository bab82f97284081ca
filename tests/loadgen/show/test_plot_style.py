"""The style of all plots: readable axes for any span of values."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from qaic_sched.loadgen.show.plot_style import latency_axis


@pytest.mark.parametrize("least", [0.5, 0.02, 1e-4, 1e-13])
def test_a_latency_axis_has_numbers(least: float) -> None:
    """A latency axis has three to twelve labels for any span."""
    axes = Figure().add_subplot()
    axes.plot([1, 2, 3], [least, 1.0, 4.0])
    latency_axis(axes, [least, 1.0, None, 4.0], "wait, ms")
    low, high = axes.get_ylim()
    shown = [each for each in axes.yaxis.get_majorticklocs() if low <= each <= high]

    assert 3 <= len(shown) <= 12
    assert high >= 4.0
    assert low <= max(least, 4e-5)
