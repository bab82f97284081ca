"""Closed loads for the benchmarks on simulated cards."""

from __future__ import annotations

from bench.cards import Refill, card_file
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual


def test_a_refill_keeps_a_number_of_requests_outstanding() -> None:
    """Each resolved request submits the next one, until the refill is stopped."""

    async def run() -> None:
        async with Scheduler(path, queue={"max_samples": 8}) as scheduler:
            refill = Refill(scheduler, 20)
            await refill.run(30)
            counts = scheduler.statistics()
            assert counts.waiting + counts.queued + counts.in_flight == 20
            assert counts.done == 30
            refill.stop()
            await scheduler.aclose()

    with card_file(execute_s=0.001) as path:
        run_virtual(run)
