"""Outliers: when a slow device goes into quarantine, and that it may finish its batches."""

from __future__ import annotations

import pytest

from qaic_sched.core.events import DeviceOpened
from qaic_sched.core.model import Batch
from qaic_sched.core.outliers import Outliers
from qaic_sched.core.placement import has_faster
from qaic_sched.core.state import SchedulerState
from tests.core.harness import (
    answer,
    drive,
    health_of,
    held_by,
    lose,
    make_state,
    outcomes,
    requests,
)


def _record(outliers: Outliers, device_id: int, count: int, slowness: float = 20.0) -> None:
    for _ in range(count):
        outliers.record(device_id, slowness, 0.1)


@pytest.mark.parametrize(
    ("slowness", "execute_s", "is_slow"),
    [(10.0, 0.1, True), (9.9, 0.1, False), (10.0, 0.0099, False), (1.0, 9.0, False)],
)
def test_an_answer_is_slow_by_ratio_and_by_least_time(
    slowness: float, execute_s: float, is_slow: bool
) -> None:
    """A slow answer takes ten times as long as on the fastest devices, and at least 10 ms."""
    outliers = Outliers()

    assert outliers.record(3, slowness, execute_s) is is_slow
    assert list(outliers.streaks) == [3] * is_slow


@pytest.mark.parametrize(("is_on_probation", "enough"), [(False, 5), (True, 3)])
def test_some_slow_answers_in_a_row_make_an_outlier(is_on_probation: bool, enough: int) -> None:
    """On probation fewer are enough."""
    outliers = Outliers()
    _record(outliers, 0, 1)
    _record(outliers, 1, 9, slowness=1.0)
    _record(outliers, 0, enough - 2)
    assert not outliers.is_outlier(0, is_on_probation=is_on_probation)
    _record(outliers, 0, 1)

    assert outliers.is_outlier(0, is_on_probation=is_on_probation)


def test_one_prompt_answer_ends_the_streak() -> None:
    """Occasional stalls are hedged, and do not cause quarantine."""
    outliers = Outliers()
    for _ in range(9):
        _record(outliers, 0, 4)
        _record(outliers, 1, 9, slowness=1.0)
        assert not outliers.is_outlier(0, is_on_probation=False)
        _record(outliers, 0, 1, slowness=1.0)

    assert outliers.streaks == {}


def test_a_slowdown_of_all_devices_makes_no_outlier() -> None:
    """Without prompt answers of other devices there is no outlier."""
    outliers = Outliers()
    for _ in range(50):
        _record(outliers, 0, 1)
        _record(outliers, 1, 1)

    assert not outliers.is_outlier(0, is_on_probation=False)
    assert not outliers.is_outlier(1, is_on_probation=False)


# In the scheduler


def _host(num_activations: int = 1, set_size: int = 1) -> SchedulerState:
    """Return a state with three devices that take 10 ms and have answered on every activation."""
    state = make_state(devices=3, num_activations=num_activations, set_size=set_size)
    for _ in range(40):
        for device_id in range(3):
            state.ledger.learn(device_id, 1, 0.01)
    for activation in state.ledger:
        activation.completed_at = 0.0
    return state


def _answer_slowly(state: SchedulerState, count: int, execute_s: float = 0.2) -> None:
    """Answer `count` batches of device 0 slowly, those of the others after 10 ms; all stay busy."""
    while count:
        missing = 40 - len(state.requests)
        new = requests(missing, first_id=state._last_request_id + 1, accepted_at=state.now)
        drive(state, state.now, *new)
        ends = {
            each.submitted_at + (0.01 if each.activation.device_id else execute_s): each
            for each in state.batches.values()
        }
        at, batch = min(ends.items())
        count -= not batch.activation.device_id
        drive(state, max(at, state.now), answer(batch, at))


def test_a_device_that_turned_slow_is_quarantined_and_reloaded() -> None:
    """It answers twenty times slower than the others, five times in a row."""
    state = _host()
    _answer_slowly(state, 4)
    assert health_of(state) == "ready"
    _answer_slowly(state, 1)
    assert (health_of(state), state.health.is_slow(0)) == ("quarantined", True)

    assert drive(state, state.now + 0.1).reload == [0]


def test_a_device_that_is_merely_slower_stays_in_use() -> None:
    """A device nine times slower than the others stays ready."""
    state = _host()
    _answer_slowly(state, 40, execute_s=0.09)

    assert health_of(state) == "ready"


def test_the_last_device_is_not_quarantined_for_being_slow() -> None:
    """There is no other device to compare it with, or to replace it."""
    state = _host()
    _answer_slowly(state, 4)
    lose(state, state.now, 1)
    lose(state, state.now, 2)
    for _ in range(20):
        (batch,) = held_by(state, 0)
        drive(state, state.now + 0.2, answer(batch, state.now + 0.2))

    assert [health_of(state, each) for each in range(3)] == ["ready", "quarantined", "quarantined"]
    assert state.outliers.streaks == {}


def _quarantined_with_a_batch() -> tuple[SchedulerState, Batch]:
    """Return a state whose device 0 is a quarantined outlier with a batch, and that batch."""
    state = _host(num_activations=2)
    drive(state, 0.0, *requests(6))
    first, second = held_by(state, 0)
    rest = [each for each in state.batches.values() if each.activation.device_id]
    drive(state, 0.01, *(answer(each, 0.01) for each in rest))
    for _ in range(4):
        state.outliers.record(0, 20.0, 0.2)
    for _ in range(9):
        state.outliers.record(1, 1.0, 0.01)
    drive(state, 0.2, answer(first, 0.2))
    assert health_of(state) == "quarantined"
    return state, second


def test_an_outlier_may_finish_its_batches() -> None:
    """It is reloaded after its last answer, which counts."""
    state, batch = _quarantined_with_a_batch()
    for _ in range(3):
        at = state.next_wakeup()
        assert at is not None
        assert drive(state, at).reload == []
    commands = drive(state, 0.55, answer(batch, 0.55))
    assert outcomes(commands.resolve) == [(batch.parts[0].request.id, "done")]

    assert drive(state, state.next_wakeup() or 0.0).reload == [0]


def test_an_outlier_that_gets_stuck_is_reloaded() -> None:
    """Its batches are retried elsewhere, and the reload waits for no answer."""
    state, batch = _quarantined_with_a_batch()
    while not batch.is_abandoned:
        assert drive(state, state.next_wakeup() or 0.0).reload == []

    assert drive(state, state.next_wakeup() or 0.0).reload == [0]


def _back(state: SchedulerState) -> SchedulerState:
    """Let the device come back from its reload."""
    assert drive(state, state.next_wakeup() or 0.0).reload == [0]
    drive(state, state.now, DeviceOpened(0, 1, 1))
    assert health_of(state) == "probation"
    return state


def test_a_reload_puts_an_outlier_into_the_fastest_group() -> None:
    """It counts as fast until its answers show otherwise, so it gets work at once."""
    state = _host()
    _answer_slowly(state, 5)
    _back(state)
    assert not has_faster(state.ledger, state.ledger.devices[0][0])
    _answer_slowly(state, 3, execute_s=0.01)

    assert health_of(state) == "ready"


def test_an_outlier_that_stays_slow_comes_back_later_each_time() -> None:
    """The third slow answer on probation ends it, and the wait doubles.

    The first answer after a load may be slow.
    """
    state = _host()
    _answer_slowly(state, 5)
    waits = []
    for _ in range(4):
        waits.append(state.health.next_probe_at() - state.now)
        _back(state)
        _answer_slowly(state, 4)
        assert health_of(state) == "quarantined"

    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8])
