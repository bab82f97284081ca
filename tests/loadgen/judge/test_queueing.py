"""What queueing theory says of requests that wait for servers in order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qaic_sched.loadgen.judge.queueing import (
    erlang_c,
    fcfs_waits,
    mdc_wait,
    mgc_wait,
    mmc_wait,
    simulate_mdc,
)

EXECUTE_S = 0.002


def test_one_server_is_the_book_s_m_m_1() -> None:
    """It is busy for its load, and the wait is load / (1 - load) services."""
    assert erlang_c(1, 0.8) == pytest.approx(0.8)
    assert mmc_wait(400, EXECUTE_S, 1) == pytest.approx(EXECUTE_S * 0.8 / 0.2)


@pytest.mark.parametrize(
    ("servers", "offered", "expected"), [(2, 1.0, 1 / 3), (3, 2.0, 4 / 9), (10, 8.0, 0.40918)]
)
def test_erlang_c_is_that_of_the_tables(servers: int, offered: float, expected: float) -> None:
    """Known values, two of them fractions."""
    assert erlang_c(servers, offered) == pytest.approx(expected, rel=1e-4)


def test_a_thousand_servers_are_no_trouble() -> None:
    """The recursion neither overflows nor leaves 0 to 1."""
    assert 0 < erlang_c(1_024, 1_000.0) < 1
    assert erlang_c(1_024, 1.0) < 1e-300


def test_one_server_with_constant_service_is_exact() -> None:
    """M/D/1 waits half as long as M/M/1, and M/G/1 by Pollaczek and Khinchine."""
    exponential_s = mmc_wait(400, EXECUTE_S, 1)

    assert mdc_wait(400, EXECUTE_S, 1) == pytest.approx(exponential_s / 2)
    assert mgc_wait(400, EXECUTE_S, 1, 0.0) == pytest.approx(exponential_s / 2)
    assert mgc_wait(400, EXECUTE_S, 1, 0.5) == pytest.approx(exponential_s * 1.25 / 2)
    assert mgc_wait(400, EXECUTE_S, 1, 1.0) == pytest.approx(exponential_s)


@pytest.mark.parametrize("wait", [mmc_wait, mdc_wait, lambda *load: mgc_wait(*load, 0.5)])
def test_nothing_waits_without_load_and_all_for_ever_beyond_capacity(wait: object) -> None:
    """The ends of the scale."""
    assert callable(wait)
    assert wait(0.0, EXECUTE_S, 4) == 0
    assert wait(2_000, EXECUTE_S, 4) == math.inf


@pytest.mark.parametrize(
    ("servers", "load", "tolerance"),
    [(4, 0.6, 0.05), (4, 0.8, 0.04), (4, 0.95, 0.06), (16, 0.8, 0.06), (16, 0.95, 0.06)],
)
def test_cosmetatos_is_near_the_truth(servers: int, load: float, tolerance: float) -> None:
    """As near to three long simulations as it is known to be, with the simulation's own noise."""
    rate = load * servers / EXECUTE_S
    simulated = [simulate_mdc(rate, EXECUTE_S, servers, 400_000, seed)[1] for seed in range(3)]

    assert mdc_wait(rate, EXECUTE_S, servers) == pytest.approx(np.mean(simulated), rel=tolerance)


def test_kimura_is_near_the_truth() -> None:
    """Gamma service times with a squared CV of 0.25 on 4 servers at 80 % load."""
    generator = np.random.default_rng(3)
    rate = 0.8 * 4 / EXECUTE_S
    arrivals = np.cumsum(generator.exponential(1 / rate, 400_000))
    services = generator.gamma(4, EXECUTE_S / 4, 400_000)

    simulated_s = fcfs_waits(arrivals, services, 4).mean()

    assert mgc_wait(rate, EXECUTE_S, 4, 0.5) == pytest.approx(simulated_s, rel=0.04)


def test_the_first_free_server_takes_the_next_customer() -> None:
    """Two servers, five customers, by hand."""
    arrivals = np.array([0.0, 1.0, 2.0, 3.0, 20.0])
    services = np.array([10.0, 2.0, 2.0, 1.0, 1.0])

    assert fcfs_waits(arrivals, services, 2).tolist() == [0, 0, 1, 2, 0]
    assert fcfs_waits(arrivals, services, 1).tolist() == [0, 9, 10, 11, 0]
    assert fcfs_waits(arrivals, services, 5).tolist() == [0] * 5


def test_long_runs_are_computed_in_chunks() -> None:
    """Servers are as busy at the begin of a chunk as they were at the end of the one before."""
    arrivals = np.zeros(250_001)

    waits = fcfs_waits(arrivals, np.ones(250_001), 2)

    assert np.array_equal(waits, np.arange(250_001) // 2)


@pytest.mark.parametrize("servers", [1, 3, 16])
def test_taking_turns_is_the_same_as_the_recursion(servers: int) -> None:
    """With equal service times; the last turn may be short."""
    rate = 0.9 * servers / EXECUTE_S

    arrivals, waits = simulate_mdc(rate, EXECUTE_S, servers, 10_001, seed=5)

    recursion = fcfs_waits(arrivals, np.full(10_001, EXECUTE_S), servers)
    assert waits == pytest.approx(recursion, abs=1e-9)
    assert waits.max() > 0
