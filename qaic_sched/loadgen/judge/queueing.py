"""Queueing theory: waits of requests that are served first come, first served.

Rules of this file:
- A server of the theory is an activation, and a service time an execution time; rates are per
  second, times in seconds.
- The formulas hold for Poisson arrivals. Other arrivals go through the recursion, which is exact:
  for bursty arrivals the textbook formulas are off by up to 93 %.
"""

from __future__ import annotations

import math
from heapq import heapreplace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["erlang_c", "fcfs_waits", "mdc_wait", "mgc_wait", "mmc_wait", "simulate_mdc"]

CHUNK_SIZE = 100_000
"""Requests converted to Python numbers together: ten million would take a gigabyte."""


def erlang_c(servers: int, offered: float) -> float:
    """Return the probability that all servers are busy; `offered` is rate times execution time."""
    if offered >= servers:
        return 1.0
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


def mmc_wait(rate: float, execute_s: float, servers: int) -> float:
    """Return the mean wait for exponential execution times (M/M/c); infinite beyond capacity."""
    offered = rate * execute_s
    if offered >= servers:
        return math.inf
    return erlang_c(servers, offered) * execute_s / (servers - offered)


def mdc_wait(rate: float, execute_s: float, servers: int) -> float:
    """Return the mean wait for constant execution times (M/D/c) by Cosmetatos, within about 4 %."""
    exponential_s = mmc_wait(rate, execute_s, servers)
    load = rate * execute_s / servers
    if load <= 0 or math.isinf(exponential_s):
        return exponential_s
    correction = (1 - load) * (servers - 1) * (math.sqrt(4 + 5 * servers) - 2)
    return 0.5 * exponential_s * (1 + correction / (16 * load * servers))


def mgc_wait(rate: float, execute_s: float, servers: int, cv: float) -> float:
    """Return the mean wait for execution times with a `cv` of at most 1, by Kimura."""
    squared = cv * cv
    exponential_s = mmc_wait(rate, execute_s, servers)
    constant_s = mdc_wait(rate, execute_s, servers)
    if constant_s == 0 or math.isinf(exponential_s):
        return exponential_s
    return (1 + squared) / (2 * squared / exponential_s + (1 - squared) / constant_s)


def fcfs_waits(
    arrivals_s: NDArray[np.float64], execute_s: NDArray[np.float64], servers: int
) -> NDArray[np.float64]:
    """Return the wait of each request for the first free server (Kiefer-Wolfowitz recursion).

    Arrivals must ascend. Any unit of time works; whole nanoseconds give exact waits.
    """
    free = [-math.inf] * servers
    starts = np.empty(len(arrivals_s))
    for begin in range(0, len(starts), CHUNK_SIZE):
        part = slice(begin, begin + CHUNK_SIZE)
        starts[part] = _starts(free, arrivals_s[part].tolist(), execute_s[part].tolist())
    return starts - arrivals_s


def _starts(free: list[float], arrivals: list[float], execute_s: list[float]) -> list[float]:
    """Return the starts; `free`, a heap of the instants at which servers are free, is updated."""
    starts: list[float] = []
    append = starts.append
    for arrival, execute in zip(arrivals, execute_s, strict=True):
        start = free[0]
        if arrival > start:
            start = arrival
        heapreplace(free, start + execute)
        append(start)
    return starts


def simulate_mdc(
    rate: float, execute_s: float, servers: int, count: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Simulate Poisson arrivals with constant execution times; return arrivals and waits.

    Servers then take turns, so each has every `servers`-th request, which starts at its arrival or
    when the previous ones, back to back, are done. All are computed at once.
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
