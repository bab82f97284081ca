"""The search for the highest rate."""

from __future__ import annotations

import pytest

from bench.server import LIMIT_S, Offered, highest_rate
from qaic_sched.testing import run_virtual


@pytest.mark.parametrize("most_possible", [300.0, 717.0, 2000.0])
def test_the_highest_rate_is_found_by_bisection(most_possible: float) -> None:
    """The highest rate is found to within 1 % of the upper limit of the search."""

    async def offer(rate: float) -> Offered:
        return Offered(rate, LIMIT_S * rate / most_possible, 1.0, 1.0)

    found = run_virtual(highest_rate, offer, 1000.0)

    assert found.rate <= most_possible
    assert found.rate == pytest.approx(min(most_possible, 1000.0), abs=10.0)
