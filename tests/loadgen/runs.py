"""Runs with known answers, as an injector would have recorded them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qaic_sched.loadgen.inject.records import Records
from qaic_sched.loadgen.judge.analysis import analyse
from qaic_sched.loadgen.judge.evidence import Evidence
from qaic_sched.loadgen.judge.queueing import fcfs_waits
from qaic_sched.loadgen.judge.verdict import conclude
from qaic_sched.loadgen.plan.plan import Plan, Poisson, Rules
from qaic_sched.loadgen.report.report import Report
from qaic_sched.loadgen.targets.base import DeviceSample, Outcome, TargetInfo

EXECUTE_NS = 2_000_000
SERVERS = 4
SEED = 1


def plan_of(rate: float = 1_600.0, duration_s: float = 10.0, **rules: object) -> Plan:
    """Make a plan with Poisson arrivals."""
    return Plan(
        scenario="open",
        arrivals=Poisson(rate),
        duration_s=duration_s,
        rules=Rules(**rules),  # type: ignore[arg-type]
    )


def info_of(activations: Mapping[int, int] | None = None, max_batch_size: int = 1) -> TargetInfo:
    """Make the facts of a target, by default two devices of two activations."""
    return TargetInfo(
        name="pool",
        inputs=(),
        max_batch_size=max_batch_size,
        is_batched=max_batch_size > 1,
        activations={0: 2, 1: 2} if activations is None else activations,
        config={"set_size": 2},
    )


def report_of(
    plan: Plan, info: TargetInfo, records: Records, planned: str | None = None, **found: Any
) -> Report:
    """Analyse the records of a run and judge the findings."""
    return conclude(analyse(plan, info, records, planned, **found))


def evidence_of(records: Records, plan: Plan | None = None) -> Evidence:
    """Return the evidence of a run of a plan, by default `plan_of()`, on `info_of()`."""
    return Evidence.of(plan or plan_of(), info_of(), records)


def number_of(value: float | None) -> float:
    """Return a number that must not be None."""
    assert value is not None
    return value


def poisson_ns(rate: float, duration_s: float, seed: int = SEED) -> NDArray[np.int64]:
    """Draw planned instants."""
    generator = np.random.default_rng(seed)
    gaps = generator.exponential(1e9 / rate, int(rate * duration_s * 1.2))
    instants = np.cumsum(gaps).astype(np.int64)
    return instants[instants < duration_s * 1e9]


def served(
    planned_ns: NDArray[np.int64],
    execute_ns: NDArray[np.int64] | int = EXECUTE_NS,
    servers: int = SERVERS,
    delay_ns: int = 0,
) -> Records:
    """Simulate a pool without loss, except that each start is delayed by `delay_ns`."""
    count = len(planned_ns)
    execute = np.broadcast_to(np.asarray(execute_ns, np.int64), (count,))
    waits = fcfs_waits(planned_ns.astype(float), execute.astype(float), servers)
    records = Records.for_requests(planned_ns)
    records.sent_ns = planned_ns.copy()
    records.submitted_ns = planned_ns.copy()
    records.started_ns = planned_ns + waits.astype(np.int64) + delay_ns
    records.completed_ns = records.started_ns + execute
    records.done_ns = records.completed_ns.copy()
    records.outcome[:] = Outcome.DONE
    records.inference = np.arange(count)
    records.device = (np.arange(count) % 2).astype(np.int32)
    records.activation = (np.arange(count) % servers // 2).astype(np.int32)
    records.ended_ns = int(records.done_ns.max(initial=0))
    records.device_samples = samples_of(records)
    return records


def samples_of(records: Records, before: int = 7) -> list[DeviceSample]:
    """Make samples of metrics that had counted `before` inferences before the run."""
    execute_s = (records.completed_ns - records.started_ns) / 1e9
    samples = []
    for at_ns in np.linspace(0, records.ended_ns, 21).astype(np.int64).tolist():
        is_over = (records.outcome == Outcome.DONE) & (records.completed_ns <= at_ns)
        waiting = (records.sent_ns <= at_ns) & (records.started_ns > at_ns)
        busy, inferences = {}, {}
        for device in (0, 1):
            rows = is_over & (records.device == device)
            _, firsts = np.unique(records.inference[rows], return_index=True)
            busy[device] = before * 0.5 + float(execute_s[rows][firsts].sum())
            inferences[device] = before + len(firsts)
        samples.append(DeviceSample(at_ns, int(waiting.sum()), busy, inferences))
    return samples


def poisson_run(load: float = 0.8, duration_s: float = 10.0, seed: int = SEED) -> Records:
    """Simulate the pool of four activations at a load."""
    return served(poisson_ns(load * SERVERS / EXECUTE_NS * 1e9, duration_s, seed))


def closed_run(callers: int = 8, count: int = 8_000) -> Records:
    """Simulate a closed loop that keeps the pool busy."""
    turns = np.arange(count) // SERVERS
    records = served(np.arange(count) * 0, EXECUTE_NS)
    records.planned_ns = np.maximum(turns - callers // SERVERS + 1, 0) * EXECUTE_NS
    records.sent_ns = records.planned_ns.copy()
    return records


def answer_nobody(records: Records, rows: object, outcome: Outcome) -> None:
    """Give some requests another outcome; `UNRESOLVED` ones have no answer."""
    records.outcome[rows] = outcome
    for name in ("inference", "device", "activation", "submitted_ns", "started_ns", "completed_ns"):
        getattr(records, name)[rows] = -1
    if outcome == Outcome.UNRESOLVED:
        records.done_ns[rows] = -1
