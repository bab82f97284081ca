"""Predictions of the checks: the mean wait by a formula, and the replay on an ideal pool."""

from __future__ import annotations

import numpy as np
import pytest

from qaic_sched.loadgen.judge.checks import (
    ideal_replay,
    predicted_wait,
)
from qaic_sched.loadgen.judge.evidence import Evidence
from qaic_sched.loadgen.plan.plan import Constant, Plan
from qaic_sched.loadgen.targets.base import Outcome
from tests.loadgen.runs import (
    EXECUTE_NS,
    answer_nobody,
    evidence_of,
    info_of,
    number_of,
    plan_of,
    poisson_ns,
    poisson_run,
    served,
)


@pytest.mark.parametrize("load", [0.6, 0.8, 0.9])
def test_the_predicted_wait_is_that_of_the_run(load: float) -> None:
    """For Poisson arrivals and constant execution times, the prediction fits the run."""
    check = predicted_wait(evidence_of(poisson_run(load, duration_s=60)))

    assert check.expected == pytest.approx(check.measured, rel=0.08)
    assert check.holds is None
    assert f"load {load:.0%}"[:7] in check.note


def test_the_predicted_wait_includes_the_spread_of_execution_times() -> None:
    """Kimura's formula covers a CV of 0.5; a CV of 1.4 has no prediction."""
    planned = poisson_ns(1_600, 60)
    generator = np.random.default_rng(2)
    calm = generator.gamma(4, EXECUTE_NS / 4, len(planned)).astype(np.int64)
    wild = generator.gamma(0.5, EXECUTE_NS * 2, len(planned)).astype(np.int64)

    check = predicted_wait(evidence_of(served(planned, calm)))

    assert check.expected == pytest.approx(check.measured, rel=0.08)
    assert "CV 0.499" in check.note
    assert predicted_wait(evidence_of(served(planned, wild))).expected is None


def test_no_prediction_where_no_formula_holds() -> None:
    """Without an applicable formula there is no prediction, and the note says why."""
    records = poisson_run()
    constant = Plan(scenario="open", arrivals=Constant(1_600))
    batched = Evidence.of(plan_of(), info_of(max_batch_size=8), records)
    unknown = Evidence.of(plan_of(), info_of({}), records)
    planned = poisson_ns(1_000, 2)
    two_speeds = served(planned, EXECUTE_NS + EXECUTE_NS * (np.arange(len(planned)) % 2))
    runs = {
        "only Poisson": evidence_of(records, constant),
        "batches": batched,
        "activations": unknown,
        "load 13": evidence_of(poisson_run(1.3)),
        "several speeds": evidence_of(two_speeds),
        "too few": evidence_of(served(np.array([5]))),
        "too few requests": Evidence.of(
            plan_of(), info_of(), records, until_ns=int(records.planned_ns[-1])
        ),
    }

    for reason, evidence in runs.items():
        check = predicted_wait(evidence)
        assert reason in check.note
        assert (check.expected, check.holds) == (None, None)


@pytest.mark.parametrize("load", [0.5, 0.8, 1.2])
def test_the_replay_of_an_ideal_run_loses_nothing(load: float) -> None:
    """The replay of an ideal run has a loss of exactly 0."""
    planned = poisson_ns(load * 2_000, 5)
    services = np.random.default_rng(4).gamma(2, EXECUTE_NS / 2, len(planned)).astype(np.int64)

    check = ideal_replay(evidence_of(served(planned, services)))

    assert check.error == 0.0
    assert check.measured == check.expected


def test_the_replay_is_in_the_order_of_the_requests() -> None:
    """The replay does not depend on the ids of inferences."""
    records = poisson_run()
    records.inference = np.random.default_rng(3).permutation(len(records.planned_ns))

    assert ideal_replay(evidence_of(records)).error == 0.0


def test_the_replay_finds_what_every_start_lost() -> None:
    """A delay of a tenth of the execution time is found as the loss."""
    records = served(poisson_ns(1_600, 5), delay_ns=EXECUTE_NS // 10)

    check = ideal_replay(evidence_of(records))

    assert check.error == pytest.approx(0.1)
    assert number_of(check.measured) - number_of(check.expected) == pytest.approx(0.0002)
    assert "the loss is 200 us" in check.note


def test_the_replay_finds_an_activation_that_was_not_used() -> None:
    """A pool of four activations that works like three has a loss."""
    records = served(poisson_ns(1_300, 5), servers=3)

    assert number_of(ideal_replay(evidence_of(records)).error) > 0.1


def test_the_replay_takes_a_batch_for_one() -> None:
    """A batch is ready when its last request was due."""
    records = served(np.array([0, 1_000_000, 2_000_000, 3_000_000]))
    records.inference[:] = [0, 0, 1, 1]
    records.started_ns[:] = [1_000_000, 1_000_000, 3_500_000, 3_500_000]
    records.completed_ns = records.started_ns + EXECUTE_NS

    check = ideal_replay(evidence_of(records))

    assert number_of(check.measured) == pytest.approx(0.000_25)
    assert check.expected == 0
    assert "2 inferences" in check.note


def test_the_replay_leaves_out_unanswered_requests() -> None:
    """The replay leaves out unanswered requests, and needs inferences and activations."""
    records = poisson_run()
    answer_nobody(records, slice(0, 3), Outcome.FAILED)
    assert "3 requests that were not done" in ideal_replay(evidence_of(records)).note

    assert ideal_replay(Evidence.of(plan_of(), info_of({}), records)).error is None
    records.inference[5] = -1
    assert "does not report" in ideal_replay(evidence_of(records)).note
