"""Without a working device, or at the end, every request is still resolved."""

from __future__ import annotations

from qaic_sched.core.events import Closed, DeviceOpened, DrainStarted, ReloadFailed
from qaic_sched.core.model import Request
from tests.core.harness import (
    answer,
    answer_all,
    drive,
    lose,
    lost,
    make_state,
    on_probation,
    outcomes,
    places,
    requests,
    serve_one,
)


def test_with_no_device_left_everything_fails_at_once() -> None:
    """Retries, queued, waiting and new requests fail, without a batch to blame."""
    state = make_state(max_samples=2)
    arrivals = requests(5)
    drive(state, 0.0, *arrivals)
    assert [state.statistics().queued, state.statistics().waiting] == [2, 2]
    commands = lose(state, 1.0)

    assert outcomes(commands.resolve) == [(each, "failed") for each in range(5)]
    assert [each.last_batch for each in arrivals] == [None] * 5
    late = Request(5, 1, 1.05)
    assert outcomes(drive(state, 1.05, late).resolve) == [(5, "failed")]
    assert late.last_batch is None


def test_batches_of_a_lost_device_fail_with_their_answers() -> None:
    """They do not fail before, as the device may have executed them."""
    state = make_state(set_size=3)
    arrivals = requests(3)
    first, second, third = drive(state, 0.0, *arrivals).dispatch
    assert outcomes(drive(state, 1.0, lost(first, 1.0)).resolve) == [(0, "failed")]

    assert outcomes(drive(state, 1.0, answer(second, 1.0)).resolve) == [(1, "done")]
    assert outcomes(drive(state, 1.0, lost(third, 1.0)).resolve) == [(2, "failed")]
    assert [each.last_batch for each in arrivals] == [None, second, None]


def test_a_request_that_is_half_in_flight_fails_with_the_last_device() -> None:
    """It fails once, and the answer to its other half is ignored."""
    state = make_state(set_size=2, batch_sizes=(2,))
    first, second = drive(state, 0.0, Request(0, 5, 0.0)).dispatch
    assert outcomes(drive(state, 1.0, lost(first, 1.0)).resolve) == [(0, "failed")]

    assert drive(state, 1.0, answer(second, 1.0)).resolve == []


def test_without_a_device_an_arrival_fails_rather_than_is_rejected() -> None:
    """When the last device is lost, a newcomer to a full queue fails like the queued requests."""
    state = make_state(max_samples=1, waits_when_full=False)
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    drive(state, 0.0, Request(1, 1, 0.0))
    commands = drive(state, 1.0, lost(batch, 1.0), Request(2, 1, 1.0))

    assert sorted(outcomes(commands.resolve)) == [(each, "failed") for each in range(3)]


def test_service_goes_on_once_a_device_is_back() -> None:
    """Requests that arrive then are served."""
    state = on_probation()

    assert [serve_one(state, 2.0, number, None) for number in (1, 2)] == ["done", "done"]


def test_before_the_first_device_opens_no_request_fails() -> None:
    """Requests wait for a first device; they fail only when all are lost."""
    state = make_state(devices=0)

    assert drive(state, 0.0, *requests(2)).resolve == []
    assert state.statistics().queued == 2


def test_a_second_device_may_open_while_the_first_is_in_quarantine() -> None:
    """It starts with the times of the first, and both work when the first is back."""
    state = make_state()
    (batch,) = drive(state, 0.0, Request(0, 1, 0.0)).dispatch
    drive(state, 0.5, answer(batch, 0.5))
    drive(state, 1.0, Request(1, 1, 1.0))
    lose(state, 1.05)
    drive(state, 1.1, DeviceOpened(1, 1, 1))
    assert state.ledger.speeds.by_device[1].group.times.likely_s(1) == 0.5
    drive(state, 1.15, DeviceOpened(0, 1, 1))

    assert sorted(places(drive(state, 2.0, *requests(2, first_id=2)))) == [(0, 0), (1, 0)]


def test_an_unmeasured_device_delays_no_other() -> None:
    """Of two unmeasured devices that open at different times, both get work at once."""
    state = make_state()
    drive(state, 0.0, Request(0, 1, 0.0))
    lose(state, 1.0)
    drive(state, 1.0, DeviceOpened(1, 1, 1))
    drive(state, 1.1, DeviceOpened(0, 1, 1))

    assert sorted(places(drive(state, 2.0, *requests(2, first_id=1)))) == [(0, 0), (1, 0)]


# Drain and close


def test_a_drain_ends_although_a_device_is_in_quarantine() -> None:
    """The other devices finish the work."""
    state = make_state(devices=2)
    drive(state, 0.0, *requests(6))
    lose(state, 1.0)
    drive(state, 1.0, DrainStarted())
    now = 1.0
    while state.requests:
        now += 0.01
        answer_all(state, now)

    assert state.statistics().done == 6


def test_a_drain_ends_although_the_only_device_hangs() -> None:
    """Wakeups alone bring the drain to its end."""
    state = make_state(set_size=2)
    drive(state, 0.0, *requests(4), DrainStarted())
    commands = drive(state, state.next_wakeup() or 0.0)

    assert outcomes(commands.resolve) == [(each, "failed") for each in range(4)]
    assert state.now == 60.0


def test_closing_ends_watching_and_probing() -> None:
    """After a close there is no wakeup, with a device in quarantine and another one stuck."""
    state = make_state(devices=2, dispatch_timeout_s=2.0)
    drive(state, 0.0, *requests(3))
    lose(state, 1.0)
    assert state.next_wakeup() == 1.1
    commands = drive(state, 1.05, Closed())

    assert {end for _, end in outcomes(commands.resolve)} == {"cancelled"}
    assert state.next_wakeup() is None
    late = drive(state, 99.0)
    assert (late.reload, late.resolve, late.dispatch) == ([], [], [])


def test_a_reload_that_fails_after_the_close_changes_nothing() -> None:
    """The reload was running when the scheduler was closed."""
    state = make_state(devices=1)
    drive(state, 0.0, Request(0, 1, 0.0))
    lose(state, 1.0)
    drive(state, 1.1)
    drive(state, 1.2, Closed())
    drive(state, 1.3, ReloadFailed(0))

    assert state.next_wakeup() is None
