"""The schedule of LoadGen's Server scenario, for a comparison with our injector.

The p99 of two Poisson schedules of one rate differ more than two load generators do, so a
comparison needs one schedule. The instants are those of the C++ library that LoadGen is built with:
a Mersenne Twister, two draws of 32 bits for a number of 53 bits, and its logarithm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qaic_sched.loadgen.plan.plan import Plan

__all__ = ["loadgen_schedule"]

_DRAWN_AT_ONCE = 65_536


def loadgen_schedule(plan: Plan, rate: float) -> NDArray[np.int64]:
    """Return the instants, in ns, at which LoadGen sends for a plan of the Server scenario.

    The first is 0. The last is the first instant beyond the duration, or later if the least number
    of requests requires it.
    """
    random = np.random.RandomState(plan.seed % 2**32)
    end_ns = plan.duration_s * 1e9
    pieces = [np.zeros(1, np.int64)]
    count = 1
    while count < plan.rules.min_requests or pieces[-1][-1] < end_ns:
        instants = pieces[-1][-1] + np.cumsum(_gaps_ns(random, rate))
        pieces.append(instants)
        count += len(instants)
    planned = np.concatenate(pieces)
    enough = int(np.searchsorted(planned, end_ns)) + 1
    return planned[: max(enough, plan.rules.min_requests)]


def _gaps_ns(random: np.random.RandomState, rate: float) -> NDArray[np.int64]:
    draws = random.randint(0, 2**32, size=2 * _DRAWN_AT_ONCE, dtype=np.uint32).astype(np.float64)
    uniform = (draws[0::2] + draws[1::2] * 2.0**32) / 2.0**64
    return (-np.log(1.0 - uniform) / rate * 1e9).astype(np.int64)
