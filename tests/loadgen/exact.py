"""The exact distribution of waiting in a queue of constant service times, M/D/c.

What is in the system a service time from now is what is too much for the servers now, and what has
come until then: a Markov chain, which is solved here, cut off where hardly anything ever is. From
it follows the wait by Franx' formula (A simple solution for the M/D/c waiting time distribution,
2001), in which nothing alternates in sign.
"""

from __future__ import annotations

from functools import lru_cache
from math import floor

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import poisson

__all__ = ["latency_percentile"]

MOST = 400
"""In the system."""


def latency_percentile(percentile: float, rate: float, execute_s: float, servers: int) -> float:
    """Seconds from the arrival to the end of the service."""
    share = percentile / 100

    def above(wait_s: float) -> float:
        return _waits_at_most(wait_s, rate, execute_s, servers) - share

    return execute_s + (0.0 if above(0.0) >= 0 else brentq(above, 0.0, 50 * execute_s))


def _waits_at_most(wait_s: float, rate: float, execute_s: float, servers: int) -> float:
    """The chance of a wait of at most so long."""
    turns = floor(wait_s / execute_s) + 1
    most = turns * servers - 1
    cumulative = np.cumsum(_in_system(rate * execute_s, servers))
    waiting = cumulative[np.minimum(servers + most - np.arange(most + 1), MOST)]
    arrivals = poisson.pmf(np.arange(most + 1), rate * (turns * execute_s - wait_s))
    return float(waiting @ arrivals)


@lru_cache
def _in_system(offered: float, servers: int) -> NDArray[np.float64]:
    """The chance of each number in the system; `offered` come during a service time."""
    numbers = np.arange(MOST + 1)
    stays = np.maximum(numbers - servers, 0)
    moves = poisson.pmf(numbers[None, :] - stays[:, None], offered)
    moves[:, -1] += 1 - moves.sum(axis=1)
    equations = np.vstack([moves.T - np.eye(MOST + 1), np.ones(MOST + 1)])
    chances, *_ = np.linalg.lstsq(equations, np.append(np.zeros(MOST + 1), 1.0), rcond=None)
    return chances
