"""Speed groups: when a device differs from its group, and which busy activation is free first."""

from __future__ import annotations

import pytest

from qaic_sched.core.execute_times import ExecuteTimes
from qaic_sched.core.model import Activation, Batch
from qaic_sched.core.slot_ledger import SlotLedger
from qaic_sched.core.speed_group import DeviceSpeed, SpeedGroup
from tests.core.harness import (
    answer,
    drive,
    make_state,
    requests,
)


@pytest.mark.parametrize(("ratio", "apart"), [(1.3, False), (1.5, True), (0.8, False), (0.5, True)])
def test_a_device_stands_apart_by_its_ratio(ratio: float, apart: bool) -> None:
    """It differs from its group by more than a third, in either direction."""
    speed = DeviceSpeed(SpeedGroup(ExecuteTimes()))
    for _ in range(10):
        speed.record(ratio)

    assert speed.is_apart(cv2=0.0) == apart


def test_chance_moves_no_device() -> None:
    """A few times far off the mean prove nothing if times vary much, or are too few."""
    speed = DeviceSpeed(SpeedGroup(ExecuteTimes()))
    for _ in range(3):
        speed.record(2.0)
    assert not speed.is_apart(cv2=0.0)
    speed.record(2.0)
    assert speed.is_apart(cv2=0.01)
    assert not speed.is_apart(cv2=1.0)


def _ledger_of(devices: int, num_activations: int = 1, set_size: int = 1) -> SlotLedger:
    ledger = SlotLedger()
    for device_id in range(devices):
        ledger.add_device(device_id, num_activations, set_size)
    return ledger


def _take(ledger: SlotLedger, activation: Activation, now: float) -> None:
    ledger.take(activation, now, Batch(0, activation, 1, 1, [], now))


def _release(ledger: SlotLedger, activation: Activation, at: float) -> None:
    ledger.release(activation.held[0], at)


def test_entries_of_busy_activations_do_not_grow_with_their_work() -> None:
    """While one activation is always idle, busy ones have one unsorted entry each."""
    state = make_state(devices=4, set_size=2)
    (group,) = state.ledger.speeds.groups
    for index in range(1_000):
        now = index * 0.010
        (batch,) = drive(state, now, *requests(1, index, accepted_at=now)).dispatch
        drive(state, now + 0.005, answer(batch, now + 0.005))

    assert (len(group._unsorted), group._busy) == (4, [])
    state.ledger.park(0)
    assert len(group._unsorted) == 3


def test_stale_entries_behind_the_soonest_activation_are_dropped() -> None:
    """The heap stays small while one activation is busy and the others get batch after batch."""
    ledger = _ledger_of(2, set_size=3)
    (group,) = ledger.speeds.groups
    first, second = (ledger.devices[device_id][0] for device_id in range(2))
    _take(ledger, first, 0.0)
    _take(ledger, second, 0.0)
    for now in range(1, 1_001):
        _take(ledger, second, now)
        _release(ledger, second, now)
        assert group.soonest(3, 0.0) is first

    assert len(group._busy) <= 17


def test_the_soonest_activation_is_found_after_many_changes() -> None:
    """After a thousand changes `soonest` returns the activation that is free first."""
    ledger = _ledger_of(3, set_size=3)
    (group,) = ledger.speeds.groups
    first, second, third = (ledger.devices[device_id][0] for device_id in range(3))
    ledger.learn(0, 1, 0.010)
    for activation, now in ((first, 0.002), (second, 0.001), (third, 0.0)):
        _take(ledger, activation, now)
    for now in range(1, 1_001):
        _take(ledger, third, now)
        _release(ledger, third, now)

    assert group.soonest(3, 0.0) is second
    ledger.park(1)
    assert group.soonest(3, 0.0) is first
    _take(ledger, first, 1_001.0)
    assert group.soonest(3, 0.0) is first, "it will still be free before the third"
    ledger.park(0)
    assert group.soonest(3, 0.0) is third
