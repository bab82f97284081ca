"""The exact distribution of waits in a queue with constant execution times, M/D/c.

The requests in the system one execution time from now are those that exceed the servers now, plus
the arrivals until then. This Markov chain is solved here, truncated at `MAX_REQUESTS`. The wait
follows by Franx' formula (A simple solution for the M/D/c waiting time distribution, 2001), whose
terms do not alternate in sign.
"""

from __future__ import annotations

from functools import lru_cache
from math import floor

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import poisson

__all__ = ["latency_percentile"]

MAX_REQUESTS = 400
"""Largest number of requests in the system."""


def latency_percentile(percentile: float, rate: float, execute_s: float, servers: int) -> float:
    """Return a percentile of the latency, in seconds."""
    share = percentile / 100

    def above(wait_s: float) -> float:
        return _waits_at_most(wait_s, rate, execute_s, servers) - share

    return execute_s + (0.0 if above(0.0) >= 0 else brentq(above, 0.0, 50 * execute_s))


def _waits_at_most(wait_s: float, rate: float, execute_s: float, servers: int) -> float:
    """Return the probability of a wait of at most `wait_s`."""
    turns = floor(wait_s / execute_s) + 1
    most = turns * servers - 1
    cumulative = np.cumsum(_in_system(rate * execute_s, servers))
    waiting = cumulative[np.minimum(servers + most - np.arange(most + 1), MAX_REQUESTS)]
    arrivals = poisson.pmf(np.arange(most + 1), rate * (turns * execute_s - wait_s))
    return float(waiting @ arrivals)


@lru_cache
def _in_system(offered: float, servers: int) -> NDArray[np.float64]:
    """Return the distribution of requests in the system; `offered` arrive per execution time."""
    numbers = np.arange(MAX_REQUESTS + 1)
    stays = np.maximum(numbers - servers, 0)
    moves = poisson.pmf(numbers[None, :] - stays[:, None], offered)
    moves[:, -1] += 1 - moves.sum(axis=1)
    equations = np.vstack([moves.T - np.eye(MAX_REQUESTS + 1), np.ones(MAX_REQUESTS + 1)])
    chances, *_ = np.linalg.lstsq(equations, np.append(np.zeros(MAX_REQUESTS + 1), 1.0), rcond=None)
    return chances
