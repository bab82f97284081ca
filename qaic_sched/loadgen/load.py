"""Load tests from beginning to end: open a target, run plans on it, report the results.

Rules of this file:
- A run that ends early keeps its measurements, and its report is INVALID.
- The target answers a few requests before the load: its start-up is not measured.
- Everything that goes into a report is found first; then the report is constructed, once.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
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
from qaic_sched.loadgen.judge.verdict import conclude
from qaic_sched.loadgen.mlperf.run import compare_p99, run_loadgen
from qaic_sched.loadgen.plan.arrivals import schedule, schedule_hash
from qaic_sched.loadgen.plan.inputs import InputLibrary
from qaic_sched.loadgen.report.host import Origin
from qaic_sched.loadgen.targets.base import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import numpy as np
    from numpy.typing import NDArray

    from qaic_sched.loadgen.inject.records import Records
    from qaic_sched.loadgen.plan.plan import Plan
    from qaic_sched.loadgen.report.report import Findings, Report
    from qaic_sched.loadgen.targets.base import Reply, Target, TargetInfo

__all__ = ["LoadRun", "LoadTest", "Processes", "filling", "opened", "run_load"]

logger = logging.getLogger("qaic_sched")

INTERRUPTED = "the run was interrupted and covers only the time until then"
CALLERS_OF_A_SERVER = 16
"""The callers of a closed loop, if the target does not report its slots."""
_WARM_UP_BATCH = 16
"""Requests sent together before a run."""
_WARM_UP_S = 0.25
"""Longest time spent on those requests."""
_LOADGEN_PATIENCE_S = 60.0
"""Longest silence of the target under LoadGen."""


@dataclass(frozen=True, slots=True)
class LoadRun:
    """A finished run: its report, and the raw records behind it."""

    report: Report
    records: Records


@dataclass(frozen=True, slots=True)
class Processes:
    """Send to the server at `url` from `count` processes."""

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
) -> LoadRun:
    """Open a target, run one plan on it and close it again.

    `inputs` is a library or the path of an `.npz` file; without it, inputs are drawn at random.
    `check_outputs` compares sampled outputs with the output for the same input without load,
    `repeated_input` tests for a cache of answers. When the future `interrupted` is done, sending
    stops and the report is INVALID. Raises the errors of `Target.open`, and `ConfigError` for an
    impossible plan.
    """
    options: dict[str, Any] = {"inputs": inputs, "progress": progress, "interrupted": interrupted}
    async with opened(target, **options) as test:
        return await test.run(plan, check_outputs=check_outputs, repeated_input=repeated_input)


@asynccontextmanager
async def opened(
    target: Target,
    *,
    inputs: InputLibrary | Path | None = None,
    progress: RunProgress | None = None,
    interrupted: asyncio.Future[None] | None = None,
    processes: Processes | None = None,
    origin: Origin | None = None,
) -> AsyncIterator[LoadTest]:
    """Open a target for any number of plans, and close it at the end.

    The options are those of `run_load`, plus `processes` to send from, and the `origin` that the
    reports state.
    """
    try:
        info = await target.open()
        yield LoadTest(target, info, inputs, progress, interrupted, processes, origin)
    finally:
        try:
            await target.aclose()
        except SchedulerError as error:  # keep the results
            logger.warning("the target failed to close: %s", error)


def filling(info: TargetInfo, samples_per_request: int) -> int:
    """Return the number of closed-loop callers that keep every slot of a target full."""
    slots = sum(info.activations.values()) * _set_size(info)
    if not slots:
        return CALLERS_OF_A_SERVER
    return max(ceil(slots * info.max_batch_size / samples_per_request), 1)


def _set_size(info: TargetInfo) -> int:
    size = info.config.get("set_size", 1)
    return size if isinstance(size, int) else 1


class LoadTest:
    """An open target with its inputs; made by `opened`."""

    def __init__(
        self,
        target: Target,
        info: TargetInfo,
        inputs: InputLibrary | Path | None = None,
        progress: RunProgress | None = None,
        interrupted: asyncio.Future[None] | None = None,
        processes: Processes | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.target = target
        self.info = info
        self._given = inputs
        self._progress = progress or RunProgress()
        self._interrupted = interrupted or asyncio.get_running_loop().create_future()
        self._processes = processes
        self._origin = origin or Origin()
        self._libraries: dict[int, InputLibrary] = {}

    @property
    def is_interrupted(self) -> bool:
        """Whether the test was interrupted."""
        return self._interrupted.done()

    async def inputs(self, plan: Plan) -> InputLibrary:
        """Return the inputs of a plan's requests; the target has answered some of them already."""
        rows = plan.samples_per_request
        if rows not in self._libraries:
            self._libraries[rows] = library = self._library(rows, plan.seed)
            await self._warm(library, plan)
        return self._libraries[rows]

    async def run(
        self,
        plan: Plan,
        *,
        check_outputs: bool = False,
        repeated_input: bool = False,
        loadgen: bool = False,
        loadgen_dir: Path | None = None,
    ) -> LoadRun:
        """Run a plan, then the further tests that were asked for, and report on all of it.

        `loadgen` runs the plan once more under MLPerf's LoadGen, whose logs are kept in
        `loadgen_dir`. An interruption skips the remaining tests.
        """
        planned_ns = self._schedule(plan)
        inputs = await self.inputs(plan)
        checker = None
        if check_outputs:
            checker = OutputChecker(seed=plan.seed)
            await checker.learn(self.target, inputs)
        findings, records = await self._measure(plan, planned_ns, inputs, checker)
        if repeated_input:
            findings = await self._test_repeated_input(findings, inputs)
        if loadgen and not self.is_interrupted:
            findings = await self._test_with_loadgen(findings, loadgen_dir)
        return LoadRun(conclude(findings, self._origin), records)

    async def _test_repeated_input(self, findings: Findings, inputs: InputLibrary) -> Findings:
        """Add whether the target is faster when one input is repeated.

        The closed loops of this test fill the target; together they take as long as the run.
        """
        repeated = inputs.repeated()
        plan = self._filling_plan(findings.plan)

        async def measure(is_repeated: bool) -> float:
            found, _ = await self._measure(plan, None, repeated if is_repeated else inputs)
            return found.completed_rate

        if not self.is_interrupted:
            found = await repeated_input_test(measure)
            if not self.is_interrupted:
                correctness = {**findings.correctness, "repeated_input": found}
                return msgspec.structs.replace(findings, correctness=correctness)
        return msgspec.structs.replace(findings, ended_early=INTERRUPTED)

    async def _test_with_loadgen(self, findings: Findings, folder: Path | None) -> Findings:
        """Add the results of the plan under MLPerf's LoadGen; without a folder, not its logs."""
        logger.info("now the same plan under LoadGen")
        ended_early = findings.ended_early
        mlperf: dict[str, Any] = {}
        try:
            if folder is not None:
                mlperf = await self._under_loadgen(findings.plan, folder)
            else:
                with tempfile.TemporaryDirectory(prefix="qaic-sched-loadgen-") as temporary:
                    mlperf = await self._under_loadgen(findings.plan, Path(temporary))
                    del mlperf["logs"]
        except asyncio.CancelledError:
            if not self.is_interrupted:
                raise
            ended_early = f"{INTERRUPTED}; LoadGen has no result"
        except SchedulerError as error:
            ended_early = f"LoadGen could not run: {error}"
        else:
            mlperf["p99"] = compare_p99(findings, mlperf)
        return msgspec.structs.replace(findings, mlperf=mlperf, ended_early=ended_early)

    # Parts of a run

    def _library(self, rows: int, seed: int) -> InputLibrary:
        if isinstance(self._given, Path):
            return InputLibrary.from_file(self._given, self.info, rows, seed)
        return self._given or InputLibrary(self.info, rows, seed)

    async def _warm(self, inputs: InputLibrary, plan: Plan) -> None:
        """Have the target answer the first inputs; errors are left to the run to report."""
        clock = clock_of(asyncio.get_running_loop())
        end = clock() + _WARM_UP_S
        for first in range(0, len(inputs), _WARM_UP_BATCH):
            last = min(first + _WARM_UP_BATCH, len(inputs))
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
    ) -> tuple[Findings, Records]:
        ended_early = ""
        try:
            records = await self._inject(plan, planned_ns, inputs, checker)
        except ProcessDiedError as error:
            if error.records is None:
                raise
            records, ended_early = error.records, str(error)
        hashed = None if planned_ns is None else schedule_hash(planned_ns)
        found = analyse(
            *(plan, self.info, records, hashed),
            correctness=None if checker is None else checker.result(),
            ended_early=INTERRUPTED if self.is_interrupted else ended_early,
        )
        return found, records

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
        # The plan allows for a long burst; here the time limits the silence between answers.
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
