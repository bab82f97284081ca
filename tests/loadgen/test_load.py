"""Load tests from beginning to end, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from qaic_sched.errors import ConfigError, DeviceError, NoDeviceError
from qaic_sched.loadgen.inject import processes
from qaic_sched.loadgen.inject.run_progress import RunProgress
from qaic_sched.loadgen.load import LoadRun, LoadTest, Processes, filling, opened, run_load
from qaic_sched.loadgen.plan.plan import Plan, Poisson, Rules, Slo
from qaic_sched.loadgen.plan.scenarios import plan_for
from qaic_sched.loadgen.report.report import Report, encode_report
from qaic_sched.loadgen.targets.base import Outcome, Reply
from qaic_sched.loadgen.targets.scheduler import SchedulerTarget
from qaic_sched.loadgen.targets.server import ServerTarget
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import host
from tests.loadgen.kserve_server import running
from tests.loadgen.load_helpers import INFO, TimedTarget, info_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.loadgen.targets.base import Target, TargetInfo
    from qaic_sched.program import Tensors

OPEN = Plan(scenario="open", arrivals=Poisson(500), duration_s=3.0, rules=Rules(min_duration_s=3.0))
CLOSED = msgspec.structs.replace(OPEN, scenario="closed", arrivals=None, concurrency=2)


def cards(folder: Path, **changes: Any) -> SchedulerTarget:
    """A scheduler over four simulated cards with 2 ms per inference of one sample."""
    spec = {"batch": 1, "service_time_s": 0.002, "devices": 4, **changes}
    return SchedulerTarget(Scheduler(host(folder, **spec)))


def run_plan(target: Target, plan: Plan = OPEN, **options: Any) -> LoadRun:
    """Run a plan in virtual time."""

    async def main() -> LoadRun:
        return await run_load(target, plan, **options)

    return run_virtual(main)


def broken(report: Report) -> list[str]:
    """The names of the broken rules."""
    return [rule.name for rule in report.verdict.rules if not rule.holds]


class Odd(TimedTarget):
    """Answers every input with its mean, or with the result of `spoil` for the n-th answer."""

    def __init__(self, spoil: Callable[[int, Any], Any] = lambda n, mean: mean) -> None:
        super().__init__(0.002)
        self.spoil = spoil
        self.last = 0
        self.caches = False
        self.is_closed = False

    def send(self, inputs: Tensors, timeout_s: float | None, done: Callable[[Reply], None]) -> None:
        self.count += 1
        mean = self.spoil(self.count, inputs["data"].mean(axis=1))
        is_known = self.caches and id(inputs) == self.last
        self.last = id(inputs)
        loop = asyncio.get_running_loop()
        reply = Reply(Outcome.DONE, {"mean": mean})
        loop.call_later(0.001 if is_known else self.execute_s, done, reply)

    async def aclose(self) -> None:
        self.is_closed = True


class NotThere(Odd):
    """A target that cannot be opened."""

    async def open(self) -> TargetInfo:
        raise NoDeviceError("nobody answers there")


class Stuck(Odd):
    """Breaks when it is closed."""

    async def aclose(self) -> None:
        raise DeviceError("it does not close")


@pytest.mark.parametrize("plan", [OPEN, CLOSED])
def test_a_good_run_is_valid_and_repeats_to_the_last_byte(tmp_path: Path, plan: Plan) -> None:
    """One seed gives equal reports and records, another seed different ones."""
    first, second = (run_plan(cards(tmp_path, service_time_cv=0.2), plan) for _ in range(2))
    other = run_plan(
        cards(tmp_path, service_time_cv=0.2, seed=2), msgspec.structs.replace(plan, seed=2)
    )

    assert first.report.verdict.is_valid, broken(first.report)
    assert encode_report(first.report) == encode_report(second.report)
    assert first.records.done_ns.tolist() == second.records.done_ns.tolist()
    assert first.records.done_ns.tolist() != other.records.done_ns.tolist()


def test_the_target_answers_some_requests_before_the_run(tmp_path: Path) -> None:
    """The warm-up requests before a run are not measured."""
    target = Odd()
    run = run_plan(target)

    assert target.count == len(run.records.planned_ns) + 64
    assert run.report.counts.planned == len(run.records.planned_ns)
    assert target.is_closed


def test_an_interrupted_run_is_invalid_and_keeps_its_numbers() -> None:
    """An interrupted run is INVALID and reports its measurements."""

    async def main() -> LoadRun:
        loop = asyncio.get_running_loop()
        interrupted: asyncio.Future[None] = loop.create_future()
        loop.call_later(1.7, interrupted.set_result, None)
        return await run_load(
            Odd(), OPEN, interrupted=interrupted, check_outputs=True, repeated_input=True
        )

    report = run_virtual(main).report

    assert broken(report)[0] == "complete"
    assert report.ended_early.startswith("the run was interrupted")
    assert 600 < report.counts.done == report.counts.planned < 1100
    assert "repeated_input" not in report.correctness


def test_a_run_interrupted_before_it_begins_is_a_report_too() -> None:
    """A run interrupted before its start has an empty report."""

    async def main() -> LoadRun:
        interrupted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        interrupted.set_result(None)
        return await run_load(Odd(), OPEN, interrupted=interrupted)

    report = run_virtual(main).report

    assert (report.counts.planned, report.scheduled) == (0, None)
    assert broken(report)[0] == "complete"


def test_outputs_that_load_changes_are_a_broken_rule() -> None:
    """Outputs that are wrong under load break the rule of correctness."""
    right = run_plan(Odd(), check_outputs=True).report
    wrong = Odd(lambda n, mean: mean + (n > 200 and n % 2 == 0))
    report = run_plan(wrong, msgspec.structs.replace(OPEN, seed=3), check_outputs=True).report

    assert right.verdict.is_valid
    assert right.correctness["compared"] > 5
    assert broken(report) == ["correctness"]
    assert report.correctness["wrong"] > 0


@pytest.mark.parametrize("caches", [False, True])
def test_a_cache_is_found_by_repeating_an_input(caches: bool) -> None:
    """A target that is twice as fast for a repeated input has a cache."""
    target = Odd()
    target.caches = caches
    report = run_plan(target, repeated_input=True).report

    assert broken(report) == (["repeated_input"] if caches else [])
    assert report.correctness["repeated_input"]["is_caching"] is caches


def test_a_missing_target_raises_its_own_error() -> None:
    """A target that cannot be opened raises its error, and is closed."""
    target = NotThere()
    with pytest.raises(NoDeviceError, match="nobody answers there"):
        run_plan(target)

    assert target.is_closed


def test_a_target_that_does_not_close_does_not_cost_the_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A target that fails to close does not lose the run, and the problem is logged."""
    assert run_plan(Stuck()).report.verdict.is_valid
    assert "it does not close" in caplog.text


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"kind": "hang", "at_s": 1.5}, "unresolved"),
        ({"kind": "lost", "at_s": 1.5}, "failed"),
    ],
)
def test_a_target_that_dies_midway_keeps_its_numbers(
    tmp_path: Path, fault: dict[str, Any], kind: str
) -> None:
    """A run whose target dies is INVALID and keeps the answers from before."""
    plan = msgspec.structs.replace(OPEN, drain_s=5.0)
    report = run_plan(cards(tmp_path, faults=[fault]), plan).report

    assert "errors" in broken(report)
    assert report.counts.done > 500
    gone = report.counts.planned - report.counts.done
    assert getattr(report.counts, kind) + report.counts.failed >= gone > 500


def test_a_promise_that_is_broken_is_invalid(tmp_path: Path) -> None:
    """A rate beyond capacity breaks the SLO and the steady state."""
    rules = Rules(min_duration_s=2.0, slo=Slo(99.0, 0.020))
    plan = msgspec.structs.replace(OPEN, arrivals=Poisson(2400), duration_s=2.0, rules=rules)

    assert {"slo", "steady_state"} <= {*broken(run_plan(cards(tmp_path), plan).report)}


def test_inputs_come_from_a_file(tmp_path: Path) -> None:
    """The rows of a file are sent."""
    np.savez(tmp_path / "rows.npz", data=np.full((6, 4), 7.0, np.float32))
    seen: set[float] = set()

    def see(_: int, mean: Any) -> Any:
        seen.update(mean.tolist())
        return mean

    run = run_plan(Odd(see), inputs=tmp_path / "rows.npz")

    assert run.report.verdict.is_valid
    assert seen == {7.0}


def test_an_impossible_plan_raises_before_anything_is_sent() -> None:
    """An impossible plan raises an error with the field, before anything is sent."""
    target = Odd()
    with pytest.raises(ConfigError, match=r"^rate"):
        run_plan(target, msgspec.structs.replace(OPEN, arrivals=Poisson(-1)))

    assert (target.count, target.is_closed) == (0, True)


def test_callers_that_fill_a_target() -> None:
    """The callers fill every slot, for any size of requests; a server gets a default."""
    info = replace(info_of(), activations={0: 4, 3: 2}, config={"set_size": 2})

    assert filling(info, 1) == 6 * 2 * 8
    assert filling(info, 8) == 12
    assert filling(info, 3) == 32
    assert filling(info, 1000) == 1
    assert filling(replace(info, activations={}), 1) == 16


def test_progress_is_that_of_the_latest_run() -> None:
    """Progress has the counters and times of the latest run."""
    progress = RunProgress()
    seen: list[tuple[int, int, float]] = []

    async def main() -> None:
        async with opened(Odd(), progress=progress) as test:
            assert (progress.elapsed_s, progress.p50_s) == (0.0, None)
            for _ in range(2):
                run = asyncio.ensure_future(test.run(OPEN))
                await asyncio.sleep(2.2)
                seen.append((progress.sent, progress.done, progress.elapsed_s))
                assert progress.p50_s == pytest.approx(0.002, rel=0.01)
                assert progress.p99_s == pytest.approx(0.002, rel=0.01)
                await run
                assert progress.planned == progress.sent == progress.done

    run_virtual(main)

    assert all(900 < sent < 1200 and sent >= done > 900 for sent, done, _ in seen)
    assert seen[0][2] == pytest.approx(2.2, abs=0.02)
    assert seen[1][2] == pytest.approx(2.2, abs=0.02)


@pytest.mark.slow
def test_loadgens_verdict_stands_beside_ours(tmp_path: Path) -> None:
    """LoadGen's rules are part of the verdict, and its p99 is compared with ours."""
    pytest.importorskip("mlperf_loadgen")
    plan = plan_for("server", rate=100, duration_s=8.0, slo=Slo(99, 0.5))

    async def main() -> tuple[LoadRun, RunProgress]:
        progress = RunProgress()
        async with opened(cards(tmp_path), progress=progress) as test:
            run = await test.run(plan, loadgen=True, loadgen_dir=tmp_path / "logs")
            return run, progress

    run, progress = asyncio.run(main())

    rules = {rule.name: rule for rule in run.report.verdict.rules}
    assert rules["loadgen"].holds, rules["loadgen"].text
    assert rules["loadgen_errors"].holds
    assert "official_length" in rules
    assert run.report.mlperf["p99"]["loadgen_s"] > 0.002
    assert progress.done == run.report.mlperf["answered"] > 662
    assert (tmp_path / "logs" / "mlperf_log_summary.txt").exists()


def test_a_loadgen_that_cannot_run_keeps_ours(tmp_path: Path) -> None:
    """A target that breaks before LoadGen starts leaves our own measurements, INVALID."""
    pytest.importorskip("mlperf_loadgen")
    plan = plan_for("single_stream", duration_s=4.0)

    async def main() -> LoadRun:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + plan.duration_s

        def fail_after_the_run(_: int, mean: Any) -> Any:
            if loop.time() > ends_at + 0.1:
                raise DeviceError("the card is gone")
            return mean

        target = Odd(fail_after_the_run)
        test = LoadTest(target, await target.open())
        return await test.run(plan, loadgen=True, loadgen_dir=tmp_path)

    run = run_virtual(main)

    assert run.report.counts.done > 1000
    assert "LoadGen could not run" in run.report.ended_early
    assert not run.report.verdict.is_valid


@pytest.mark.slow
def test_what_other_processes_measured_is_kept_when_one_dies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run of two processes keeps the records of one if the other dies."""
    begin = processes._LoadProcess.begin

    def begin_and_kill_the_second(worker: processes._LoadProcess, starts_at: float) -> None:
        begin(worker, starts_at)
        if worker._name == "load process 2 of 2":
            assert worker._process is not None
            worker._process.kill()

    monkeypatch.setattr(processes._LoadProcess, "begin", begin_and_kill_the_second)

    async def main(url: str) -> LoadRun:
        plan = msgspec.structs.replace(OPEN, arrivals=Poisson(100))
        async with opened(ServerTarget(url), processes=Processes(url, 2)) as test:
            return await test.run(plan)

    with running() as url:
        report = asyncio.run(main(url)).report

    assert "load process 2 of 2 was killed" in report.ended_early
    assert broken(report)[0] == "complete"
    assert report.counts.done > 100


def test_the_helpers_target_has_one_activation() -> None:
    """The helpers' target has one activation."""
    assert sum(INFO.activations.values()) == 1
