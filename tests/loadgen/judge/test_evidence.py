"""The facts from the records."""

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
    """Requests of one inference count once; it is ready when the last one was due."""
    records = served(np.array([0, 10, 20, 30]))
    records.inference[:] = [5, 3, 5, 3]

    inferences = _evidence(records).inferences

    assert inferences is not None
    assert (len(inferences), inferences.requests) == (2, 4)
    assert inferences.ready_ns.tolist() == [30, 20]
    assert inferences.execute_ns.tolist() == [EXECUTE_NS, EXECUTE_NS]


def test_one_request_without_its_inference_makes_all_unknown() -> None:
    """Inferences are unknown if a done request lacks its inference; failed ones may lack it."""
    records = poisson_run(duration_s=1)
    answer_nobody(records, 3, Outcome.FAILED)
    assert _evidence(records).inferences is not None

    records.inference[9] = -1
    assert _evidence(records).inferences is None


def test_the_measured_part_begins_after_the_warm_up() -> None:
    """Measured requests are done and planned after the warm-up."""
    records = served(np.arange(10) * 1_000)
    answer_nobody(records, 8, Outcome.EXPIRED)

    evidence = _evidence(records, until_ns=4_000)

    assert np.flatnonzero(evidence.measured).tolist() == [4, 5, 6, 7, 9]
    assert np.flatnonzero(~evidence.done).tolist() == [8]


def test_totals_are_of_the_run_only() -> None:
    """Totals exclude what the metrics counted before the run."""
    records = served(np.arange(100) * 1_000_000)

    totals = _evidence(records).totals

    assert {device: each.inferences for device, each in totals.items()} == {0: 50, 1: 50}
    assert totals[0].busy_s == pytest.approx(0.1)


def test_a_device_s_report_is_known_by_hand() -> None:
    """A device's report has the values of a manual calculation."""
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
    """Without metrics, inferences and busy time come from the requests."""
    records = poisson_run(duration_s=0.2)
    with_metrics = device_reports(_evidence(records), duration_s=0.2)
    records.device_samples = []

    without = device_reports(_evidence(records), duration_s=0.2)

    assert [each.inferences for each in without] == [each.inferences for each in with_metrics]
    assert without[0].busy_s == pytest.approx(with_metrics[0].busy_s)
    assert without[0].p99_s is None


def test_a_target_without_metrics_and_inferences_has_no_devices() -> None:
    """A target without metrics and inferences has no devices and no balance."""
    records = served(np.arange(10) * 1_000)
    records.device[:], records.inference[:] = -1, -1
    records.device_samples = []
    evidence = Evidence.of(plan_of(), info_of({}), records)

    assert device_reports(evidence, 1.0) == ()
    assert balance(()) == {}


def test_balance_by_hand() -> None:
    """The balance has the values of a manual calculation."""
    records = served(poisson_ns(100, 2))
    count = len(records.planned_ns)
    records.device = (np.arange(count) % 4 == 0).astype(np.int32)
    records.device_samples = []

    found = balance(device_reports(_evidence(records), 2.0))

    assert found["max_over_mean"] == pytest.approx(1.5, rel=0.01)
    assert found["jain"] == pytest.approx(0.8, rel=0.01)
    assert found["cv"] == pytest.approx(0.5, rel=0.02)
