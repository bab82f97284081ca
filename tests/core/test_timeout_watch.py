"""The watch finds activations that take too long at the exact instant, and no others."""

from __future__ import annotations

import math

from qaic_sched.core.model import Activation, Batch
from qaic_sched.core.timeout_watch import TimeoutWatch
from tests.core.harness import make_activation


def _watch(limit_s: float = 10.0) -> TimeoutWatch:
    return TimeoutWatch(lambda _activation: limit_s)


def _give_work(watch: TimeoutWatch, activation: Activation, at: float) -> None:
    activation.held = [Batch(0, activation, 1, 1, [], at)]
    activation.busy_since = at
    watch.add(activation)


def _at_work(watch: TimeoutWatch, *since: float) -> list[Activation]:
    """Return watched activations that have been busy since each of these instants."""
    activations = [make_activation(0, index) for index in range(len(since))]
    for activation, at in zip(activations, since, strict=True):
        _give_work(watch, activation, at)
    return activations


def _overdue(watch: TimeoutWatch, now: float) -> list[int]:
    return [each.index for each in watch.overdue(now)]


def test_an_empty_watch_finds_nothing() -> None:
    """The next look is never."""
    watch = _watch()

    assert (watch.next_at(), _overdue(watch, 1e9)) == (math.inf, [])


def test_an_activation_is_found_when_its_time_is_up() -> None:
    """It is not found before; the longest running one comes first, for any order of adding."""
    watch = _watch()
    _at_work(watch, 3.0, 1.0, 2.0)
    assert (watch.next_at(), _overdue(watch, 10.9)) == (11.0, [])

    assert _overdue(watch, 12.0) == [1, 2]
    assert (watch.next_at(), _overdue(watch, 13.0)) == (13.0, [0])


def test_an_activation_that_was_found_is_not_watched() -> None:
    """It is watched again once it gets work."""
    watch = _watch()
    (activation,) = _at_work(watch, 0.0)
    assert _overdue(watch, 10.0) == [0]
    assert (activation in watch, watch.next_at(), _overdue(watch, 99.0)) == (False, math.inf, [])

    _give_work(watch, activation, 100.0)
    assert (activation in watch, watch.next_at()) == (True, 110.0)


def test_an_activation_that_answered_is_looked_at_later() -> None:
    """The time counts from its last answer."""
    watch = _watch()
    (activation,) = _at_work(watch, 0.0)
    activation.busy_since = 7.0
    assert _overdue(watch, 10.0) == []

    assert (watch.next_at(), activation in watch) == (17.0, True)
    assert _overdue(watch, 17.0) == [0]


def test_an_idle_activation_is_forgotten() -> None:
    """It is not found when its look is due, and can be watched again."""
    watch = _watch()
    idle, _busy = _at_work(watch, 0.0, 5.0)
    idle.held = []
    assert (_overdue(watch, 10.0), idle in watch, watch.next_at()) == ([], False, 15.0)

    _give_work(watch, idle, 11.0)
    assert (_overdue(watch, 15.0), _overdue(watch, 21.0)) == ([1], [0])


def test_an_old_entry_serves_a_new_batch() -> None:
    """An activation that was idle meanwhile is still found in time."""
    watch = _watch()
    (activation,) = _at_work(watch, 0.0)
    activation.held = []
    _give_work(watch, activation, 4.0)
    assert (watch.next_at(), _overdue(watch, 10.0)) == (10.0, [])

    assert _overdue(watch, 14.0) == [0]


def test_an_activation_has_one_entry() -> None:
    """A thousand batches leave one entry."""
    watch = _watch()
    (activation,) = _at_work(watch, 0.0)
    for number in range(1000):
        activation.held = []
        _give_work(watch, activation, number / 1000)

    assert len(watch._heap) == 1


def test_a_shorter_batch_is_looked_at_sooner() -> None:
    """The earlier look replaces the one that was due, which finds nothing."""
    limits_s = iter([30.0, 5.0, 5.0])
    watch = TimeoutWatch(lambda _activation: next(limits_s))
    (activation,) = _at_work(watch, 0.0)
    activation.held = []
    _give_work(watch, activation, 1.0)

    assert (watch.next_at(), _overdue(watch, 6.0)) == (6.0, [0])
    assert (_overdue(watch, 99.0), watch.next_at()) == ([], math.inf)


def test_the_limit_of_the_moment_counts() -> None:
    """A longer limit applies at the next look, a shorter one from a restart on."""
    limits_s = {0: 10.0, 1: 10.0}
    watch = TimeoutWatch(lambda activation: limits_s[activation.index])
    _at_work(watch, 0.0, 1.0)
    limits_s[0] = 30.0
    assert (_overdue(watch, 11.0), watch.next_at()) == ([1], 30.0)

    limits_s[0] = 15.0
    assert (_overdue(watch, 20.0), watch.next_at()) == ([], 30.0)
    watch.restart()
    assert (watch.next_at(), _overdue(watch, 20.0)) == (15.0, [0])


def test_a_restart_keeps_each_activation_once() -> None:
    """Each activation is found once, and watched once when it gets work again."""
    watch = _watch()
    first, *_ = _at_work(watch, 0.0, 1.0, 2.0)
    watch.restart()
    watch.add(first)

    assert (_overdue(watch, 11.0), _overdue(watch, 99.0), watch.next_at()) == (
        [0, 1],
        [2],
        math.inf,
    )
