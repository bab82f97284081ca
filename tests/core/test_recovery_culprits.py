"""Requests that make inferences fail: they are found by splitting, and hurt no other request."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from qaic_sched.core.commands import Commands
from qaic_sched.core.events import Cancelled, Completed
from qaic_sched.core.model import Batch, Fault, Request
from qaic_sched.core.state import SchedulerState
from tests.core.harness import (
    answer,
    cargo,
    drive,
    health_of,
    lose,
    lost,
    make_state,
    on_probation,
    outcomes,
    places,
    requests,
)

BY_REQUESTS = [Fault.INPUT, Fault.INFERENCE]


def _ids(batch: Batch) -> list[int]:
    return [part.request.id for part in batch.parts]


def _run(
    state: SchedulerState,
    commands: Commands,
    fault_of: Callable[[Batch], Fault | None],
    now: float = 0.0,
) -> tuple[dict[int, str], list[list[int]]]:
    """Answer all batches until nothing is in flight; return outcomes and each batch's requests."""
    ends, sent = dict(outcomes(commands.resolve)), [_ids(each) for each in commands.dispatch]
    while state.batches:
        now += 0.001
        batch = next(iter(state.batches.values()))
        commands = drive(state, now, Completed(batch.id, now, fault_of(batch)))
        ends |= outcomes(commands.resolve)
        sent += [_ids(each) for each in commands.dispatch]
    return ends, sent


def _culprits(ids: Iterable[int], fault: Fault) -> Callable[[Batch], Fault | None]:
    """Return how devices answer if these requests make every inference fail."""
    return lambda batch: None if {*_ids(batch)}.isdisjoint(ids) else fault


@pytest.mark.parametrize("max_attempts", [1, 2, 3])
@pytest.mark.parametrize("fault", BY_REQUESTS)
@pytest.mark.parametrize("devices", [1, 2])
def test_a_culprit_fails_alone(devices: int, fault: Fault, max_attempts: int) -> None:
    """Wherever it is in a batch of eight, the seven others are answered; no device suffers."""
    for culprit in range(8):
        state = make_state(devices, batch_sizes=(1, 2, 4, 8), max_attempts=max_attempts)
        ends, _ = _run(state, drive(state, 0.0, *requests(8)), _culprits([culprit], fault))

        assert ends == {each: "failed" if each == culprit else "done" for each in range(8)}
        assert {health_of(state, each) for each in range(devices)} == {"ready"}


@pytest.mark.parametrize("fault", BY_REQUESTS)
def test_many_culprits_in_one_batch_fail_and_no_others(fault: Fault) -> None:
    """Two, half or all of the requests may be culprits."""
    for culprits in ([0, 7], [1, 2, 5, 6], [*range(8)]):
        state = make_state(2, batch_sizes=(8,))
        ends, _ = _run(state, drive(state, 0.0, *requests(8)), _culprits(culprits, fault))

        assert [each for each, end in ends.items() if end == "failed"] == culprits
        assert len(ends) == 8


def test_rejected_values_are_split_at_once() -> None:
    """No attempt is spent on the whole, nor on what is alone; each half is as small as can be."""
    state = make_state(batch_sizes=(1, 2, 4), num_activations=2)
    ends, sent = _run(state, drive(state, 0.0, *requests(4)), _culprits([2], Fault.INPUT))

    assert sorted(sent) == [[0, 1], [0, 1, 2, 3], [2], [2, 3], [3]]
    assert ends[2] == "failed"
    assert state.retry_budget.num_spent == 0


def test_a_failed_batch_is_tried_as_a_whole_elsewhere_first() -> None:
    """Mostly the device is to blame; then one more inference answers all of its requests."""
    state = make_state(2, batch_sizes=(4,))
    (batch,) = drive(state, 0.0, *requests(4)).dispatch
    commands = drive(state, 1.0, answer(batch, 1.0, failed=True))
    assert (places(commands), [_ids(each) for each in commands.dispatch]) == (
        [(1, 0)],
        [[0, 1, 2, 3]],
    )

    commands = drive(state, 2.0, answer(commands.dispatch[0], 2.0))
    assert outcomes(commands.resolve) == [(each, "done") for each in range(4)]
    assert state.retry_budget.num_spent == 1


def test_splitting_is_no_attempt_and_costs_no_budget() -> None:
    """With one attempt and without any retries in the budget, the halves are sent all the same."""
    state = make_state(2, batch_sizes=(4,), max_attempts=1, retry_max_extra=0.0)
    while state.retry_budget.spend(0):
        pass
    spent = state.retry_budget.num_spent
    ends, sent = _run(state, drive(state, 0.0, *requests(4)), _culprits([3], Fault.INFERENCE))

    assert [each for each, end in ends.items() if end == "failed"] == [3]
    assert len(sent) == 5
    assert state.retry_budget.num_spent == spent


def test_what_is_alone_has_attempts_of_its_own() -> None:
    """An innocent request whose company failed twice is still tried on a second device."""
    state = make_state(2, batch_sizes=(1, 2))
    fails = iter([True, True, True, False, False])
    ends, _ = _run(
        state,
        drive(state, 0.0, *requests(2)),
        lambda _batch: Fault.INFERENCE if next(fails) else None,
    )

    assert ends == {0: "done", 1: "done"}


def test_a_culprit_is_told_by_the_batch_in_which_it_was_alone() -> None:
    """So its caller gets the error of its own values."""
    state = make_state(batch_sizes=(1, 2))
    culprit = Request(1, 1, 0.0)
    commands = drive(state, 0.0, Request(0, 1, 0.0), culprit)
    _run(state, commands, _culprits([1], Fault.INPUT))

    assert culprit.last_batch is not None
    assert cargo(culprit.last_batch) == [(1, 0, 1)]


def test_a_bad_row_of_a_large_request_fails_the_request_and_not_its_company() -> None:
    """The rest of it leaves the queue; whoever shared its last batch is answered."""
    state = make_state(batch_sizes=(4,))
    commands = drive(state, 0.0, Request(0, 10, 0.0), Request(1, 2, 0.0))

    def fault_of(batch: Batch) -> Fault | None:
        return Fault.INPUT if (0, 8, 2) in cargo(batch) else None

    ends, sent = _run(state, commands, fault_of)
    assert ends == {0: "failed", 1: "done"}
    assert sent == [[0], [0], [0, 1], [0], [1]]


def test_a_late_batch_that_fails_leaves_its_hedge_to_answer() -> None:
    """No part is sent a third time; if the hedge fails as well, it is split like any other."""
    state = make_state(2, batch_sizes=(1, 2), hedge_after=3.0, hedge_max_extra=1.0)
    drive(state, 0.0, *requests(2, samples=2))
    for batch in list(state.batches.values()):
        drive(state, 0.1, answer(batch, 0.1))
    (batch,) = drive(state, 1.0, *requests(2, first_id=2, accepted_at=1.0)).dispatch
    (hedge,) = drive(state, state.next_wakeup() or 0.0).dispatch
    assert hedge.is_hedge
    assert drive(state, 1.4, lost(batch, 1.4, Fault.INFERENCE)).dispatch == []
    commands = drive(state, 1.5, lost(hedge, 1.5, Fault.INPUT))

    assert [_ids(each) for each in commands.dispatch] == [[2], [3]]


# Whoever leaves meanwhile


def test_a_request_that_is_cancelled_leaves_its_group() -> None:
    """The others are sent without it."""
    state = make_state(2, batch_sizes=(4,))
    (first,) = drive(state, 0.0, *requests(4)).dispatch
    (second,) = drive(state, 0.0, *requests(4, first_id=4)).dispatch
    drive(state, 1.0, answer(first, 1.0, failed=True))
    drive(state, 1.0, Cancelled(1))
    (again,) = drive(state, 1.0, answer(second, 1.0)).dispatch

    assert _ids(again) == [0, 2, 3]


def test_what_is_left_of_rejected_company_is_sent_once_more() -> None:
    """The cancelled request may have been the culprit."""
    state = make_state(batch_sizes=(2,))
    (batch,) = drive(state, 0.0, *requests(2)).dispatch
    drive(state, 0.5, Cancelled(1))
    commands = drive(state, 1.0, lost(batch, 1.0, Fault.INPUT))
    assert (commands.resolve, [_ids(each) for each in commands.dispatch]) == ([], [[0]])

    assert _run(state, commands, lambda _batch: None, 1.0)[0] == {0: "done"}


def test_suspects_of_a_lost_device_go_on_each_alone() -> None:
    """A culprit among them still fails by its own failures, and takes nobody with it."""
    state = make_state(3, batch_sizes=(2,))
    (batch,) = drive(state, 0.0, *requests(2)).dispatch
    (again,) = drive(state, 1.0, answer(batch, 1.0, failed=True)).dispatch
    commands = drive(state, 2.0, lost(again, 2.0))
    assert [_ids(each) for each in commands.dispatch] == [[0], [1]]

    ends, _ = _run(state, commands, _culprits([1], Fault.INFERENCE), 2.0)
    assert ends == {0: "done", 1: "failed"}


def test_a_request_is_not_stuck_because_its_company_failed() -> None:
    """With two attempts, a shared failure and one stuck inference are not the end of it."""
    state = make_state(3, batch_sizes=(2,), dispatch_timeout_s=4.0)
    (batch,) = drive(state, 0.0, *requests(2)).dispatch
    drive(state, 1.0, answer(batch, 1.0, failed=True))
    commands = drive(state, 5.0)
    assert (commands.resolve, len(commands.dispatch)) == ([], 2)


# Whose fault it was


def test_rejected_values_are_no_sign_against_a_device() -> None:
    """However many there are, in company or alone, and on a device that was just reloaded."""
    state = make_state(2, batch_sizes=(4,))
    for number in range(0, 200, 4):
        _run(
            state,
            drive(state, 0.0, *requests(4, first_id=number)),
            lambda _batch: Fault.INPUT,
        )
        state.now = 0.0
    assert (health_of(state), health_of(state, 1)) == ("ready", "ready")

    state = on_probation()
    for number in range(1, 9):
        _run(state, drive(state, 1.1, Request(number, 1, 1.1)), lambda _batch: Fault.INPUT, 1.1)
        state.now = 1.1
    assert health_of(state) == "probation"


def test_culprits_are_no_sign_against_a_device() -> None:
    """Also where the runtime does not tell bad values from other failures."""
    state = make_state(2, batch_sizes=(4,))
    now = 0.0
    for number in range(0, 80, 4):
        commands = drive(state, now, *requests(4, first_id=number))
        ends, _ = _run(state, commands, _culprits([number + 1], Fault.INFERENCE), now)
        assert list(ends.values()).count("done") == 3
        now = state.now

    assert (health_of(state), health_of(state, 1)) == ("ready", "ready")


@pytest.mark.parametrize("max_attempts", [1, 2])
def test_a_device_that_fails_everything_is_found_at_once(max_attempts: int) -> None:
    """Its requests succeed elsewhere, whole or in halves: three such batches are enough."""
    state = make_state(2, batch_sizes=(4,), max_attempts=max_attempts)
    now = number = 0
    for _ in range(3):
        assert health_of(state) == "ready"
        while number < 100:
            commands = drive(state, now, *requests(4, first_id=number))
            number += 4
            ends, _ = _run(
                state,
                commands,
                lambda batch: None if batch.activation.device_id else Fault.INFERENCE,
                now,
            )
            assert set(ends.values()) == {"done"}
            now = state.now  # type: ignore[assignment]
            if places(commands) == [(0, 0)]:
                break

    assert (health_of(state), health_of(state, 1)) == ("quarantined", "ready")


def test_a_device_that_fails_faster_than_it_can_be_proven_is_excluded() -> None:
    """It would draw all the work: twelve failures in a row are enough, whosever fault they are."""
    state = make_state(2, batch_sizes=(1,))
    drive(state, 0.0, Request(0, 1, 0.0), Request(1, 1, 0.0))  # keeps device 1 busy
    failed = 0
    for number in range(2, 40):
        if health_of(state) != "ready":
            break
        drive(state, 0.0, Request(number, 1, 0.0))
        (batch,) = (each for each in state.batches.values() if not each.activation.device_id)
        failed += 1
        drive(state, 0.0, answer(batch, 0.0, failed=True))

    assert (failed, health_of(state)) == (12, "quarantined")


def test_who_cancels_in_time_cannot_frame_a_device() -> None:
    """What is left of the batch succeeds elsewhere, but the culprit is gone: nothing is proven."""
    state = make_state(2, batch_sizes=(2,))
    for number in range(0, 22, 2):
        first, second = requests(2, first_id=number)
        (batch,) = drive(state, 0.0, first, second).dispatch
        drive(state, 0.0, Cancelled(number))
        commands = drive(state, 0.0, answer(batch, 0.0, failed=True))
        _run(state, commands, lambda _batch: None)
        state.now = 0.0

    assert (health_of(state), health_of(state, 1)) == ("ready", "ready")


def test_the_first_failure_on_probation_that_is_the_devices_ends_it() -> None:
    """A culprit's does not; nor does it end the probation for good."""
    state = on_probation(devices=2)
    now = 1.1
    commands = drive(state, now, *requests(2, first_id=1, accepted_at=now))
    _run(state, commands, lambda _batch: Fault.INFERENCE, now)
    assert health_of(state) == "probation"

    now = state.now
    commands = drive(state, now, *requests(4, first_id=3, accepted_at=now))
    assert (0, 0) in places(commands)
    ends, _ = _run(
        state,
        commands,
        lambda batch: None if batch.activation.device_id else Fault.INFERENCE,
        now,
    )
    assert ({*ends.values()}, health_of(state)) == ({"done"}, "quarantined")


# The tenant of a culprit


@pytest.mark.parametrize("fault", BY_REQUESTS)
def test_the_tenant_of_a_culprit_runs_alone_for_a_while(fault: Fault) -> None:
    """Its requests share no inference with others' until ten seconds after its last culprit."""
    state = make_state(batch_sizes=(4,))
    bad = [Request(each, 1, 0.0, tenant="bad" if each % 2 else "good") for each in range(4)]
    _run(state, drive(state, 0.0, *bad), _culprits([1], fault))
    until = state.now + 10.0

    def tenants_at(now: float) -> list[set[str | None]]:
        first_id = 1 + state._last_request_id
        new = [
            Request(first_id + each, 1, now, tenant="bad" if each % 2 else "good")
            for each in range(4)
        ]
        sent = list(drive(state, now, *new).dispatch)
        while state.batches:
            (batch,) = state.batches.values()
            sent += drive(state, now, answer(batch, now)).dispatch
        return [{part.request.tenant for part in batch.parts} for batch in sent]

    assert sorted(tenants_at(until - 0.1), key=str) == [{"bad"}, {"good"}]
    assert tenants_at(until) == [{"bad", "good"}]


def test_rejected_values_isolate_their_tenant_though_the_request_failed_already() -> None:
    """Another part of the same request may fail first, in the same turn of the loop."""
    state = make_state(devices=2, batch_sizes=(1,), max_attempts=1)
    first, second = drive(state, 0.0, Request(0, 2, 0.0, tenant="bad")).dispatch
    answers = answer(first, 1.0, failed=True), Completed(second.id, 1.0, Fault.INPUT)
    commands = drive(state, 1.0, *answers)

    assert outcomes(commands.resolve) == [(0, "failed")]
    assert [*state.admission.queued.tenants.isolated] == ["bad"]


def test_isolation_ends_without_a_device() -> None:
    """The last device is lost when the ten seconds are over."""
    state = make_state()
    batch = drive(state, 0.0, *requests(1, tenant="bad")).dispatch[0]
    drive(state, 0.001, Completed(batch.id, 0.001, Fault.INPUT))
    isolated = state.admission.queued.tenants.isolated
    assert [*isolated] == ["bad"]

    drive(state, 9.0, Request(1, 1, 9.0))
    lose(state, 20.0)

    assert health_of(state) == "quarantined"
    assert not isolated


def test_a_hostile_tenant_takes_no_more_than_its_part_of_the_inferences() -> None:
    """What it costs to find its culprits counts for it: an honest tenant keeps its half."""
    state = make_state(batch_sizes=(8,), max_queue_delay_s=0.0)
    now, next_id, served = 0.0, 0, {"good": 0, "bad": 0}
    for _ in range(2000):
        queued = [each.tenant for each in state.admission.queued]
        for tenant in ("good", "bad"):
            if queued.count(tenant) < 8:
                new = [Request(next_id + each, 1, now, tenant=tenant) for each in range(8)]
                next_id += 8
                drive(state, now, *new)
        (batch,) = state.batches.values()
        tenant = str(batch.parts[0].request.tenant)
        served[tenant] += 1
        now += 0.001
        drive(state, now, lost(batch, now, Fault.INPUT) if tenant == "bad" else answer(batch, now))

    assert served["good"] > 0.45 * sum(served.values())
