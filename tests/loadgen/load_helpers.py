"""Helpers for tests of load tests: targets, inputs and runs in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qaic_sched.loadgen.inject.injector import inject
from qaic_sched.loadgen.judge.analysis import analyse
from qaic_sched.loadgen.judge.verdict import conclude
from qaic_sched.loadgen.plan.arrivals import schedule, schedule_hash
from qaic_sched.loadgen.plan.inputs import InputLibrary
from qaic_sched.loadgen.targets.base import DeviceSample, Outcome, Reply, Target, TargetInfo
from qaic_sched.loadgen.targets.scheduler import SchedulerTarget
from qaic_sched.program import TensorSpec
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import host

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from qaic_sched.loadgen.inject.records import Records
    from qaic_sched.loadgen.plan.plan import Plan
    from qaic_sched.loadgen.report.report import Check, Report
    from qaic_sched.program import Tensors

__all__ = [
    "INFO",
    "TimedTarget",
    "check_of",
    "info_of",
    "judged",
    "judged_on_host",
    "outcomes",
    "run_on_host",
    "run_on_target",
]


def info_of(*inputs: TensorSpec, batch: int = 8, is_batched: bool = True) -> TargetInfo:
    """Make the facts of a target with these inputs, by default four floats per sample."""
    specs = inputs or (TensorSpec("data", (batch, 4), np.dtype("float32")),)
    return TargetInfo("target", specs, batch, is_batched, {0: 1}, {})


INFO = info_of()


class TimedTarget(Target):
    """Gives the reply of `answer` after `execute_s`, in the event loop's time; None is none."""

    def __init__(
        self, execute_s: float = 0.001, answer: Callable[[int], Reply | None] | None = None
    ) -> None:
        self.execute_s = execute_s
        self.answer = answer or (lambda row: Reply(Outcome.DONE))
        self.count = 0

    async def open(self) -> TargetInfo:
        return INFO

    def send(self, inputs: Tensors, timeout_s: float | None, done: Callable[[Reply], None]) -> None:
        reply = self.answer(self.count)
        self.count += 1
        if reply is not None:
            asyncio.get_running_loop().call_later(self.execute_s, done, reply)

    def sample(self) -> DeviceSample | None:
        return DeviceSample(0, 0, {0: self.count * self.execute_s}, {0: self.count})

    async def aclose(self) -> None:
        pass


def outcomes(records: Records) -> dict[str, int]:
    """Count the requests by outcome."""
    return {each.name: int((records.outcome == each).sum()) for each in Outcome}


def run_on_target(
    target: Target, plan: Plan, planned_ns: NDArray[np.int64] | None, **options: Any
) -> Records:
    """Run a plan in virtual time."""

    async def main() -> Records:
        return await inject(target, INFO, plan, planned_ns, InputLibrary(INFO), **options)

    return run_virtual(main)


def run_on_host(
    folder: Path, plan: Plan, planned_ns: NDArray[np.int64] | None, **changes: Any
) -> Records:
    """Run a plan on a scheduler over simulated cards in virtual time, 4 x 2 ms by default.

    Each request fills an inference.
    """
    spec = {"batch": 1, "service_time_s": 0.002, "devices": 4, **changes}

    async def main() -> Records:
        target = SchedulerTarget(Scheduler(host(folder, **spec)))
        info = await target.open()
        try:
            return await inject(target, info, plan, planned_ns, InputLibrary(info))
        finally:
            await target.aclose()

    return run_virtual(main)


async def judged(target: Target, plan: Plan) -> tuple[Report, Records]:
    """Open a target, run a plan on it, close it, and report on the run."""
    planned_ns = None
    if plan.arrivals is not None:
        planned_ns = schedule(plan.arrivals, plan.duration_s, plan.seed, plan.max_requests)
    try:
        info = await target.open()
        inputs = InputLibrary(info, plan.samples_per_request, plan.seed)
        records = await inject(target, info, plan, planned_ns, inputs)
    finally:
        await target.aclose()
    planned = None if planned_ns is None else schedule_hash(planned_ns)
    return conclude(analyse(plan, info, records, planned)), records


def judged_on_host(
    folder: Path, plan: Plan, *, options: dict[str, Any] | None = None, **changes: Any
) -> tuple[Report, Records]:
    """Run a plan in virtual time on one simulated card of 4 activations x 2 ms, and judge it."""
    path = host(folder, **{"batch": 1, "service_time_s": 0.002, **changes})

    async def main() -> tuple[Report, Records]:
        scheduler = Scheduler(path, **{"num_activations": 4, **(options or {})})
        return await judged(SchedulerTarget(scheduler), plan)

    return run_virtual(main)


def check_of(report: Report, name: str) -> Check:
    """Return a check of a report by its name."""
    return next(each for each in report.checks if each.name == name)
