"""Live changes of activations and devices."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qaic_sched.core.events import (
    ActivationsAdded,
    ActivationsRetired,
    Closed,
    Completed,
    DeviceOpened,
    DeviceRetired,
    Event,
    PolicyChanged,
    ReloadFailed,
    SetSizeChanged,
)
from qaic_sched.core.invariants import check_invariants
from qaic_sched.core.model import Fault, Policy, Request
from qaic_sched.core.state import SchedulerState
from qaic_sched.errors import InternalError
from tests.core.harness import (
    answer,
    answer_all,
    drive,
    health_of,
    held_by,
    lose,
    lost,
    make_state,
    on_probation,
    outcomes,
    places,
    requests,
)


def _retire(device_id: int, *indexes: int) -> ActivationsRetired:
    return ActivationsRetired(device_id, indexes)


def test_activations_that_are_added_get_work_at_once() -> None:
    """They get queued requests in the same call."""
    state = make_state()
    drive(state, 0.0, *requests(4))
    commands = drive(state, 1.0, ActivationsAdded(0, (1, 2)))

    assert places(commands) == [(0, 1), (0, 2)]
    assert state.statistics().devices[0].num_activations == 3


def test_idle_activations_are_released_at_once() -> None:
    """One command lists them, once, and they get no more work."""
    state = make_state(num_activations=3)
    commands = drive(state, 0.0, _retire(0, 1, 2))
    assert commands.unload == ((0, (1, 2)),)

    commands = drive(state, 0.0, *requests(3))
    assert places(commands) == [(0, 0)]
    assert commands.unload == ()


def test_busy_activations_drain_and_are_released_together() -> None:
    """They get no more work, and their last answer releases them."""
    state = make_state(num_activations=3, set_size=2)
    drive(state, 0.0, *requests(6))
    held = {each.activation.index: each for each in held_by(state, 0)[:3]}
    assert drive(state, 1.0, _retire(0, 1, 2)).unload == ()
    assert drive(state, 2.0, answer(held[1], 2.0), *requests(1, 6)).unload == ()
    others = [each for each in held_by(state, 0) if each.activation.index]
    commands = drive(state, 3.0, *(answer(each, 3.0) for each in others))

    assert commands.unload == ((0, (1, 2)),)
    assert len(commands.resolve) == 3
    answer_all(state, 4.0)
    answer_all(state, 5.0)
    assert state.statistics().done == 7


def test_a_busy_device_drains_and_is_closed() -> None:
    """It is closed and forgotten, and may come back as a new device."""
    state = make_state(devices=2)
    drive(state, 0.0, *requests(4))
    assert drive(state, 1.0, DeviceRetired(0)).close == ()
    assert health_of(state) == "retiring"
    (batch,) = held_by(state, 0)
    commands = drive(state, 2.0, answer(batch, 2.0))

    assert commands.close == (0,)
    assert places(commands) == []
    assert list(state.statistics().devices) == [1]
    assert places(drive(state, 3.0, DeviceOpened(0, 1, 1))) == [(0, 0)]
    assert health_of(state) == "ready"


def test_the_last_working_device_stays_in_use() -> None:
    """A device to be removed serves while all others are in quarantine."""
    state = make_state(devices=2)
    drive(state, 0.0, *requests(2))
    drive(state, 0.5, DeviceRetired(0), Request(2, 1, 0.5))
    lose(state, 1.0, 1)
    assert (health_of(state), health_of(state, 1)) == ("retiring", "quarantined")
    commands = drive(state, 1.0, answer(held_by(state, 0)[0], 1.0))
    assert (places(commands), commands.close) == ([(0, 0)], ())

    assert drive(state, 1.1).reload == [1]
    assert drive(state, 1.2, DeviceOpened(1, 1, 1)).close == ()
    commands = drive(state, 1.3, answer(held_by(state, 0)[0], 1.3))
    assert commands.close == (0,)


def test_recalled_activations_may_be_idle_or_busy() -> None:
    """Of two retiring activations one is busy; both serve when the other device is lost."""
    state = make_state(devices=2, num_activations=2, set_size=2)
    first = drive(state, 0.0, *requests(4)).dispatch
    drive(state, 0.5, DeviceRetired(0))
    idle = next(each for each in first if each.activation.device_id == 0)
    drive(state, 0.6, answer(idle, 0.6))
    commands = lose(state, 1.0, 1)

    assert [each[0] for each in places(commands)] == [0, 0]
    assert drive(state, 1.0, *requests(4, 4)).resolve == []
    assert len(held_by(state, 0)) == 4


def test_an_idle_device_in_quarantine_is_closed_at_once() -> None:
    """It is no longer probed."""
    state = make_state(devices=2)
    drive(state, 0.0, *requests(2))
    lose(state, 1.0)
    commands = drive(state, 1.05, DeviceRetired(0))

    assert (commands.close, commands.reload) == ((0,), [])
    answer_all(state, 1.06)
    assert state.next_wakeup() is None or drive(state, 50.0).reload == []


def test_a_stuck_device_is_closed_instead_of_probed() -> None:
    """The statistics list it until it has answered all its batches."""
    state = make_state(devices=2, dispatch_timeout_s=1.0)
    drive(state, 0.0, *requests(2))
    (stuck,) = held_by(state, 0)
    drive(state, 0.5, answer(held_by(state, 1)[0], 0.5), DeviceRetired(0))
    commands = drive(state, 1.0)
    assert (places(commands), commands.close) == ([(1, 0)], ())
    assert health_of(state) == "quarantined"
    assert drive(state, 1.1).close == (0,)
    assert state.statistics().devices[0].in_flight == 1

    assert drive(state, 2.0, lost(stuck, 2.0)).close == ()
    assert list(state.statistics().devices) == [1]


@pytest.mark.parametrize("is_open", [True, False])
def test_a_reload_ends_before_the_device_is_closed(is_open: bool) -> None:
    """A device is never closed during its reload, which may succeed or fail."""
    state = make_state(devices=2)
    drive(state, 0.0, *requests(2))
    lose(state, 1.0)
    assert drive(state, 1.1).reload == [0]
    assert drive(state, 1.2, DeviceRetired(0)).close == ()
    commands = drive(state, 1.3, DeviceOpened(0, 1, 1) if is_open else ReloadFailed(0))

    assert commands.close == (0,)
    assert list(state.statistics().devices) == [1]


def test_activations_of_a_device_in_quarantine_go_with_its_reload() -> None:
    """The reload makes only the wanted ones; nothing is left to unload."""
    state = make_state(devices=2, num_activations=2, set_size=1)
    drive(state, 0.0, *requests(4))
    drive(state, 0.5, _retire(0, 1))
    lose(state, 1.0)
    assert drive(state, 1.1).reload == [0]
    commands = drive(state, 1.2, DeviceOpened(0, 1, 1))

    assert (commands.unload, state.ledger.retiring) == ((), {})
    assert state.statistics().devices[0].num_activations == 1


def test_a_retiring_activation_that_hangs_is_noticed_behind_its_first_answer() -> None:
    """Its second batch starts with the answer to the first, and is retried elsewhere in time."""
    state = make_state(devices=2, num_activations=2, set_size=2, dispatch_timeout_s=1.0)
    drive(state, 0.0, *requests(8))
    drive(state, 0.0, _retire(0, 1))
    others = [each for each in state.batches.values() if each.activation.index == 0]
    others += [each for each in held_by(state, 1) if each.activation.index == 1]
    first, second = (each for each in held_by(state, 0) if each.activation.index == 1)
    drive(state, 0.9, *(answer(each, 0.9) for each in others), answer(first, 0.9))

    assert drive(state, 1.5).dispatch == []
    assert len(drive(state, 1.9).dispatch) == 1
    assert (second.is_abandoned, health_of(state)) == (True, "quarantined")


def test_on_probation_another_activation_replaces_a_retired_one() -> None:
    """Added activations wait for the end of the probation."""
    state = on_probation(devices=2, num_activations=3)
    drive(state, 1.2, ActivationsAdded(0, (3,)))
    assert drive(state, 1.2, _retire(0, 0)).unload == ((0, (0,)),)
    commands = drive(state, 1.3, *requests(5, 6, accepted_at=1.3))

    assert [each for each in places(commands) if each[0] == 0] == [(0, 1)]


def test_activations_added_in_quarantine_are_not_used() -> None:
    """They wait like the others, and go with the reload."""
    state = make_state(devices=2, set_size=1)
    drive(state, 0.0, *requests(4))
    lose(state, 1.0)
    commands = drive(state, 1.0, ActivationsAdded(0, (1,)))

    assert places(commands) == []


UNFIT: dict[str, Event] = {
    "activations of an unknown device": ActivationsAdded(7, (1,)),
    "indexes that exist": ActivationsAdded(0, (1,)),
    "an index twice": ActivationsAdded(0, (2, 2)),
    "no indexes": ActivationsAdded(0, ()),
    "all activations": ActivationsRetired(0, (0, 1)),
    "retired: no indexes": ActivationsRetired(0, ()),
    "an unknown index": ActivationsRetired(0, (5,)),
    "retired: an unknown device": ActivationsRetired(7, (0,)),
    "an unknown device": DeviceRetired(7),
    "no slots": SetSizeChanged(0),
    "other compiled sizes": PolicyChanged(Policy(batch_sizes=(1, 2))),
}


@pytest.mark.parametrize("what", UNFIT)
def test_a_live_change_that_does_not_fit_raises_and_changes_nothing(what: str) -> None:
    """Each of these events is a mistake of the shell."""
    state = make_state(num_activations=2)
    with pytest.raises(InternalError, match="does not fit"):
        drive(state, 0.0, UNFIT[what])

    assert places(drive(state, 0.0, *requests(3))) == [(0, 0), (0, 1)]


@pytest.mark.parametrize(
    "event", [ActivationsAdded(0, (5,)), _retire(0, 1), DeviceRetired(0), PolicyChanged(Policy())]
)
def test_nothing_changes_after_the_close(event: Event) -> None:
    """Live changes raise after a close."""
    state = make_state(num_activations=2)
    drive(state, 0.0, Closed())
    with pytest.raises(InternalError, match="does not fit"):
        drive(state, 0.0, event)


def test_a_device_that_comes_back_after_it_was_removed_is_new() -> None:
    """Its earlier slow answers do not count."""
    state = make_state(devices=2)
    state.outliers.streaks[1] = (4, 0)
    assert drive(state, 1.0, DeviceRetired(1)).close == (1,)

    drive(state, 2.0, DeviceOpened(1, 1, 1))
    assert state.outliers.streaks == {}


def test_no_hedge_goes_to_a_device_to_be_removed() -> None:
    """This holds even when it comes back from a reload in the same call."""
    state = make_state(devices=3, hedge_after=3.0, hedge_max_extra=1.0)
    drive(state, 0.0, *requests(3))
    answer_all(state, 0.1)
    drive(state, 1.0, *requests(3, first_id=3, accepted_at=1.0))
    lose(state, 1.01, device_id=2)
    commands = drive(state, 1.2, DeviceRetired(2))
    assert commands.reload == [2]

    drive(state, 1.4)
    assert len(state.hedging.unhedged) == 2
    assert drive(state, 1.41, DeviceOpened(2, 1, 1)).dispatch == []


def test_a_device_to_be_removed_may_hang_with_the_last_one() -> None:
    """No device works then; it is closed once it has answered its batches."""
    state = make_state(devices=2, dispatch_timeout_s=2.0)
    drive(state, 0.0, *requests(2))
    first, second = state.batches.values()
    drive(state, 0.5, DeviceRetired(1))
    assert outcomes(drive(state, 2.0).resolve) == [(0, "failed"), (1, "failed")]
    assert [health_of(state, each) for each in (0, 1)] == ["quarantined"] * 2

    drive(state, 2.01, answer(first, 2.01))
    assert drive(state, 2.02, answer(second, 2.02)).close == (1,)


def test_after_the_close_the_last_working_device_may_be_lost() -> None:
    """The device to be removed is no longer needed."""
    state = make_state(devices=2)
    drive(state, 0.0, *requests(2))
    drive(state, 0.0, DeviceRetired(1), Closed())
    assert lose(state, 1.0).dispatch == []

    assert health_of(state) == "quarantined"


def test_after_the_close_nothing_is_released() -> None:
    """Answers of retiring devices only free their slots."""
    state = make_state(devices=2)
    held = drive(state, 0.0, *requests(2)).dispatch
    drive(state, 0.5, DeviceRetired(0))
    drive(state, 1.0, Closed())
    commands = drive(state, 1.1, *(Completed(each.id, 1.1, Fault.LOST) for each in held))

    assert (commands.close, commands.unload, len(state.batches)) == ((), (), 0)


def _retire_and_choose(state: SchedulerState) -> None:
    state.ledger.devices[0][1].is_parked = False


def _retire_for_ever(state: SchedulerState) -> None:
    state.ledger.retiring.clear()


def _retire_what_is_gone(state: SchedulerState) -> None:
    state.ledger.devices[0].pop()


def _never_close(state: SchedulerState) -> None:
    state.ledger.leaving[1] = False


@pytest.mark.parametrize(
    "corrupt", [_retire_and_choose, _retire_for_ever, _retire_what_is_gone, _never_close]
)
def test_the_checker_finds_corrupted_retirement(corrupt: Callable[[SchedulerState], None]) -> None:
    """Each corruption of one field is an `AssertionError`."""
    state = make_state(devices=2, num_activations=2)
    drive(state, 0.0, *requests(4))
    drive(state, 0.5, _retire(0, 1))
    corrupt(state)

    with pytest.raises(AssertionError):
        check_invariants(state)
