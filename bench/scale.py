"""Cost of size: CPU time per request with many devices, activations and queued requests.

Single-sample requests run on simulated cards with an execution time of 0; the baseline is the same
load with few devices, activations or queued requests. Both sides have 512 slots, all filled, so
that equally many answers share a turn of the loop and only the number of devices or activations
differs. The queue holds one million requests compared with ten, on 8 slots.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bench.cards import Refill, card_file
from bench.result import Result, at_most, compare
from bench.rounds import ROUNDS, alternate, run_on_uvloop
from qaic_sched.scheduler.front import Scheduler

if TYPE_CHECKING:
    from bench.rounds import Contender

__all__ = ["measure"]

SLOTS = 512
QUEUE_SLOTS = 8
FEW, MANY = 10, 1_000_000
MANY_IN_SHORT = 50_000


def measure(is_short: bool) -> list[Result]:
    """Measure each of the three sizes against its smallest value."""
    count = 4_000 if is_short else 50_000
    many = MANY_IN_SHORT if is_short else MANY
    return run_on_uvloop(_run(count, many))


async def _run(count: int, many: int) -> list[Result]:
    def saturated(devices: int, activations: int) -> Contender[float]:
        set_size = SLOTS // (devices * activations)
        return partial(_cpu_us, devices, activations, set_size, SLOTS, count)

    def queued(requests: int) -> Contender[float]:
        outstanding = requests + QUEUE_SLOTS
        return partial(_cpu_us, QUEUE_SLOTS // 2, 1, 2, outstanding, count)

    sizes = {
        "devices": (("1", saturated(1, 1)), ("256", saturated(256, 1))),
        "activations": (("1", saturated(1, 1)), ("16", saturated(1, 16))),
        "queued": ((f"{FEW}", queued(FEW)), (f"{many:,}", queued(many))),
    }
    results = []
    for what, ((few, small), (most, large)) in sizes.items():
        costs = await alternate({few: small, most: large}, ROUNDS, warm_up=0)
        results.append(
            compare(
                "scale",
                f"CPU per request, {most} {what}",
                "us",
                costs[most],
                f"{few} {what}",
                costs[few],
                better="lower",
                targets=[at_most(1.5)],
            )
        )
    return results


async def _cpu_us(
    devices: int, activations: int, set_size: int, outstanding: int, count: int
) -> float:
    with card_file(devices=devices) as path:
        scheduler = Scheduler(
            path,
            num_activations=activations,
            set_size=set_size,
            queue={"max_samples": 2 * MANY},
        )
        async with scheduler:
            refill = Refill(scheduler, outstanding)
            await refill.run(max(count // 5, 2 * SLOTS))  # warm-up
            cost = await refill.run(count)
            refill.stop()
            await scheduler.aclose()
    return cost.cpu_us
