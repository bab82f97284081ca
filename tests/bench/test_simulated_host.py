"""The baseline policies on simulated hosts, with one queue per activation."""

from __future__ import annotations

from math import inf

import pytest

from bench.simulated_host import Host, least_in_flight, poisson, round_robin, run_baseline, run_core
from qaic_sched.core.model import Policy

STEADY = Host(devices=2, num_activations=1, cv=0.0, turnaround_s=0.0)
"""Two activations with a constant execution time of 5 ms."""


def test_requests_of_an_activation_run_in_order() -> None:
    """Of four simultaneous requests on two activations, two start at once and two after them."""
    latencies = run_baseline(STEADY, [0.0] * 4, round_robin)

    assert latencies == pytest.approx([0.005, 0.005, 0.010, 0.010])


def test_a_free_activation_takes_a_batch_from_its_queue() -> None:
    """The first request runs alone, the others together in the smallest size that holds them."""
    host = Host(1, 1, {1: 0.004, 4: 0.007}, cv=0.0, turnaround_s=0.0)
    latencies = run_baseline(host, [0.0, 0.001, 0.002, 0.003], round_robin)

    assert latencies == pytest.approx([0.004, 0.010, 0.009, 0.008])


def test_an_idle_activation_starts_after_its_turnaround() -> None:
    """A queued request starts at once; an activation with an empty queue needs the turnaround."""
    host = Host(1, 1, cv=0.0, turnaround_s=0.001)
    latencies = run_baseline(host, [0.0, 0.001, 0.010], round_robin)

    assert latencies == pytest.approx([0.005, 0.009, 0.006])


def test_a_lost_device_fails_its_requests_and_attracts_more() -> None:
    """A lost device fails at once and so is the least loaded; when it is back, it works."""
    arrivals = [0.0, 0.0, 0.003, 0.003, 0.003, 0.020, 0.020]
    latencies = run_baseline(STEADY, arrivals, least_in_flight, {0: (0.002, 0.010)})

    assert latencies == [inf, pytest.approx(0.005), inf, inf, inf, *[pytest.approx(0.005)] * 2]


def test_late_binding_beats_a_queue_per_activation() -> None:
    """At high load with varying execution times, the core has the lower mean latency."""
    host = Host(cv=1.0)
    arrivals = poisson(0.9 * host.capacity, 5_000, seed=1)
    ours = run_core(host, arrivals, Policy(max_samples=10**9)).latencies
    others = run_baseline(host, arrivals, round_robin)

    assert len(ours) == len(others) == 5_000
    assert sum(ours) < 0.8 * sum(others)
