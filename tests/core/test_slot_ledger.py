"""The slot ledger: what it lists, what it holds, and what its check finds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qaic_sched.core.model import Batch, DeviceStatistics
from qaic_sched.core.slot_ledger import SlotLedger
from tests.core.harness import (
    answer_all,
    drive,
    make_activation,
    make_state,
    requests,
)


def _ledger_of(devices: int, num_activations: int = 1, set_size: int = 1) -> SlotLedger:
    ledger = SlotLedger()
    for device_id in range(devices):
        ledger.add_device(device_id, num_activations, set_size)
    return ledger


def test_the_ledger_lists_activations_by_device_and_index() -> None:
    """Iteration follows the order of opening, whatever is held."""
    ledger = _ledger_of(2, num_activations=2)

    assert [(each.device_id, each.index) for each in ledger] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert ledger.num_activations == 4


def test_statistics_list_each_device_with_its_load() -> None:
    """They have activations and batches in flight by device id."""
    state = make_state(devices=2, num_activations=2, set_size=2)
    drive(state, 0.0, *requests(5))
    statistics = state.statistics().devices

    assert statistics == {0: DeviceStatistics("ready", 2, 3), 1: DeviceStatistics("ready", 2, 2)}
    answer_all(state, 1.0)
    assert [each.in_flight for each in state.statistics().devices.values()] == [0, 0]


def _is_called_busy(ledger: SlotLedger) -> None:
    activation = ledger.devices[0][0]
    activation.held = [Batch(0, activation, 1, 1, [], 0.0)]


def _is_missing(ledger: SlotLedger) -> None:
    ledger.speeds.groups[0].idle.popitem()


def _is_a_stranger(ledger: SlotLedger) -> None:
    ledger.speeds.groups[0].idle[make_activation(9, 0)] = None


def _holds_more_than_set_size(ledger: SlotLedger) -> None:
    ledger.speeds.groups[0].idle.popitem()
    activation = ledger.devices[1][0]
    activation.held = [Batch(0, activation, 1, 1, [], 0.0)] * 3


def _is_of_no_group(ledger: SlotLedger) -> None:
    ledger.speeds.groups.clear()


@pytest.mark.parametrize(
    "corrupt",
    [
        _is_called_busy,
        _is_missing,
        _is_a_stranger,
        _holds_more_than_set_size,
        _is_of_no_group,
    ],
)
def test_the_check_finds_a_corrupted_ledger(corrupt: Callable[[SlotLedger], None]) -> None:
    """Each way to lose or to double a slot is an `AssertionError`."""
    ledger = _ledger_of(2, set_size=2)
    ledger.check()
    corrupt(ledger)

    with pytest.raises(AssertionError):
        ledger.check()
