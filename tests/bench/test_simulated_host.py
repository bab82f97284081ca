"""What our core is compared with on simulated hosts: queues of their own for each activation."""

from __future__ import annotations

from math import inf

import pytest

from bench.simulated_host import Host, least_in_flight, poisson, round_robin, run_baseline, run_core
from qaic_sched.core.model import Policy

STEADY = Host(devices=2, num_activations=1, cv=0.0, turnaround_s=0.0)
"""Two activations that take 5 ms, always."""


def test_each_request_waits_behind_those_of_its_activation() -> None:
    """Four at once by turns: two are served at once, two after them."""
    latencies = run_baseline(STEADY, [0.0] * 4, round_robin)

    assert latencies == pytest.approx([0.005, 0.005, 0.010, 0.010])


def test_who_gets_free_takes_a_batch_of_what_waits_for_it() -> None:
    """The first goes alone, the others together, at the size that holds them."""
    host = Host(1, 1, {1: 0.004, 4: 0.007}, cv=0.0, turnaround_s=0.0)
    latencies = run_baseline(host, [0.0, 0.001, 0.002, 0.003], round_robin)

    assert latencies == pytest.approx([0.004, 0.010, 0.009, 0.008])


def test_an_activation_that_had_nothing_queued_begins_after_its_turnaround() -> None:
    """... and one that had, at once."""
    host = Host(1, 1, cv=0.0, turnaround_s=0.001)
    latencies = run_baseline(host, [0.0, 0.001, 0.010], round_robin)

    assert latencies == pytest.approx([0.005, 0.009, 0.006])


def test_a_lost_device_fails_what_it_has_and_gets_and_draws_all_to_it() -> None:
    """Who fails at once is always the least loaded; back again, it serves."""
    arrivals = [0.0, 0.0, 0.003, 0.003, 0.003, 0.020, 0.020]
    latencies = run_baseline(STEADY, arrivals, least_in_flight, {0: (0.002, 0.010)})

    assert latencies == [inf, pytest.approx(0.005), inf, inf, inf, *[pytest.approx(0.005)] * 2]


def test_nobody_is_better_off_with_a_queue_for_each_activation() -> None:
    """At high load, and times that vary, late binding is ahead of them on the same arrivals."""
    host = Host(cv=1.0)
    arrivals = poisson(0.9 * host.capacity, 5_000, seed=1)
    ours = run_core(host, arrivals, Policy(max_samples=10**9)).latencies
    others = run_baseline(host, arrivals, round_robin)

    assert len(ours) == len(others) == 5_000
    assert sum(ours) < 0.8 * sum(others)
