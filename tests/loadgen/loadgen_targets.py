"""Targets for the tests of LoadGen and of correctness: a scheduler's, and ones with faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qaic_sched.core.model import RequestState
from qaic_sched.errors import SchedulerError
from qaic_sched.loadgen.records import Outcome, Reply
from qaic_sched.loadgen.target import TargetInfo
from qaic_sched.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.loadgen.records import DeviceSample
    from qaic_sched.program import Tensors
    from qaic_sched.request import ScheduledRequest

__all__ = ["Library", "PlainTarget"]

OUTCOMES = {
    RequestState.DONE: Outcome.DONE,
    RequestState.FAILED: Outcome.FAILED,
    RequestState.CANCELLED: Outcome.CANCELLED,
    RequestState.EXPIRED: Outcome.EXPIRED,
    RequestState.REJECTED: Outcome.REJECTED,
}


class Library:
    """Distinct random requests."""

    def __init__(self, info: TargetInfo, count: int = 16, rows: int = 1) -> None:
        random = np.random.default_rng(1)
        self._requests: list[Tensors] = [
            {
                spec.name: random.standard_normal((rows, *spec.shape[1:])).astype(spec.dtype)
                for spec in info.inputs
            }
            for _ in range(count)
        ]

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, index: int, /) -> Tensors:
        return self._requests[index]


class PlainTarget:
    """Sends to a scheduler, and makes replies of what becomes of the requests."""

    def __init__(self, path: str, **options: object) -> None:
        self.scheduler = Scheduler(path, **options)
        self.num_sent = 0

    async def open(self) -> TargetInfo:
        await self.scheduler.__aenter__()
        program = self.scheduler.program
        return TargetInfo(
            "plain", program.inputs, program.max_batch_size, program.is_batched, {}, {}
        )

    def send(self, inputs: Tensors, timeout_s: float | None, done: Callable[[Reply], None]) -> None:
        self.num_sent += 1
        request = self.scheduler.submit(inputs, timeout_s=timeout_s)
        request.add_done_callback(lambda request: done(self.reply(request)))

    def reply(self, request: ScheduledRequest) -> Reply:
        outcome = OUTCOMES[request.core.state]
        if outcome is Outcome.DONE:
            return Reply(outcome, request.result())
        try:
            request.result()
        except SchedulerError as error:
            return Reply(outcome, problem=str(error))
        return Reply(outcome)

    def sample(self) -> DeviceSample | None:
        return None

    async def aclose(self) -> None:
        await self.scheduler.aclose()
