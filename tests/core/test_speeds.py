"""Devices that change speed groups."""

from __future__ import annotations

from qaic_sched.core.model import Activation, Batch
from qaic_sched.core.placement import has_faster
from qaic_sched.core.slot_ledger import SlotLedger


def _ledger_of(devices: int, num_activations: int = 1, set_size: int = 1) -> SlotLedger:
    ledger = SlotLedger()
    for device_id in range(devices):
        ledger.add_device(device_id, num_activations, set_size)
    return ledger


def _take(ledger: SlotLedger, activation: Activation, now: float) -> None:
    ledger.take(activation, now, Batch(0, activation, 1, 1, [], now))


def _release(ledger: SlotLedger, activation: Activation, at: float) -> None:
    ledger.release(activation.held[0], at)


def _learned(slow: float = 1.0, devices: int = 3, set_size: int = 2) -> SlotLedger:
    """Devices that take 10 s an inference, the last of them `slow` times as long."""
    ledger = _ledger_of(devices, set_size=set_size)
    for _ in range(300):
        for device_id in range(devices):
            is_last = device_id == devices - 1
            ledger.learn(device_id, 1, 10.0 * (slow if is_last else 1.0))
    ledger.check()
    return ledger


def test_a_device_that_recovers_joins_the_others_again() -> None:
    """Its new times differ from its group's and match the first group's."""
    ledger = _learned(slow=3.0)
    slow = ledger.devices[2][0]
    for _ in range(100):
        ledger.learn(2, 1, 10.0)
    ledger.check()

    assert not has_faster(ledger, slow)


def test_a_device_may_change_groups_with_work_in_hand() -> None:
    """Its batches are answered, and its slots are found in the new group."""
    ledger = _learned(set_size=2)
    busy = ledger.devices[2][0]
    _take(ledger, busy, 0.0)
    for _ in range(30):
        ledger.learn(2, 1, 40.0)
        ledger.check()
    assert has_faster(ledger, busy)
    _release(ledger, busy, 40.0)
    ledger.check()
