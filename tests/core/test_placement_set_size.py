"""How much an activation is given ahead: no more than keeps it at work, whatever `set_size` is."""

from __future__ import annotations

import pytest

from qaic_sched.core.model import Activation, Batch
from qaic_sched.core.placement import choose
from qaic_sched.core.slot_ledger import SlotLedger


def _ledger_of(devices: int, set_size: int, *times_s: float) -> SlotLedger:
    """Return a ledger of devices that have all had these execution times."""
    ledger = SlotLedger()
    for device_id in range(devices):
        ledger.add_device(device_id, 1, set_size)
    for execute_s in times_s:
        for device_id in range(devices):
            ledger.learn(device_id, 1, execute_s)
    return ledger


def _irregular(devices: int, set_size: int) -> SlotLedger:
    """Return devices that take 10 s per inference on average, and vary by as much."""
    return _ledger_of(devices, set_size, *(1.0, 28.0, 1.0) * 40)


def _mean_s(ledger: SlotLedger) -> float:
    return ledger.speeds.groups[0].times.mean_s(1)


def _take(ledger: SlotLedger, activation: Activation, now: float) -> None:
    ledger.take(activation, now, Batch(0, activation, 1, 1, [], now))


def _chosen(ledger: SlotLedger, now: float, batches: int) -> Activation | None:
    return choose(ledger, now, 1, batches)[0]


@pytest.mark.parametrize("set_size", [2, 3, 10])
def test_an_activation_that_holds_two_hides_none_that_holds_one(set_size: int) -> None:
    """It is expected to be free first, but gets no third batch."""
    ledger = _irregular(4, set_size)
    first, *others = ledger
    for _ in range(2):
        _take(ledger, first, 100.0)
    for each in others:
        _take(ledger, each, 101.0 + _mean_s(ledger))
    now = 102.0 + _mean_s(ledger)
    second = []
    while (activation := _chosen(ledger, now, 4)) is not None:
        _take(ledger, activation, now)
        second.append(activation)

    assert second == others


def test_irregular_devices_get_a_second_batch_once_a_quarter_as_many_are_queued() -> None:
    """It goes behind the batch that began first, but never behind an overdue one."""
    ledger = _irregular(5, 10)
    mean_s = _mean_s(ledger)
    first, second, *others = ledger
    _take(ledger, first, 100.0)
    for each in (second, *others):
        _take(ledger, each, 101.0)

    assert choose(ledger, 102.0, 1, 1) == (None, float("inf"))
    assert _chosen(ledger, 102.0, 2) is first
    assert _chosen(ledger, 100.5 + mean_s, 2) is second
    assert _chosen(ledger, 101.5 + mean_s, 2) is None


def test_regular_devices_get_no_third_batch() -> None:
    """Two batches hide the host's turnaround, however overdue the first one is."""
    ledger = _ledger_of(1, 10, *[10.0] * 60)
    (activation,) = ledger
    for _ in range(2):
        _take(ledger, activation, 100.0)

    assert _chosen(ledger, 119.0, 1) is None


def test_inferences_that_take_no_time_are_committed_to_any_depth() -> None:
    """Nothing bounds the depth where the mean is 0, or as small as a float can be."""
    ledger = _ledger_of(1, 10, *[0.0] * 60)
    (activation,) = ledger
    while _chosen(ledger, 0.0, 1) is not None:
        _take(ledger, activation, 0.0)

    assert activation.in_flight == 10
    assert ledger.speeds.groups[0].depth(1e-310) > 10


def test_short_inferences_are_committed_as_deep_as_a_timer_is_coarse() -> None:
    """A timer of 1 ms takes four inferences of 0.3 ms, and the one that runs."""
    ledger = _ledger_of(1, 10, *[0.0003] * 60)
    (activation,) = ledger
    _take(ledger, activation, 100.0)
    while _chosen(ledger, 100.0005, 9) is not None:
        _take(ledger, activation, 100.0005)

    assert activation.in_flight == 5
