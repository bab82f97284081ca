"""Devices that come back: probes, probation, and their speed group."""

from __future__ import annotations

import pytest

from qaic_sched.core.events import Completed, DeviceOpened, ReloadFailed
from qaic_sched.core.model import Fault, Request, RequestState
from qaic_sched.core.placement import has_faster
from qaic_sched.core.slot_ledger import SlotLedger
from qaic_sched.core.state import SchedulerState
from tests.core.harness import (
    answer_all,
    drive,
    health_of,
    lose,
    lost,
    make_state,
    on_probation,
    outcomes,
    places,
    requests,
    serve_one,
)

GONE = [Fault.LOST, Fault.RESTARTED]


def test_probes_come_at_exact_instants_ever_later() -> None:
    """Each is one reload command; the next one counts from the report that it failed."""
    state = make_state(devices=2)
    drive(state, 0.0, Request(0, 1, 0.0))
    lose(state, 1.0)
    answer_all(state, 1.0)
    now = 1.0
    for wait_s in (0.1, 0.2, 0.4, 0.8):
        assert state.next_wakeup() == now + wait_s
        assert drive(state, now + wait_s / 2).reload == []
        now += wait_s
        assert drive(state, now).reload == [0]
        assert (drive(state, now + 5.0).reload, state.next_wakeup()) == ([], None)
        now += 5.0
        drive(state, now, ReloadFailed(0))


def test_a_device_that_came_back_works_with_one_activation_until_it_answered_thrice() -> None:
    """With the third answer the other activations get work in the same step."""
    state = on_probation()
    assert health_of(state) == "probation"
    assert places(drive(state, 2.0, *requests(9, first_id=1))) == [(0, 0)]
    for now in (2.1, 2.2):
        assert places(answer_all(state, now)) == [(0, 0)]
        assert health_of(state) == "probation"

    assert sorted(places(answer_all(state, 2.3))) == [(0, 0), (0, 1), (0, 2)]
    assert health_of(state) == "ready"


def test_a_device_may_come_back_with_another_number_of_activations() -> None:
    """It has the new activations only."""
    state = make_state(devices=1, num_activations=4)
    drive(state, 0.0, Request(0, 1, 0.0))
    lose(state, 1.0)
    drive(state, 1.1, DeviceOpened(0, 2, 1))
    assert state.statistics().devices[0].num_activations == 2
    drive(state, 2.0, *requests(9, first_id=1))
    for now in (2.1, 2.2, 2.3):
        answer_all(state, now)

    assert sorted((each.activation.index) for each in state.batches.values()) == [0, 1]


@pytest.mark.parametrize("fault", [Fault.INFERENCE, *GONE])
@pytest.mark.parametrize("devices", [1, 2])
def test_the_first_failure_on_probation_ends_it_for_longer(fault: Fault, devices: int) -> None:
    """Two answers before it do not matter, and the next probe comes after twice the wait."""
    state = on_probation(devices)
    number = 1
    while health_of(state) == "probation":
        now = 2.0 + number / 100
        (batch,) = drive(state, now, Request(number, 1, now)).dispatch
        is_third = batch.activation.device_id == 0 and number > 5 * (devices - 1)
        drive(state, now, Completed(batch.id, now, fault if is_third else None))
        answer_all(state, now)
        number += 1

    assert health_of(state) == "quarantined"
    assert state.next_wakeup() == now + 0.2


def test_a_failed_probation_leaves_no_usable_activation() -> None:
    """Only its one activation in use is subtracted, not all three."""
    state = on_probation()
    drive(state, 2.0, Request(1, 1, 2.0))
    assert outcomes(lose(state, 2.1).resolve) == [(1, "failed")]

    assert outcomes(drive(state, 2.2, Request(2, 1, 2.2)).resolve) == [(2, "failed")]


def test_a_completed_probation_resets_the_time_to_the_probe() -> None:
    """Three answers reset the wait."""
    state = on_probation()
    for number in (1, 2, 3):
        assert serve_one(state, 2.0, number, None) == "done"
    drive(state, 3.0, Request(4, 1, 3.0))
    lose(state, 3.0)

    assert state.next_wakeup() == 3.1


def test_a_stuck_device_comes_back_once_it_has_answered() -> None:
    """Closing it answers all batches; then it starts afresh."""
    state = make_state(devices=1, set_size=2, dispatch_timeout_s=2.0)
    drive(state, 0.0, *requests(2))
    assert outcomes(drive(state, 2.0).resolve) == [(0, "failed"), (1, "failed")]
    assert drive(state, 2.1).reload == [0]
    back = [lost(each, 2.2) for each in state.batches.values()]
    drive(state, 2.2, *back, DeviceOpened(0, 1, 2))

    assert health_of(state) == "probation"
    for number in (2, 3, 4):
        assert serve_one(state, 3.0, number, None) == "done"
    assert health_of(state) == "ready"


def test_a_device_on_probation_can_be_stuck() -> None:
    """It is watched like any other device."""
    state = on_probation(dispatch_timeout_s=2.0)
    drive(state, 5.0, Request(1, 1, 5.0))
    assert state.next_wakeup() == 7.0
    assert outcomes(drive(state, 7.0).resolve) == [(1, "failed")]

    assert (health_of(state), state.next_wakeup()) == ("quarantined", 7.2)


# Health and speed together


def _with_a_slow_device(num_activations: int = 1) -> SchedulerState:
    """Return a state whose devices take 10, 10 and 50 ms; all answers came by 0.99."""
    state = make_state(devices=3, num_activations=num_activations)
    for _ in range(40):
        for device_id, execute_s in ((0, 0.01), (1, 0.01), (2, 0.05)):
            state.ledger.learn(device_id, 1, execute_s)
    assert has_faster(state.ledger, state.ledger.devices[2][0])
    return state


def test_fast_devices_that_come_back_are_the_fast_ones_again() -> None:
    """The slow device serves in their absence, and is last again when they are back."""
    state = _with_a_slow_device()
    drive(state, 1.0, *requests(2))
    lose(state, 1.0, 0)
    lose(state, 1.0, 1)
    assert [each.device_id for each in state.ledger if not each.is_parked] == [2]
    answer_all(state, 1.05)
    answer_all(state, 1.1)
    drive(state, 1.2, DeviceOpened(0, 1, 1), DeviceOpened(1, 1, 1))

    assert sorted(places(drive(state, 1.3, *requests(2, first_id=2)))) == [(0, 0), (1, 0)]
    assert has_faster(state.ledger, state.ledger.devices[2][0])


def test_a_quarantined_device_may_still_change_groups() -> None:
    """Its last answers are learned from; it moves to its group and stays parked meanwhile."""
    ledger = SlotLedger()
    for device_id in range(3):
        ledger.add_device(device_id, 2, 1)
    for _ in range(40):
        for device_id in range(3):
            ledger.learn(device_id, 1, 0.01)
    ledger.park(1)
    for _ in range(200):
        ledger.learn(1, 1, 0.03)
        ledger.check()
    assert all(each.is_parked for each in ledger.devices[1])
    assert ledger.speeds.by_device[1].group.times.likely_s(1) == pytest.approx(0.03, rel=0.2)

    ledger.reopen(1, 2)
    ledger.check()
    assert [has_faster(ledger, ledger.devices[each][0]) for each in range(3)] == [
        False,
        True,
        False,
    ]


def test_a_group_may_move_while_one_of_its_devices_is_parked() -> None:
    """The parked device moves as well, and comes back in the right group."""
    state = _with_a_slow_device()
    drive(state, 1.0, *requests(1))
    device_id = next(iter(state.batches.values())).activation.device_id
    lose(state, 1.0, device_id)
    for _ in range(2000):
        state.ledger.learn(1 - device_id, 1, 0.05)
        state.ledger.check()
    assert len({has_faster(state.ledger, each) for each in state.ledger if not each.is_parked}) == 1
    answer_all(state, 1.05)
    drive(state, 1.2, DeviceOpened(device_id, 1, 1))

    assert health_of(state, device_id) == "probation"
    assert len(drive(state, 1.3, *requests(3, first_id=1)).dispatch) == 3


def test_an_activation_from_before_a_reload_is_not_chosen() -> None:
    """It had a free slot, and a heap entry for the time when it would be free."""
    state = make_state(set_size=2)
    drive(state, 0.0, Request(0, 1, 0.0))
    (old,) = state.ledger.devices[0]
    lose(state, 1.0)
    drive(state, 1.1, DeviceOpened(0, 1, 2))
    commands = drive(state, 2.0, *requests(2, first_id=1))

    assert len(commands.dispatch) == 2
    assert old not in {each.activation for each in commands.dispatch}
    assert [each.parts[0].request.state for each in commands.dispatch] == [
        RequestState.IN_FLIGHT
    ] * 2
