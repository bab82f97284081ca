"""Queueing theory against known values and simulations."""

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
    """M/M/1: the wait is load / (1 - load) execution times."""
    assert erlang_c(1, 0.8) == pytest.approx(0.8)
    assert mmc_wait(400, EXECUTE_S, 1) == pytest.approx(EXECUTE_S * 0.8 / 0.2)


@pytest.mark.parametrize(
    ("servers", "offered", "expected"), [(2, 1.0, 1 / 3), (3, 2.0, 4 / 9), (10, 8.0, 0.40918)]
)
def test_erlang_c_is_that_of_the_tables(servers: int, offered: float, expected: float) -> None:
    """Erlang C has known values."""
    assert erlang_c(servers, offered) == pytest.approx(expected, rel=1e-4)


def test_a_thousand_servers_are_no_trouble() -> None:
    """The recursion stays within 0 to 1 for a thousand servers."""
    assert 0 < erlang_c(1_024, 1_000.0) < 1
    assert erlang_c(1_024, 1.0) < 1e-300


def test_one_server_with_constant_execution_times_is_exact() -> None:
    """With one server, constant and general execution times have exact waits."""
    exponential_s = mmc_wait(400, EXECUTE_S, 1)

    assert mdc_wait(400, EXECUTE_S, 1) == pytest.approx(exponential_s / 2)
    assert mgc_wait(400, EXECUTE_S, 1, 0.0) == pytest.approx(exponential_s / 2)
    assert mgc_wait(400, EXECUTE_S, 1, 0.5) == pytest.approx(exponential_s * 1.25 / 2)
    assert mgc_wait(400, EXECUTE_S, 1, 1.0) == pytest.approx(exponential_s)


@pytest.mark.parametrize("wait", [mmc_wait, mdc_wait, lambda *load: mgc_wait(*load, 0.5)])
def test_nothing_waits_without_load_and_all_for_ever_beyond_capacity(wait: object) -> None:
    """Without load the wait is 0; beyond capacity it is infinite."""
    assert callable(wait)
    assert wait(0.0, EXECUTE_S, 4) == 0
    assert wait(2_000, EXECUTE_S, 4) == math.inf


@pytest.mark.parametrize(
    ("servers", "load", "tolerance"),
    [(4, 0.6, 0.05), (4, 0.8, 0.04), (4, 0.95, 0.06), (16, 0.8, 0.06), (16, 0.95, 0.06)],
)
def test_cosmetatos_is_near_the_truth(servers: int, load: float, tolerance: float) -> None:
    """Cosmetatos' formula is within its known error of long simulations."""
    rate = load * servers / EXECUTE_S
    simulated = [simulate_mdc(rate, EXECUTE_S, servers, 400_000, seed)[1] for seed in range(3)]

    assert mdc_wait(rate, EXECUTE_S, servers) == pytest.approx(np.mean(simulated), rel=tolerance)


def test_kimura_is_near_the_truth() -> None:
    """Kimura's formula is near a simulation with gamma execution times."""
    generator = np.random.default_rng(3)
    rate = 0.8 * 4 / EXECUTE_S
    arrivals = np.cumsum(generator.exponential(1 / rate, 400_000))
    services = generator.gamma(4, EXECUTE_S / 4, 400_000)

    simulated_s = fcfs_waits(arrivals, services, 4).mean()

    assert mgc_wait(rate, EXECUTE_S, 4, 0.5) == pytest.approx(simulated_s, rel=0.04)


def test_the_first_free_server_takes_the_next_request() -> None:
    """The waits of five requests on two servers are those of a manual calculation."""
    arrivals = np.array([0.0, 1.0, 2.0, 3.0, 20.0])
    services = np.array([10.0, 2.0, 2.0, 1.0, 1.0])

    assert fcfs_waits(arrivals, services, 2).tolist() == [0, 0, 1, 2, 0]
    assert fcfs_waits(arrivals, services, 1).tolist() == [0, 9, 10, 11, 0]
    assert fcfs_waits(arrivals, services, 5).tolist() == [0] * 5


def test_long_runs_are_computed_in_chunks() -> None:
    """The state of the servers carries over from chunk to chunk."""
    arrivals = np.zeros(250_001)

    waits = fcfs_waits(arrivals, np.ones(250_001), 2)

    assert np.array_equal(waits, np.arange(250_001) // 2)


@pytest.mark.parametrize("servers", [1, 3, 16])
def test_taking_turns_is_the_same_as_the_recursion(servers: int) -> None:
    """For equal execution times, taking turns equals the recursion."""
    rate = 0.9 * servers / EXECUTE_S

    arrivals, waits = simulate_mdc(rate, EXECUTE_S, servers, 10_001, seed=5)

    recursion = fcfs_waits(arrivals, np.full(10_001, EXECUTE_S), servers)
    assert waits == pytest.approx(recursion, abs=1e-9)
    assert waits.max() > 0
