"""The laws, on runs that obey them and on runs that do not."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from qaic_sched.loadgen.inject.records import Records
from qaic_sched.loadgen.judge.checks import (
    all_checks,
    closed_loop_bound,
    flow_balance,
    littles_law,
    utilisation_law,
)
from qaic_sched.loadgen.plan.plan import Plan
from qaic_sched.loadgen.targets.base import Outcome
from tests.loadgen.runs import (
    answer_nobody,
    closed_run,
    evidence_of,
    number_of,
    plan_of,
    poisson_run,
    served,
)

CLOSED = Plan(scenario="closed", concurrency=8)


@pytest.mark.parametrize("load", [0.3, 0.8, 0.95, 1.3])
def test_little_is_exact_once_all_are_back(load: float) -> None:
    """At any load, both sides of Little's law are equal when all requests are answered."""
    check = littles_law(evidence_of(poisson_run(load)))

    assert check.holds
    assert abs(number_of(check.error)) < 1e-9
    assert check.measured == pytest.approx(check.expected)


def test_little_counts_from_the_planned_instant_too() -> None:
    """Late sending lengthens the time from the planned instant, not from the sending."""
    records = poisson_run(0.5)
    on_time = littles_law(evidence_of(records))
    records.sent_ns = records.sent_ns + 500_000
    late = littles_law(evidence_of(records))

    assert late.holds
    assert number_of(on_time.measured) - number_of(late.measured) == pytest.approx(0.5, rel=0.02)
    assert late.note == on_time.note
    assert f"from the planned instant {on_time.measured:.5g} against" in late.note


def test_little_finds_requests_that_never_came_back() -> None:
    """Little's law fails if 2 % of the requests are never answered."""
    records = poisson_run(0.8)
    answer_nobody(records, slice(None, None, 50), Outcome.UNRESOLVED)

    check = littles_law(evidence_of(records))

    assert check.holds is False
    assert number_of(check.error) > 0.05


def test_little_finds_requests_that_were_never_sent() -> None:
    """Unsent requests break Little's law from the planned instant only."""
    records = poisson_run(0.8)
    answer_nobody(records, slice(0, 400), Outcome.UNRESOLVED)
    records.sent_ns[:400] = -1
    check = littles_law(evidence_of(records))

    assert check.measured == pytest.approx(check.expected)
    assert check.holds is False


def test_little_counts_unanswered_requests_to_the_end_of_the_run() -> None:
    """A request without an answer counts until the end of the run."""
    records = served(np.array([0, 0]), 10**9)
    answer_nobody(records, 1, Outcome.UNRESOLVED)
    records.ended_ns = 10**10
    check = littles_law(evidence_of(records))

    assert (check.measured, check.expected) == (pytest.approx(1.1), pytest.approx(0.1))


def test_little_without_answers_is_not_judged() -> None:
    """Little's law is not judged without answers, or if no time passed."""
    nobody = Records.for_requests(np.arange(5) * 1_000)
    instant = served(np.array([7]), 0)

    assert littles_law(evidence_of(nobody)).holds is None
    assert littles_law(evidence_of(instant)).holds is None


def test_flow_is_balanced_by_devices_and_requests() -> None:
    """The flow is balanced if every inference answered a request."""
    records = poisson_run(0.8)
    check = flow_balance(evidence_of(records))

    assert check.holds
    assert check.measured == check.expected == len(records.planned_ns)
    assert (check.error, check.unit) == (0.0, "inferences")


def test_flow_is_balanced_for_batches_too() -> None:
    """An inference with two requests counts once."""
    records = poisson_run(0.4)
    for name in ("planned", "sent", "done", "started", "completed"):
        setattr(records, f"{name}_ns", np.repeat(getattr(records, f"{name}_ns"), 2))
    for name in ("outcome", "inference", "device"):
        setattr(records, name, np.repeat(getattr(records, name), 2))

    check = flow_balance(evidence_of(records))

    assert check.holds
    assert check.measured == check.expected == len(records.planned_ns) / 2


def test_devices_that_did_less_than_was_answered_break_the_flow() -> None:
    """Fewer inferences than answers break the flow; more are explained as retries."""
    records = poisson_run(0.8)
    last = records.device_samples[-1].inferences
    last[0] -= 300
    assert flow_balance(evidence_of(records)).holds is False

    last[0] += 1_300
    check = flow_balance(evidence_of(records))
    assert check.holds
    assert (check.error, check.unit) == (0.0, "requests")
    assert "retries, hedges" in check.note


@pytest.mark.parametrize(
    ("name", "value"),
    [("done_ns", -1), ("done_ns", 10**15), ("sent_ns", -1), ("sent_ns", 10**15), ("done_ns", 0)],
)
def test_one_contradictory_row_breaks_the_flow(name: str, value: int) -> None:
    """A row with an impossible instant breaks the flow."""
    records = poisson_run(0.8)
    getattr(records, name)[1_000] = value

    check = flow_balance(evidence_of(records))

    assert check.holds is False
    assert number_of(check.expected) - number_of(check.measured) == 1


def test_sending_before_the_plan_breaks_the_flow() -> None:
    """Sending before the planned instant breaks the flow, beyond the clock's rounding."""
    records = poisson_run(0.8)
    records.sent_ns[1_000] -= 999
    assert flow_balance(evidence_of(records)).holds

    records.sent_ns[1_000] -= 2
    assert flow_balance(evidence_of(records)).holds is False


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.REJECTED, Outcome.UNRESOLVED])
def test_errors_are_in_the_balance(outcome: Outcome) -> None:
    """Requests with errors do not break the flow."""
    records = poisson_run(0.8)
    answer_nobody(records, slice(100, 110), outcome)

    assert flow_balance(evidence_of(records)).holds


def test_busy_time_is_inferences_times_execution_time() -> None:
    """Busy time is compared by device, and the largest error is named."""
    records = poisson_run(0.8)
    check = utilisation_law(evidence_of(records))
    assert check.holds
    assert abs(number_of(check.error)) < 1e-9

    records.device_samples[-1].busy_s[1] *= 1.05
    check = utilisation_law(evidence_of(records))
    assert check.holds is False
    assert "device 1 " in check.note
    assert "kept it busy as well" in check.note


def test_inferences_without_requests_may_have_taken_any_time() -> None:
    """Inferences without requests may explain more busy time, but not less."""
    records = poisson_run(0.8)
    last = records.device_samples[-1]
    last.inferences[1] += 3
    last.busy_s[1] *= 1.05
    check = utilisation_law(evidence_of(records))
    assert check.holds is None
    assert "3 inferences that answered no request" in check.note

    last.busy_s[1] *= 0.9
    assert utilisation_law(evidence_of(records)).holds is False


def test_utilisation_needs_both_sides() -> None:
    """The utilisation law needs device metrics and the inferences of requests."""
    records = poisson_run(0.8)
    records.device_samples = []
    assert utilisation_law(evidence_of(records)).measured is None

    records = poisson_run(0.8)
    records.inference[:] = -1
    assert utilisation_law(evidence_of(records)).measured is None


def test_a_closed_loop_reaches_its_bound_and_not_more() -> None:
    """A closed loop is bound by its activations and by its callers."""
    check = closed_loop_bound(evidence_of(closed_run(8), CLOSED))
    assert check.holds
    assert check.expected == pytest.approx(4 / 0.002)
    assert check.measured == pytest.approx(check.expected, rel=0.001)

    few = Plan(scenario="closed", concurrency=4)
    assert closed_loop_bound(evidence_of(closed_run(4), few)).expected == pytest.approx(2_000)
    one = Plan(scenario="single_stream")
    assert closed_loop_bound(evidence_of(closed_run(4), one)).holds is False


def test_a_closed_loop_s_bound_knows_batches() -> None:
    """Two requests per inference double the bound."""
    records = closed_run(8)
    records.inference //= 2
    callers = Plan(scenario="closed", concurrency=1_000)

    assert closed_loop_bound(evidence_of(records, callers)).expected == pytest.approx(4_000)


def test_a_closed_loop_s_bound_without_devices_is_the_shortest_answer() -> None:
    """Without inferences, the bound uses the shortest answer."""
    records = closed_run(8)
    records.inference[:] = -1

    check = closed_loop_bound(evidence_of(records, CLOSED))

    assert check.expected == pytest.approx(8 / 0.002)
    assert check.holds


def test_an_open_loop_has_no_such_bound() -> None:
    """An open loop has no bound, and the note says so."""
    check = closed_loop_bound(evidence_of(poisson_run()))

    assert (check.holds, check.measured, check.note) == (None, None, "not a closed loop")


def test_all_checks_are_there_whatever_the_run() -> None:
    """Every run has every check once, with finite numbers or None."""
    names = [
        "littles_law",
        "flow_balance",
        "utilisation_law",
        "closed_loop_bound",
        "predicted_wait",
        "ideal_replay",
    ]
    empty = Records.for_requests(np.empty(0, np.int64))
    for records in (
        poisson_run(),
        closed_run(),
        empty,
        served(np.array([3])),
        served(np.array([3]), 0),
    ):
        for plan in (plan_of(), CLOSED):
            checks = all_checks(evidence_of(records, plan))
            assert [check.name for check in checks] == names
            for check in checks:
                numbers = msgspec.structs.asdict(check)
                values = [numbers[key] for key in ("measured", "expected", "error")]
                assert all(value is None or math.isfinite(value) for value in values)
                assert check.note
