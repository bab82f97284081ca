"""The checker can fail: a device used although it is unfit, or a batch that is not watched."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qaic_sched.core.events import Completed, DeviceOpened
from qaic_sched.core.execute_times import ExecuteTimes
from qaic_sched.core.health import DeviceState
from qaic_sched.core.invariants import check_invariants
from qaic_sched.core.model import Fault
from qaic_sched.core.speed_group import SpeedGroup
from qaic_sched.core.state import SchedulerState
from qaic_sched.core.timeout_watch import TimeoutWatch
from tests.core.harness import answer, drive, make_state, requests


def _a_state_with_every_health() -> SchedulerState:
    """Return a state whose devices are ready, in quarantine and busy, and on probation.

    Request 3 is in flight on device 0, request 1 on device 1, nothing is queued.
    """
    state = make_state(devices=3, num_activations=2, max_attempts=3)
    held = drive(state, 0.0, *requests(6)).dispatch
    by_device = [[each for each in held if each.activation.device_id == it] for it in range(3)]
    drive(state, 1.0, *(answer(each, 1.0) for each in by_device[0]))
    drive(state, 1.0, *(Completed(each.id, 1.0, Fault.LOST) for each in by_device[2]))
    drive(state, 1.0, DeviceOpened(2, 2, 1), Completed(by_device[1][0].id, 1.0, Fault.LOST))
    health = {device_id: each.state for device_id, each in state.statistics().devices.items()}
    assert health == {0: "ready", 1: "quarantined", 2: "probation"}
    assert len(state.batches) == 4
    return state


def _use_a_device_in_quarantine(state: SchedulerState) -> None:
    state.ledger.readmit(1)


def _use_all_of_a_device_on_probation(state: SchedulerState) -> None:
    state.ledger.readmit(2)


def _use_none_of_a_device_on_probation(state: SchedulerState) -> None:
    state.ledger.park(2)


def _do_not_use_a_device_that_is_ready(state: SchedulerState) -> None:
    state.ledger.park(0)


def _call_a_device_in_quarantine_well(state: SchedulerState) -> None:
    state.health._devices[1].state = DeviceState.READY


def _call_a_device_that_is_ready_bad(state: SchedulerState) -> None:
    state.health._devices[0].state = DeviceState.QUARANTINED


def _end_a_probation_for_health_alone(state: SchedulerState) -> None:
    state.health._devices[2].state = DeviceState.READY


def _miss_a_probe(state: SchedulerState) -> None:
    state.health._devices[1].probe_at = 1.0


def _leave_a_parked_activation_idle(state: SchedulerState) -> None:
    activation = state.ledger.devices[2][1]
    state.ledger.speeds.by_device[2].group.idle[activation] = None


def _miscount_a_group(state: SchedulerState) -> None:
    state.ledger.speeds.by_device[0].group.num_activations += 1


def _keep_an_empty_group(state: SchedulerState) -> None:
    state.ledger.speeds.groups.append(SpeedGroup(ExecuteTimes()))


def _lose_the_group_of_usable_devices(state: SchedulerState) -> None:
    state.ledger.speeds.groups.clear()


def _watch_no_activation(state: SchedulerState) -> None:
    state.stuck_watch = TimeoutWatch(lambda _activation: 60.0)


def _keep_the_parts_of_an_abandoned_batch(state: SchedulerState) -> None:
    next(iter(state.batches.values())).is_abandoned = True


@pytest.mark.parametrize(
    "corrupt",
    [
        _use_a_device_in_quarantine,
        _use_all_of_a_device_on_probation,
        _use_none_of_a_device_on_probation,
        _do_not_use_a_device_that_is_ready,
        _call_a_device_in_quarantine_well,
        _call_a_device_that_is_ready_bad,
        _end_a_probation_for_health_alone,
        _miss_a_probe,
        _leave_a_parked_activation_idle,
        _miscount_a_group,
        _keep_an_empty_group,
        _lose_the_group_of_usable_devices,
        _watch_no_activation,
        _keep_the_parts_of_an_abandoned_batch,
    ],
)
def test_health_that_does_not_fit_is_found(corrupt: Callable[[SchedulerState], None]) -> None:
    """A device used against its health, or not used, and an unwatched batch are found."""
    state = _a_state_with_every_health()
    check_invariants(state)
    corrupt(state)

    with pytest.raises(AssertionError):
        check_invariants(state)


def _park_behind_the_back_of_health(state: SchedulerState) -> None:
    state.ledger.park(0)
    state.health._devices[0].state = DeviceState.QUARANTINED


@pytest.mark.parametrize("what", ["queued", "waiting"])
def test_a_request_without_any_device_is_found(what: str) -> None:
    """A request that is unresolved although no device works is found."""
    state = make_state(max_samples=1)
    drive(state, 0.0, *requests(3 if what == "waiting" else 2))
    _park_behind_the_back_of_health(state)

    with pytest.raises(AssertionError, match="no device works"):
        check_invariants(state)
