"""A scheduler target for the tests of LoadGen and of correctness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qaic_sched.loadgen.plan.inputs import InputLibrary
from qaic_sched.loadgen.targets.scheduler import SchedulerTarget
from qaic_sched.scheduler.front import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.loadgen.targets.base import Reply, TargetInfo
    from qaic_sched.program import Tensors

__all__ = ["CountingTarget", "library_of"]


class CountingTarget(SchedulerTarget):
    """Counts requests; a subclass can change the answers in `reply`."""

    def __init__(self, path: str, **options: object) -> None:
        self.scheduler = Scheduler(path, **options)
        self.num_sent = 0
        super().__init__(self.scheduler)

    def send(self, inputs: Tensors, timeout_s: float | None, done: Callable[[Reply], None]) -> None:
        self.num_sent += 1
        super().send(inputs, timeout_s, lambda reply: done(self.reply(reply)))

    def reply(self, reply: Reply) -> Reply:
        return reply


def library_of(info: TargetInfo, rows: int = 1, count: int = 16) -> InputLibrary:
    """Make a small library, so that a reference answer for each input is quick."""
    return InputLibrary(info, rows, count=count)
