"""The promises of load tests in real time: sending on time, agreement with LoadGen, failures."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import uvloop

from qaic_sched.errors import DeviceError, NoDeviceError
from qaic_sched.loadgen.inject.injector import inject
from qaic_sched.loadgen.judge.analysis import analyse
from qaic_sched.loadgen.mlperf.run import compare_p99, run_loadgen
from qaic_sched.loadgen.mlperf.schedule import loadgen_schedule
from qaic_sched.loadgen.plan.inputs import InputLibrary
from qaic_sched.loadgen.plan.plan import Constant, Plan, Poisson, Rules, Slo
from qaic_sched.loadgen.plan.scenarios import plan_for
from qaic_sched.loadgen.targets.scheduler import SchedulerTarget
from qaic_sched.loadgen.targets.server import ServerTarget
from qaic_sched.scheduler.front import Scheduler
from tests.hosts import host
from tests.loadgen.kserve_server import running
from tests.loadgen.load_helpers import judged

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.loadgen.report.report import Report

pytestmark = pytest.mark.slow

TRIES = 3


def cards(folder: Path, devices: int, service_time_s: float) -> SchedulerTarget:
    """A scheduler over `devices` simulated devices of 4 activations."""
    path = host(folder, batch=1, devices=devices, service_time_s=service_time_s)
    return SchedulerTarget(Scheduler(path, num_activations=4))


def broken(report: Report) -> set[str]:
    """The names of the broken rules."""
    return {rule.name for rule in report.verdict.rules if not rule.holds}


def judge_server(url: str, rate: float, duration_s: float, **rules: Any) -> Report:
    """Run an open loop against a server, and report on it."""
    plan = Plan(
        scenario="open",
        arrivals=Constant(rate),
        duration_s=duration_s,
        drain_s=5.0,
        rules=Rules(min_duration_s=duration_s - 0.1, max_lag_share=1.0, **rules),
    )
    report, _ = uvloop.run(judged(ServerTarget(url), plan))
    return report


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_precise_run_is_on_time(tmp_path: Path, run: Callable[..., Any]) -> None:
    """At 5,000/s the median request is less than 50 us late, on 8 devices of 4 x 2 ms.

    The best of a few runs counts: other processes on the core can stop this one for milliseconds.
    """
    plan = Plan(scenario="open", arrivals=Poisson(5_000.0), duration_s=2.0, is_precise=True)

    medians_us = []
    for _ in range(TRIES):
        report, records = run(judged(cards(tmp_path, 8, 0.002), plan))
        assert report.counts.done == report.counts.planned > 9_000
        medians_us.append(float(np.median(records.sent_ns - records.planned_ns)) / 1e3)
        if medians_us[-1] < 50:
            break
    assert min(medians_us) < 50, medians_us


def test_our_server_scenario_and_loadgen_agree(tmp_path: Path) -> None:
    """For equal arrivals at 80 % load of 4 activations x 10 ms, p99 agrees within 10 %.

    The best of a few pairs counts: other work on the machine lengthens one of the runs by chance,
    but does not make two different numbers equal.
    """
    plan = plan_for("server", rate=320.0, slo=Slo(99.0, 0.1), duration_s=4.0, seed=3)

    async def pair(folder: Path) -> dict[str, Any]:
        target = cards(folder, 1, 0.010)
        info = await target.open()
        try:
            inputs = InputLibrary(info)
            theirs = await run_loadgen(target, info, inputs, plan, output_dir=folder / "logs")
            planned_ns = loadgen_schedule(plan, 320.0)
            records = await inject(target, info, plan, planned_ns, inputs)
        finally:
            await target.aclose()
        assert theirs["answered"] == len(planned_ns)
        return compare_p99(analyse(plan, info, records, None), theirs)

    off = []
    for _ in range(TRIES):
        compared = uvloop.run(pair(tmp_path))
        assert 0.010 < compared["ours_s"] < 1.0
        off.append(abs(compared["difference"]))
        if off[-1] <= 0.1:
            break
    assert min(off) <= 0.1, off


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_server_process_that_dies_midway_is_invalid(kind: str) -> None:
    """The report has the answers from before, and the errors from after."""
    with running(kind, die_after=400) as url:
        report = judge_server(url, 400.0, 2.0)

    assert "errors" in broken(report)
    assert 350 <= report.counts.done <= 400
    assert report.counts.done + report.counts.failed == report.counts.planned == 800
    assert report.scheduled is not None
    assert report.scheduled.count > 300
    assert report.problems


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_server_that_fails_one_in_a_hundred_is_invalid(kind: str) -> None:
    """1 % of errors is INVALID, unless the plan allows it."""
    with running(kind, error_share=0.01) as url:
        strict = judge_server(url, 400.0, 2.0)
        lenient = judge_server(url, 400.0, 2.0, max_error_share=0.02)

    assert "errors" in broken(strict)
    assert "errors" not in broken(lenient)
    assert strict.counts.failed == 8
    assert [text.count("was to fail") for text in strict.problems] == [1]


def test_an_overloaded_target_is_invalid_in_real_time(tmp_path: Path) -> None:
    """A run at 120 % of capacity is not steady, breaks its SLO and loses no request."""
    plan = Plan(
        scenario="open",
        arrivals=Poisson(480.0),
        duration_s=4.0,
        rules=Rules(min_duration_s=3.9, slo=Slo(99.0, 0.1)),
    )

    report, _ = uvloop.run(judged(cards(tmp_path, 1, 0.010), plan))

    assert {"steady_state", "slo"} <= broken(report)
    assert report.counts.done == report.counts.planned
    assert report.completed_rate == pytest.approx(400.0, rel=0.03)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "grpc://127.0.0.1:9"])
def test_a_server_that_is_not_there_is_one_sentence(url: str) -> None:
    """A missing server raises one sentence with its address, before anything is sent."""
    with pytest.raises(NoDeviceError, match=f"^{url}: no KServe v2 server answers there") as caught:
        judge_server(url, 100.0, 1.0)

    assert "\n" not in str(caught.value)


def test_a_host_whose_devices_are_all_gone_is_one_sentence(tmp_path: Path) -> None:
    """A host without devices raises the scheduler's error, before anything is sent."""
    path = host(tmp_path, batch=1, faults=[{"kind": "lost", "at_s": 0.0}])
    target = SchedulerTarget(Scheduler(path))

    with pytest.raises(DeviceError, match="sim device 0 is lost") as caught:
        uvloop.run(judged(target, Plan(scenario="closed", duration_s=1.0)))

    assert "\n" not in str(caught.value)
