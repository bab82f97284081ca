"""Load tests from beginning to end: open a target, run plans on it, write down what came out.

Rules of this file:
- Whatever ends a run early, what was measured until then is kept, and is INVALID.
- Before a run the target has answered a few requests: how it begins is not what is measured.
- `host` and `started_at` of a report are its caller's to fill in.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from qaic_sched.clock import clock_of
from qaic_sched.errors import SchedulerError
from qaic_sched.loadgen.inject.injector import inject
from qaic_sched.loadgen.inject.pilot import ask_all
from qaic_sched.loadgen.inject.processes import ProcessDiedError, inject_from_processes
from qaic_sched.loadgen.inject.run_progress import RunProgress
from qaic_sched.loadgen.judge.analysis import analyse
from qaic_sched.loadgen.judge.correctness import OutputChecker, repeated_input_test
from qaic_sched.loadgen.judge.verdict import judge
from qaic_sched.loadgen.mlperf.run import compare_p99, run_loadgen
from qaic_sched.loadgen.plan.arrivals import schedule, schedule_hash
from qaic_sched.loadgen.plan.inputs import InputLibrary
from qaic_sched.loadgen.targets.base import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import numpy as np
    from numpy.typing import NDArray

    from qaic_sched.loadgen.inject.records import Records
    from qaic_sched.loadgen.plan.plan import Plan
    from qaic_sched.loadgen.report.report import Report
    from qaic_sched.loadgen.targets.base import Reply, Target, TargetInfo

__all__ = ["LoadTest", "Processes", "Run", "filling", "opened", "run_load"]

logger = logging.getLogger("qaic_sched")

INTERRUPTED = "the run was interrupted: this is what was measured until then"
CALLERS_OF_A_SERVER = 16
"""Of a closed loop, where nobody tells how many slots there are to be filled."""
_WARM_AT_ONCE = 16
_WARM_S = 0.25
_LOADGEN_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Run:
    """A run: what it has to say, and every number that this rests on."""

    report: Report
    records: Records


@dataclass(frozen=True, slots=True)
class Processes:
    """So many processes that send to the server of this address."""

    url: str
    count: int


async def run_load(
    target: Target,
    plan: Plan,
    *,
    inputs: InputLibrary | Path | None = None,
    progress: RunProgress | None = None,
    interrupted: asyncio.Future[None] | None = None,
    check_outputs: bool = False,
    repeated_input: bool = False,
) -> Run:
    """Open a target, run one plan on it, close it again.

    `inputs` are a library, or an `.npz` file of rows; without, they are drawn. Once `interrupted`
    is done, no more is sent, and the report says that it ended early. Raises what `open` of a
    target does, and `ConfigError` for a plan that cannot be.
    """
    options: dict[str, Any] = {"inputs": inputs, "progress": progress, "interrupted": interrupted}
    async with opened(target, **options) as test:
        run = await test.run(plan, check_outputs=check_outputs)
        return await test.with_repeated_input(run) if repeated_input else run


@asynccontextmanager
async def opened(
    target: Target,
    *,
    inputs: InputLibrary | Path | None = None,
    progress: RunProgress | None = None,
    interrupted: asyncio.Future[None] | None = None,
    processes: Processes | None = None,
) -> AsyncIterator[LoadTest]:
    """Open a target, and close it whatever happens: several plans may run on it."""
    try:
        info = await target.open()
        yield LoadTest(target, info, inputs, progress, interrupted, processes)
    finally:
        try:
            await target.aclose()
        except SchedulerError as error:  # what was measured is worth more
            logger.warning("the target was not closed in good order: %s", error)


def filling(info: TargetInfo, samples_per_request: int) -> int:
    """Callers of a closed loop that keep every slot of a target full."""
    slots = sum(info.activations.values()) * _set_size(info)
    if not slots:
        return CALLERS_OF_A_SERVER
    return max(ceil(slots * info.max_batch_size / samples_per_request), 1)


def _set_size(info: TargetInfo) -> int:
    size = info.config.get("set_size", 1)
    return size if isinstance(size, int) else 1


class LoadTest:
    """An open target with its inputs. `opened` makes one."""

    def __init__(
        self,
        target: Target,
        info: TargetInfo,
        inputs: InputLibrary | Path | None = None,
        progress: RunProgress | None = None,
        interrupted: asyncio.Future[None] | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.target = target
        self.info = info
        self._given = inputs
        self._progress = progress or RunProgress()
        self._interrupted = interrupted or asyncio.get_running_loop().create_future()
        self._processes = processes
        self._libraries: dict[int, InputLibrary] = {}

    @property
    def is_interrupted(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._interrupted.done()

    async def inputs(self, plan: Plan) -> InputLibrary:
        """What the requests of a plan carry; the target has answered some of them."""
        rows = plan.samples_per_request
        if rows not in self._libraries:
            self._libraries[rows] = library = self._library(rows, plan.seed)
            await self._warm(library, plan)
        return self._libraries[rows]

    async def run(self, plan: Plan, *, check_outputs: bool = False) -> Run:
        """One run; with its outputs compared with those of each input alone, if asked for."""
        planned_ns = self._schedule(plan)
        inputs = await self.inputs(plan)
        checker = None
        if check_outputs:
            checker = OutputChecker(seed=plan.seed)
            await checker.learn(self.target, inputs)
        return await self._measure(plan, planned_ns, inputs, checker)

    async def with_repeated_input(self, run: Run) -> Run:
        """The run, and whether the target is faster with one input over and over.

        That is tried in closed loops that fill the target, which take as long as the run again.
        """
        inputs = await self.inputs(run.report.plan)
        repeated = inputs.repeated()
        plan = self._filling_plan(run.report.plan)

        async def measure(is_repeated: bool) -> float:
            library = repeated if is_repeated else inputs
            return (await self._measure(plan, None, library)).report.completed_rate

        if not self.is_interrupted:
            found = await repeated_input_test(measure)
            if not self.is_interrupted:
                correctness = {**run.report.correctness, "repeated_input": found}
                return _judged(run, correctness=correctness)
        return _judged(run, ended_early=INTERRUPTED)

    async def with_loadgen(self, run: Run, output_dir: Path) -> Run:
        """The run, and what MLPerf's own LoadGen says of the same plan."""
        plan = run.report.plan
        if self.is_interrupted:
            return run
        try:
            said = await self._under_loadgen(plan, output_dir)
        except asyncio.CancelledError:
            if not self.is_interrupted:
                raise
            return _judged(run, ended_early=f"{INTERRUPTED}; LoadGen has not come to an end")
        except SchedulerError as error:
            return _judged(run, ended_early=f"LoadGen could not run: {error}")
        return _judged(run, mlperf={**said, "p99": compare_p99(run.report, said)})

    # Parts of a run

    def _library(self, rows: int, seed: int) -> InputLibrary:
        if isinstance(self._given, Path):
            return InputLibrary.from_file(self._given, self.info, rows, seed)
        return self._given or InputLibrary(self.info, rows, seed)

    async def _warm(self, inputs: InputLibrary, plan: Plan) -> None:
        """Have the first requests answered before it counts; what fails then fails in the run."""
        clock = clock_of(asyncio.get_running_loop())
        end = clock() + _WARM_S
        for first in range(0, len(inputs), _WARM_AT_ONCE):
            last = min(first + _WARM_AT_ONCE, len(inputs))
            requests = [inputs[i] for i in range(first, last)]
            await ask_all(self.target, requests, plan.timeout_s or plan.drain_s)
            if clock() >= end or self.is_interrupted:
                break

    def _schedule(self, plan: Plan) -> NDArray[np.int64] | None:
        if plan.arrivals is None:
            return None
        return schedule(plan.arrivals, plan.duration_s, plan.seed, plan.max_requests)

    async def _measure(
        self,
        plan: Plan,
        planned_ns: NDArray[np.int64] | None,
        inputs: InputLibrary,
        checker: OutputChecker | None = None,
    ) -> Run:
        ended_early = ""
        try:
            records = await self._inject(plan, planned_ns, inputs, checker)
        except ProcessDiedError as error:
            if error.records is None:
                raise
            records, ended_early = error.records, str(error)
        hashed = None if planned_ns is None else schedule_hash(planned_ns)
        correctness = None if checker is None else checker.result()
        report = analyse(plan, self.info, records, hashed, correctness=correctness)
        if self.is_interrupted:
            ended_early = INTERRUPTED
        run = Run(report, records)
        return _judged(run, ended_early=ended_early) if ended_early else run

    async def _inject(
        self,
        plan: Plan,
        planned_ns: NDArray[np.int64] | None,
        inputs: InputLibrary,
        checker: OutputChecker | None,
    ) -> Records:
        progress = self._progress.begin()
        if self._processes is not None:
            return await inject_from_processes(
                *(self._processes.url, plan, planned_ns, self._processes.count),
                inputs_path=self._given if isinstance(self._given, Path) else None,
                interrupted=self._interrupted,
            )

        def compare(row: int, reply: Reply) -> None:
            assert checker is not None
            checker.on_reply(inputs.index_of(row), reply)

        return await inject(
            *(self.target, self.info, plan, planned_ns, inputs),
            on_reply=None if checker is None else compare,
            progress=progress,
            interrupted=self._interrupted,
        )

    async def _under_loadgen(self, plan: Plan, output_dir: Path) -> dict[str, Any]:
        inputs = await self.inputs(msgspec.structs.replace(plan, samples_per_request=1))
        # An offline burst may take long as a whole; LoadGen's patience is for silence.
        plan = msgspec.structs.replace(plan, drain_s=min(plan.drain_s, _LOADGEN_PATIENCE_S))
        progress = self._progress.begin()

        def count(_: int, reply: Reply) -> None:
            progress.sent += 1
            progress.done += 1
            progress.errors += reply.outcome is not Outcome.DONE

        running = asyncio.ensure_future(
            run_loadgen(
                *(self.target, self.info, inputs, plan), output_dir=output_dir, on_reply=count
            )
        )

        def cancel(_: object) -> None:
            running.cancel()

        self._interrupted.add_done_callback(cancel)
        try:
            return await running
        finally:
            self._interrupted.remove_done_callback(cancel)
            running.cancel()

    def _filling_plan(self, plan: Plan) -> Plan:
        return msgspec.structs.replace(
            plan,
            scenario="closed",
            arrivals=None,
            concurrency=filling(self.info, plan.samples_per_request),
            duration_s=min(max(plan.duration_s / 6, 1.0), 10.0),
            max_requests=None,
        )


def _judged(run: Run, **changes: Any) -> Run:
    """A run of whose report something has changed, and so the verdict may have."""
    report = msgspec.structs.replace(run.report, **changes)
    return Run(msgspec.structs.replace(report, verdict=judge(report)), run.records)
