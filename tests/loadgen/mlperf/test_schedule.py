"""LoadGen's schedule, computed."""

from __future__ import annotations

import numpy as np
import pytest

from qaic_sched.loadgen.mlperf.schedule import loadgen_schedule
from qaic_sched.loadgen.plan.plan import Plan, Slo
from qaic_sched.loadgen.plan.scenarios import plan_for


def plan(rate: float, duration_s: float, seed: int = 1, samples: int = 1) -> Plan:
    """A short plan of the Server scenario."""
    limit = Slo(99.0, 1.0)
    return plan_for(
        "server", rate=rate, slo=limit, duration_s=duration_s, seed=seed, samples=samples
    )


@pytest.mark.parametrize(
    ("rate", "duration_s", "queries", "scheduled_rate"),
    [(5000.0, 2.0, 9951, 4973.77), (8000.0, 2.0, 15_995, 7996.01), (5000.0, 2.5, 12_397, 4958.35)],
)
def test_the_instants_are_loadgens(
    rate: float, duration_s: float, queries: int, scheduled_rate: float
) -> None:
    """The number of queries and the rate are those of a real LoadGen run."""
    planned = loadgen_schedule(plan(rate, duration_s), rate)

    assert len(planned) == queries
    assert round((queries - 1) / planned[-1] * 1e9, 2) == scheduled_rate
    assert planned[-2] < duration_s * 1e9 <= planned[-1]


def test_a_schedule_goes_on_to_the_least_number() -> None:
    """A schedule has at least the required number of requests."""
    planned = loadgen_schedule(plan(1000.0, 0.001, samples=100_000), 1000.0)

    assert len(planned) == 100_000
    assert planned[0] == 0
    assert np.diff(planned).min() >= 0
    assert planned[-1] == pytest.approx(100e9, rel=0.02)


def test_official_seeds_of_64_bits_are_taken() -> None:
    """Seeds of 64 bits are reduced to 32 bits, as in LoadGen."""
    seed = 16159082839903944936
    planned = loadgen_schedule(plan(1000.0, 1.0, seed), 1000.0)

    assert np.array_equal(planned, loadgen_schedule(plan(1000.0, 1.0, seed % 2**32), 1000.0))
    assert not np.array_equal(planned[:9], loadgen_schedule(plan(1000.0, 1.0), 1000.0)[:9])
