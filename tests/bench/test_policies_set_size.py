"""Every `set_size` is as good as the best one, and hedges delay no request: in figures."""

from __future__ import annotations

import pytest

from bench.policies import SET_SIZE_LOADS, SET_SIZE_RATIOS, UNBOUNDED, set_size_figures
from bench.simulated_host import Host, poisson, run_core
from qaic_sched.core.model import Policy


@pytest.mark.long
@pytest.mark.parametrize("load", SET_SIZE_LOADS)
def test_no_set_size_is_worse_where_times_vary(load: float) -> None:
    """Committing early puts nothing behind two batches while another activation holds one."""
    ideal = set_size_figures(load, 1, 0.0, count=8_000, seeds=(1, 2))
    for set_size in (2, 3, 10):
        figures = set_size_figures(load, set_size, count=8_000, seeds=(1, 2))
        ratios = [figure / best for figure, best in zip(figures, ideal, strict=True)]
        assert all(map(float.__le__, ratios, SET_SIZE_RATIOS)), (set_size, ratios)


def test_hedges_take_no_capacity_that_requests_wait_for() -> None:
    """Where late batches are common, a calm host has hedges and a busy one has hardly any."""
    host = Host(cv=1.0)
    shares = []
    for load in (0.7, 0.97):
        arrivals = poisson(host.capacity * load, 8_000, 1)
        run = run_core(host, arrivals, Policy(max_samples=UNBOUNDED))
        shares.append(run.num_hedges / len(arrivals))
    assert shares[0] > 0.009
    assert shares[1] < 0.005
