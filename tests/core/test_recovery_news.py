"""Device news: what another model has learned about a device, and what this one tells."""

from __future__ import annotations

import pytest

from qaic_sched.core.events import Closed, Completed, DeviceOpened, DeviceReported, ReloadFailed
from qaic_sched.core.model import DeviceNews, Fault, Request
from qaic_sched.core.state import SchedulerState
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
    serve_one,
)

LOST, RESTARTED, SLOW = DeviceNews.LOST, DeviceNews.RESTARTED, DeviceNews.SLOW
RELOADED, READY = DeviceNews.RELOADED, DeviceNews.READY


def _report(state: SchedulerState, now: float, news: DeviceNews, device_id: int = 0) -> list[int]:
    """Report a device; return the devices to reload."""
    return drive(state, now, DeviceReported(device_id, news)).reload


# What it is told


@pytest.mark.parametrize("news", [LOST, RESTARTED])
def test_a_device_that_another_model_has_lost_gets_no_work(news: DeviceNews) -> None:
    """Its batches are sent elsewhere at once, without costing an attempt, and keep their slots."""
    state = make_state(devices=2, set_size=2, max_attempts=2)
    drive(state, 0.0, *requests(2))
    (batch,) = held_by(state, 0)
    commands = drive(state, 1.0, DeviceReported(0, news))

    assert (places(commands), commands.resolve) == ([(1, 0)], [])
    assert (health_of(state), batch.is_abandoned, commands.news) == ("quarantined", True, ())
    assert drive(state, 1.05, Completed(batch.id, 1.05)).resolve == []
    assert state.requests[0].retrying == ()
    assert drive(state, 1.1).reload == [0]


def test_the_last_device_may_be_lost_as_well() -> None:
    """A loss that is reported is as good as one that is seen."""
    state = make_state()
    drive(state, 0.0, *requests(2))
    commands = drive(state, 1.0, DeviceReported(0, LOST))

    assert outcomes(commands.resolve) == [(0, "failed"), (1, "failed")]
    assert health_of(state) == "quarantined"


def test_an_answer_of_the_same_call_is_used() -> None:
    """What the device answered before it was lost is done."""
    state = make_state(devices=2)
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    commands = drive(state, 1.0, DeviceReported(0, LOST), answer(batch, 0.9))

    assert outcomes(commands.resolve) == [(0, "done")]
    assert health_of(state) == "quarantined"


def test_a_device_that_another_model_finds_slow_finishes_its_work() -> None:
    """It gets no more, and is reloaded once it holds nothing."""
    state = make_state(devices=2)
    drive(state, 0.0, *requests(2))
    commands = drive(state, 1.0, DeviceReported(0, SLOW))
    assert (commands.dispatch, health_of(state), state.was_slow(0)) == ([], "quarantined", True)
    assert drive(state, 1.2).reload == []
    assert outcomes(answer_all(state, 1.25).resolve) == [(0, "done"), (1, "done")]

    assert drive(state, 1.4).reload == [0]


def test_the_last_device_stays_in_use_although_it_is_slow() -> None:
    """A slow device is better than none."""
    state = make_state(devices=2)
    _report(state, 1.0, SLOW)
    _report(state, 1.0, SLOW, 1)

    assert (health_of(state, 0), health_of(state, 1)) == ("quarantined", "ready")


def test_news_of_a_device_that_is_out_change_nothing() -> None:
    """It is known already; the time of the next probe stays."""
    state = make_state(devices=2)
    drive(state, 0.0, Request(0, 1, 0.0))
    lose(state, 1.0)
    for news in (LOST, RESTARTED, SLOW):
        _report(state, 1.05, news)

    assert (state.next_wakeup(), state.was_slow(0)) == (1.1, False)


def test_news_of_a_device_that_is_not_open_are_ignored() -> None:
    """It may be opening, or closed already; and a closed scheduler needs no news."""
    state = make_state()
    _report(state, 1.0, LOST, 7)
    drive(state, 2.0, Closed())
    _report(state, 3.0, LOST)

    assert (list(state.statistics().devices), health_of(state)) == ([0], "ready")


def _reported_lost_again() -> SchedulerState:
    """Return a state whose device 0 was lost at 1.0; a reload at 1.1 failed."""
    state = make_state(devices=2)
    drive(state, 0.0, Request(0, 1, 0.0))
    lose(state, 1.0)
    assert drive(state, 1.1).reload == [0]
    drive(state, 1.1, ReloadFailed(0))
    assert state.next_wakeup() == pytest.approx(1.3)
    return state


def test_a_device_that_another_model_has_reloaded_is_probed_at_once() -> None:
    """It does not wait for its own time."""
    assert _report(_reported_lost_again(), 1.15, RELOADED) == [0]


def test_a_reload_under_way_is_repeated_soon_if_it_fails() -> None:
    """It may have begun too early; the next one is the first again."""
    state = _reported_lost_again()
    assert drive(state, 1.3).reload == [0]
    assert _report(state, 1.35, RELOADED) == []
    drive(state, 1.4, ReloadFailed(0))

    assert state.next_wakeup() == pytest.approx(1.5)


def test_a_device_that_has_proven_itself_for_another_model_is_ready() -> None:
    """Its probation ends, for all of its activations."""
    state = on_probation(devices=2)
    _report(state, 2.0, READY)
    assert health_of(state) == "ready"
    drive(state, 3.0, *requests(8, 1))

    assert len(held_by(state, 0)) == 3


def test_a_device_that_is_proven_needs_no_probation() -> None:
    """The news may come before its own reload ends."""
    state = _reported_lost_again()
    assert _report(state, 1.15, READY) == []
    drive(state, 1.3)
    drive(state, 1.4, DeviceOpened(0, 1, 1))

    assert health_of(state) == "ready"


def test_a_new_loss_ends_the_proof() -> None:
    """Then it is on probation after its reload."""
    state = on_probation(devices=2, num_activations=1)
    _report(state, 2.0, READY)
    drive(state, 2.0, *requests(2, 1))
    lose(state, 2.1)
    assert drive(state, 2.2).reload == [0]
    drive(state, 2.2, DeviceOpened(0, 1, 1))

    assert health_of(state) == "probation"


def test_what_a_device_failed_here_is_not_made_good_elsewhere() -> None:
    """A stuck inference and failed ones may be the model's own: its own answers must end that."""
    state = make_state(devices=2, dispatch_timeout_s=1.0, set_size=1)
    drive(state, 0.0, Request(0, 1, 0.0))
    drive(state, 1.0)
    assert health_of(state) == "quarantined"
    assert _report(state, 1.05, RELOADED) == []
    _report(state, 1.05, READY)
    answer_all(state, 1.06)
    assert drive(state, 1.1).reload == [0]
    drive(state, 1.2, DeviceOpened(0, 1, 1))

    assert health_of(state) == "probation"


def test_a_device_that_was_only_reported_slow_comes_back_by_news() -> None:
    """All that is known about it came from the other model."""
    state = make_state(devices=2)
    _report(state, 1.0, SLOW)
    assert _report(state, 1.02, RELOADED) == [0]
    drive(state, 1.03, DeviceOpened(0, 1, 1))
    _report(state, 1.04, READY)

    assert health_of(state) == "ready"


def test_news_that_a_ready_device_is_ready_change_nothing() -> None:
    """Nor does that it was reloaded."""
    state = make_state()

    assert _report(state, 1.0, RELOADED) == _report(state, 1.0, READY) == []
    assert health_of(state) == "ready"


# What it tells


@pytest.mark.parametrize(
    ("fault", "news"),
    [
        (Fault.LOST, ((0, LOST),)),
        (Fault.RESTARTED, ((0, RESTARTED),)),
        (Fault.INFERENCE, ()),
    ],
)
def test_a_loss_is_told_and_a_failed_inference_is_not(
    fault: Fault, news: tuple[tuple[int, DeviceNews], ...]
) -> None:
    """A failed inference may be the fault of its inputs."""
    state = make_state(devices=2)
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch

    assert drive(state, 1.0, lost(batch, 1.0, fault)).news == news


def test_a_loss_is_told_once() -> None:
    """Further batches of the device add nothing."""
    state = make_state(devices=2, num_activations=2)
    drive(state, 0.0, *requests(4))

    assert lose(state, 1.0).news == ((0, LOST),)


def test_a_loss_is_told_although_the_device_is_out_already() -> None:
    """It went out for failed inferences, of which the others know nothing."""
    state = make_state(devices=2, num_activations=13)
    drive(state, 0.0, *requests(26))
    *failed, last = held_by(state, 0)
    assert drive(state, 1.0, *(answer(each, 1.0, failed=True) for each in failed)).news == ()
    assert health_of(state) == "quarantined"

    assert drive(state, 1.05, lost(last, 1.05)).news == ((0, LOST),)


@pytest.mark.parametrize("is_closed", [False, True])
def test_what_a_reload_or_a_close_fails_is_no_news(is_closed: bool) -> None:
    """The device fails what it holds because it is closed."""
    state = make_state(devices=2, num_activations=13)
    drive(state, 0.0, *requests(26))
    *failed, last = held_by(state, 0)
    drive(state, 1.0, *(answer(each, 1.0, failed=True) for each in failed))
    if is_closed:
        drive(state, 1.05, Closed())
    else:
        assert drive(state, 1.1).reload == [0]

    assert drive(state, 1.15, lost(last, 1.15)).news == ()


def test_a_stuck_inference_is_not_told() -> None:
    """The program or its inputs may be the reason that it does not end."""
    state = make_state(devices=2, dispatch_timeout_s=1.0)
    drive(state, 0.0, Request(0, 1, 0.0))

    assert drive(state, 1.0).news == ()


def test_a_device_that_is_back_is_told_twice() -> None:
    """Once when it is loaded, once when it has proven itself."""
    state = make_state(devices=2)
    drive(state, 0.0, Request(0, 1, 0.0))
    lose(state, 1.0)
    answer_all(state, 1.0)
    drive(state, 1.1)
    assert drive(state, 1.2, DeviceOpened(0, 1, 1)).news == ((0, RELOADED),)
    told = []
    for number in range(1, 9):
        (batch,) = drive(state, number + 1.0, Request(number, 1, number + 1.0)).dispatch
        told += drive(state, number + 1.1, answer(batch, number + 1.1)).news

    assert told == [(0, READY)]
    assert serve_one(state, 20.0, 9, None) == "done"
