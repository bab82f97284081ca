"""What queueing theory says of requests that wait for servers in the order in which they came.

Rules of this file:
- A server is an activation; rates are per second, times in seconds.
- Formulas are for Poisson arrivals. Whatever else arrives goes through the recursion, which is
  exact: for bursty arrivals the formulas of the books are off by up to 93 %.
"""

from __future__ import annotations

import math
from heapq import heapreplace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["erlang_c", "fcfs_waits", "mdc_wait", "mgc_wait", "mmc_wait", "simulate_mdc"]

CHUNK = 100_000
"""Customers that are Python's numbers at a time: ten millions at once would be a gigabyte."""


def erlang_c(servers: int, offered: float) -> float:
    """The chance that all servers are busy; `offered` is the rate times the service time."""
    if offered >= servers:
        return 1.0
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


def mmc_wait(rate: float, execute_s: float, servers: int) -> float:
    """Mean wait where service times are exponential (M/M/c); infinite beyond capacity."""
    offered = rate * execute_s
    if offered >= servers:
        return math.inf
    return erlang_c(servers, offered) * execute_s / (servers - offered)


def mdc_wait(rate: float, execute_s: float, servers: int) -> float:
    """Mean wait where service times are all the same (M/D/c), by Cosmetatos; within some 4 %."""
    exponential_s = mmc_wait(rate, execute_s, servers)
    load = rate * execute_s / servers
    if load <= 0 or math.isinf(exponential_s):
        return exponential_s
    correction = (1 - load) * (servers - 1) * (math.sqrt(4 + 5 * servers) - 2)
    return 0.5 * exponential_s * (1 + correction / (16 * load * servers))


def mgc_wait(rate: float, execute_s: float, servers: int, cv: float) -> float:
    """Mean wait for service times with a coefficient of variation up to 1, by Kimura."""
    squared = cv * cv
    exponential_s = mmc_wait(rate, execute_s, servers)
    constant_s = mdc_wait(rate, execute_s, servers)
    if constant_s == 0 or math.isinf(exponential_s):
        return exponential_s
    return (1 + squared) / (2 * squared / exponential_s + (1 - squared) / constant_s)


def fcfs_waits(
    arrivals_s: NDArray[np.float64], executes_s: NDArray[np.float64], servers: int
) -> NDArray[np.float64]:
    """How long each customer waits for the first free server (the Kiefer-Wolfowitz recursion).

    Arrivals ascend. Any unit of time will do; whole nanoseconds give exact waits.
    """
    free = [-math.inf] * servers
    starts = np.empty(len(arrivals_s))
    for begin in range(0, len(starts), CHUNK):
        part = slice(begin, begin + CHUNK)
        starts[part] = _starts(free, arrivals_s[part].tolist(), executes_s[part].tolist())
    return starts - arrivals_s


def _starts(free: list[float], arrivals: list[float], services: list[float]) -> list[float]:
    """When each is served; `free` is the heap of when servers are, and is kept up to date."""
    starts: list[float] = []
    append = starts.append
    for arrival, service in zip(arrivals, services, strict=True):
        start = free[0]
        if arrival > start:
            start = arrival
        heapreplace(free, start + service)
        append(start)
    return starts


def simulate_mdc(
    rate: float, execute_s: float, servers: int, count: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Poisson arrivals and their waits where all service times are the same.

    Servers then take turns, so each has every `servers`-th customer and all of them are computed at
    once: it starts one when it came, or when those before it, back to back, are done.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    arrivals = np.cumsum(generator.exponential(1 / rate, count))
    turns = -(-count // servers)
    by_turn = np.full(turns * servers, np.inf)
    by_turn[:count] = arrivals
    served_s = np.arange(turns)[:, None] * execute_s
    ready = by_turn.reshape(turns, servers) - served_s
    starts = (np.maximum.accumulate(ready, axis=0) + served_s).reshape(-1)[:count]
    return arrivals, np.maximum(starts - arrivals, 0.0)
