"""What the records say before anyone judges it."""

from __future__ import annotations

import numpy as np
import pytest

from qaic_sched.loadgen.inject.records import Records
from qaic_sched.loadgen.judge.evidence import Evidence, balance, device_reports
from qaic_sched.loadgen.targets.base import Outcome
from tests.loadgen.runs import (
    EXECUTE_NS,
    answer_nobody,
    info_of,
    plan_of,
    poisson_ns,
    poisson_run,
    served,
)


def _evidence(records: Records, until_ns: int = 0) -> Evidence:
    return Evidence.of(plan_of(), info_of(), records, until_ns)


def test_an_inference_counts_once() -> None:
    """Whoever shares it; it is ready when the last of them was due."""
    records = served(np.array([0, 10, 20, 30]))
    records.inference[:] = [5, 3, 5, 3]

    inferences = _evidence(records).inferences

    assert inferences is not None
    assert (len(inferences), inferences.requests) == (2, 4)
    assert inferences.ready_ns.tolist() == [30, 20]
    assert inferences.execute_ns.tolist() == [EXECUTE_NS, EXECUTE_NS]


def test_one_request_that_does_not_tell_makes_all_unknown() -> None:
    """Half a truth would look like a law that is broken; those who failed need not tell."""
    records = poisson_run(duration_s=1)
    answer_nobody(records, 3, Outcome.FAILED)
    assert _evidence(records).inferences is not None

    records.inference[9] = -1
    assert _evidence(records).inferences is None


def test_the_measured_part_begins_after_the_warm_up() -> None:
    """By the planned instant, and only what was done."""
    records = served(np.arange(10) * 1_000)
    answer_nobody(records, 8, Outcome.EXPIRED)

    evidence = _evidence(records, until_ns=4_000)

    assert np.flatnonzero(evidence.measured).tolist() == [4, 5, 6, 7, 9]
    assert np.flatnonzero(~evidence.done).tolist() == [8]


def test_totals_are_of_the_run_only() -> None:
    """What the metrics had counted before is left out."""
    records = served(np.arange(100) * 1_000_000)

    totals = _evidence(records).totals

    assert {device: each.inferences for device, each in totals.items()} == {0: 50, 1: 50}
    assert totals[0].busy_s == pytest.approx(0.1)


def test_a_device_s_report_is_known_by_hand() -> None:
    """Half a second each second on two activations, and starts that are 1 ms late."""
    records = served(np.arange(1_000) * 2_000_000, delay_ns=1_000_000)

    first, second = device_reports(_evidence(records), duration_s=2.0)

    assert (first.device_id, first.activations, first.requests) == (0, 2, 500)
    assert (first.inferences, first.busy_s) == (500, pytest.approx(1.0))
    assert first.utilisation == pytest.approx(0.25)
    assert first.mean_execute_s == pytest.approx(0.002)
    assert first.mean_wait_s == pytest.approx(0.001)
    assert first.p99_s == pytest.approx(0.003)
    assert second.device_id == 1


def test_a_target_without_metrics_is_known_by_its_answers() -> None:
    """Inferences and busy time come from the requests then; p99 needs its samples."""
    records = poisson_run(duration_s=0.2)
    with_metrics = device_reports(_evidence(records), duration_s=0.2)
    records.device_samples = []

    without = device_reports(_evidence(records), duration_s=0.2)

    assert [each.inferences for each in without] == [each.inferences for each in with_metrics]
    assert without[0].busy_s == pytest.approx(with_metrics[0].busy_s)
    assert without[0].p99_s is None


def test_a_target_that_tells_nothing_has_no_devices() -> None:
    """Nor is there a balance."""
    records = served(np.arange(10) * 1_000)
    records.device[:], records.inference[:] = -1, -1
    records.device_samples = []
    evidence = Evidence.of(plan_of(), info_of({}), records)

    assert device_reports(evidence, 1.0) == ()
    assert balance(()) == {}


def test_balance_by_hand() -> None:
    """One device does three quarters of the work."""
    records = served(poisson_ns(100, 2))
    count = len(records.planned_ns)
    records.device = (np.arange(count) % 4 == 0).astype(np.int32)
    records.device_samples = []

    found = balance(device_reports(_evidence(records), 2.0))

    assert found["max_over_mean"] == pytest.approx(1.5, rel=0.01)
    assert found["jain"] == pytest.approx(0.8, rel=0.01)
    assert found["cv"] == pytest.approx(0.5, rel=0.02)
