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
    """What was queued goes to them in the same call."""
    state = make_state()
    drive(state, 0.0, *requests(4))
    commands = drive(state, 1.0, ActivationsAdded(0, (1, 2)))

    assert places(commands) == [(0, 1), (0, 2)]
    assert state.statistics().devices[0].num_activations == 3


def test_activations_that_hold_nothing_go_at_once() -> None:
    """One command names them, once; nothing is sent to them again."""
    state = make_state(num_activations=3)
    commands = drive(state, 0.0, _retire(0, 1, 2))
    assert commands.unload == ((0, (1, 2)),)

    commands = drive(state, 0.0, *requests(3))
    assert places(commands) == [(0, 0)]
    assert commands.unload == ()


def test_activations_finish_what_they_hold_and_go_together() -> None:
    """The last answer of them says so; meanwhile they get nothing."""
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


def test_a_device_finishes_what_it_holds_and_goes() -> None:
    """Then it is closed, forgotten, and may come back as new."""
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


def test_the_last_that_works_goes_on_until_another_does() -> None:
    """What was to be given back serves on while the rest is in quarantine."""
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


def test_what_serves_on_may_have_idled_or_worked() -> None:
    """Of two activations that retire one holds a batch: both serve on when the rest is lost."""
    state = make_state(devices=2, num_activations=2, set_size=2)
    first = drive(state, 0.0, *requests(4)).dispatch
    drive(state, 0.5, DeviceRetired(0))
    idle = next(each for each in first if each.activation.device_id == 0)
    drive(state, 0.6, answer(idle, 0.6))
    commands = lose(state, 1.0, 1)

    assert [each[0] for each in places(commands)] == [0, 0]
    assert drive(state, 1.0, *requests(4, 4)).resolve == []
    assert len(held_by(state, 0)) == 4


def test_a_device_in_quarantine_that_holds_nothing_goes_at_once() -> None:
    """It is not probed any more."""
    state = make_state(devices=2)
    drive(state, 0.0, *requests(2))
    lose(state, 1.0)
    commands = drive(state, 1.05, DeviceRetired(0))

    assert (commands.close, commands.reload) == ((0,), [])
    answer_all(state, 1.06)
    assert state.next_wakeup() is None or drive(state, 50.0).reload == []


def test_a_stuck_device_is_closed_instead_of_probed() -> None:
    """It stays visible until it has answered what it holds, then it is forgotten."""
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
    """However it ends, nobody has to close what is being loaded."""
    state = make_state(devices=2)
    drive(state, 0.0, *requests(2))
    lose(state, 1.0)
    assert drive(state, 1.1).reload == [0]
    assert drive(state, 1.2, DeviceRetired(0)).close == ()
    commands = drive(state, 1.3, DeviceOpened(0, 1, 1) if is_open else ReloadFailed(0))

    assert commands.close == (0,)
    assert list(state.statistics().devices) == [1]


def test_activations_of_a_device_in_quarantine_go_with_its_reload() -> None:
    """The reload makes those that are wanted; nothing is left to unload."""
    state = make_state(devices=2, num_activations=2, set_size=1)
    drive(state, 0.0, *requests(4))
    drive(state, 0.5, _retire(0, 1))
    lose(state, 1.0)
    assert drive(state, 1.1).reload == [0]
    commands = drive(state, 1.2, DeviceOpened(0, 1, 1))

    assert (commands.unload, state.ledger.retiring) == ((), {})
    assert state.statistics().devices[0].num_activations == 1


def test_a_retiring_activation_that_hangs_is_noticed_behind_its_first_answer() -> None:
    """Its second batch begins with the answer to the first, and is tried elsewhere in time."""
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


def test_on_probation_one_activation_works_whichever_goes() -> None:
    """Where the one that works is to go, another takes its place; new ones wait for the end."""
    state = on_probation(devices=2, num_activations=3)
    drive(state, 1.2, ActivationsAdded(0, (3,)))
    assert drive(state, 1.2, _retire(0, 0)).unload == ((0, (0,)),)
    commands = drive(state, 1.3, *requests(5, 6, accepted_at=1.3))

    assert [each for each in places(commands) if each[0] == 0] == [(0, 1)]


def test_nothing_is_added_to_use_in_quarantine() -> None:
    """What was loaded as the device failed waits, and goes, with the rest of it."""
    state = make_state(devices=2, set_size=1)
    drive(state, 0.0, *requests(4))
    lose(state, 1.0)
    commands = drive(state, 1.0, ActivationsAdded(0, (1,)))

    assert places(commands) == []


UNFIT: dict[str, Event] = {
    "more on no device": ActivationsAdded(7, (1,)),
    "the same once more": ActivationsAdded(0, (1,)),
    "twice the same": ActivationsAdded(0, (2, 2)),
    "nothing more": ActivationsAdded(0, ()),
    "all of a device": ActivationsRetired(0, (0, 1)),
    "none of a device": ActivationsRetired(0, ()),
    "what is not there": ActivationsRetired(0, (5,)),
    "activations of no device": ActivationsRetired(7, (0,)),
    "no device": DeviceRetired(7),
    "no slots": SetSizeChanged(0),
    "other sizes": PolicyChanged(Policy(batch_sizes=(1, 2))),
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_does_not_fit_is_refused_and_changes_nothing(what: str) -> None:
    """Each is the shell's mistake."""
    state = make_state(num_activations=2)
    with pytest.raises(InternalError, match="does not fit"):
        drive(state, 0.0, UNFIT[what])

    assert places(drive(state, 0.0, *requests(3))) == [(0, 0), (0, 1)]


@pytest.mark.parametrize(
    "event", [ActivationsAdded(0, (5,)), _retire(0, 1), DeviceRetired(0), PolicyChanged(Policy())]
)
def test_nothing_changes_after_the_close(event: Event) -> None:
    """Everything is given back by then."""
    state = make_state(num_activations=2)
    drive(state, 0.0, Closed())
    with pytest.raises(InternalError, match="does not fit"):
        drive(state, 0.0, event)


def test_a_device_that_comes_back_after_it_was_removed_is_new() -> None:
    """Slow answers from before it went are not held against it."""
    state = make_state(devices=2)
    state.outliers.streaks[1] = (4, 0)
    assert drive(state, 1.0, DeviceRetired(1)).close == (1,)

    drive(state, 2.0, DeviceOpened(1, 1, 1))
    assert state.outliers.streaks == {}


def test_what_is_late_is_not_sent_to_a_device_that_is_to_go() -> None:
    """Not even when it comes back from a reload just then."""
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


def test_a_device_that_is_to_go_may_hang_together_with_the_last_that_works() -> None:
    """Nobody works then; it goes once it has answered what it holds."""
    state = make_state(devices=2, dispatch_timeout_s=2.0)
    drive(state, 0.0, *requests(2))
    first, second = state.batches.values()
    drive(state, 0.5, DeviceRetired(1))
    assert outcomes(drive(state, 2.0).resolve) == [(0, "failed"), (1, "failed")]
    assert [health_of(state, each) for each in (0, 1)] == ["quarantined"] * 2

    drive(state, 2.01, answer(first, 2.01))
    assert drive(state, 2.02, answer(second, 2.02)).close == (1,)


def test_after_the_close_the_last_that_works_may_be_lost() -> None:
    """Nobody needs what was to be given back then."""
    state = make_state(devices=2)
    drive(state, 0.0, *requests(2))
    drive(state, 0.0, DeviceRetired(1), Closed())
    assert lose(state, 1.0).dispatch == []

    assert health_of(state) == "quarantined"


def test_after_the_close_nothing_is_asked_to_go() -> None:
    """The answers of what was retiring free their slots, no more."""
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
def test_the_checker_finds_what_retires_wrongly(corrupt: Callable[[SchedulerState], None]) -> None:
    """Each corruption of one field is an assertion."""
    state = make_state(devices=2, num_activations=2)
    drive(state, 0.0, *requests(4))
    drive(state, 0.5, _retire(0, 1))
    corrupt(state)

    with pytest.raises(AssertionError):
        check_invariants(state)
