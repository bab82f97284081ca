"""What all plots share: axes that can be read, whatever the values span."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from qaic_sched.loadgen.show.plot_style import latency_axis


@pytest.mark.parametrize("least", [0.5, 0.02, 1e-4, 1e-13])
def test_a_latency_axis_has_numbers(least: float) -> None:
    """From three to a dozen of them, from next to nothing up to the greatest."""
    axes = Figure().add_subplot()
    axes.plot([1, 2, 3], [least, 1.0, 4.0])
    latency_axis(axes, [least, 1.0, None, 4.0], "wait, ms")
    low, high = axes.get_ylim()
    shown = [each for each in axes.yaxis.get_majorticklocs() if low <= each <= high]

    assert 3 <= len(shown) <= 12
    assert high >= 4.0
    assert low <= max(least, 4e-5)
