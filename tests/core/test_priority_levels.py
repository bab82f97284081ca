"""The priorities of a queue as a tree: order, sums, starvation, and removal."""

from __future__ import annotations

from random import Random

from qaic_sched.core.model import Tenant
from qaic_sched.core.priority_levels import STARVATION_BOUND, PriorityLevel, PriorityLevels
from qaic_sched.core.tenants import Account


def _filled(samples: dict[int, int]) -> PriorityLevels:
    levels = PriorityLevels()
    for priority, count in samples.items():
        levels.count(levels.add(priority, 0), count)
    levels.check()
    return levels


def _depth(level: PriorityLevel | None) -> int:
    return 0 if level is None else 1 + max(_depth(level.lower), _depth(level.higher))


def test_levels_are_ordered_by_priority() -> None:
    """From high to low, for any order of arrival."""
    levels = _filled({3: 1, -2: 1, 7: 1, 0: 1})

    assert [each.priority for each in levels] == [7, 3, 0, -2]
    assert len(levels) == 4
    assert levels.get(7) is levels.of(7)
    assert levels.get(8) is None


def test_the_highest_level_has_samples() -> None:
    """Levels without samples are passed over, on both sides of the tree."""
    levels = _filled({each: each % 2 for each in range(10)})
    highest = []
    while sum(each.samples for each in levels):
        highest.append(levels.highest().priority)
        levels.count(levels.highest(), -1)

    assert highest == [9, 7, 5, 3, 1]


def test_samples_above_a_priority_are_those_of_higher_ones() -> None:
    """It need not be a priority that is queued."""
    levels = _filled({each: each for each in range(0, 100, 3)})

    for priority in range(-2, 102):
        assert levels.samples_above(priority) == sum(range(0, 100, 3)[priority // 3 + 1 :])


def test_requests_above_a_priority_are_those_of_higher_ones() -> None:
    """They are counted apart from the samples, of which one request may have many."""
    levels = PriorityLevels()
    for priority in range(0, 30, 3):
        levels.count(levels.add(priority, 0), 5, 2)
    levels.check()
    levels.count(levels.of(27), -5, -1)

    for priority in range(-2, 32):
        higher = [each for each in range(0, 30, 3) if each > priority]
        assert levels.requests_above(priority) == 2 * len(higher) - (27 in higher)


def test_the_level_below_a_priority_is_the_highest_with_samples() -> None:
    """Levels without samples are passed over, wherever they stand in the tree."""
    random = Random(2)
    for _ in range(200):
        samples = {random.randrange(20): random.randrange(2) for _ in range(8)}
        levels = _filled(samples)
        for priority in range(-1, 21):
            lower = [each for each, count in samples.items() if count and each < priority]
            found = levels.below(priority)
            assert (found.priority if found else None) == max(lower, default=None)


def test_levels_come_and_go_in_any_order() -> None:
    """The tree and its sums stay right through a thousand random changes."""
    random, levels = Random(1), PriorityLevels()
    for served in range(1000):
        priority = random.randrange(40)
        level = levels.get(priority)
        if level is None:
            levels.count(levels.add(priority, served), random.randrange(3))
        elif level.samples:
            levels.count(level, -1)
        else:
            levels.remove(level)
        if served % 10 == 0:
            levels.check()

    assert 10 < len(levels) < 40


def test_no_order_of_priorities_makes_the_tree_deep() -> None:
    """Ascending, descending, and in steps: a thousand levels are less than forty deep."""
    for step in (1, -1, 10946, 2**61 // 3):
        levels = _filled({step * each: 1 for each in range(1000)})

        assert _depth(levels._root) < 40


def test_the_last_level_may_be_removed() -> None:
    """Nothing is left, and the next level is the first again."""
    levels = _filled({1: 0})
    levels.remove(levels.of(1))
    levels.check()
    assert len(levels) == 0
    levels.count(levels.add(2, 0), 1)

    assert levels.next(0).priority == 2


def test_a_starved_level_is_next_until_it_is_served() -> None:
    """Then it is passed over for as many samples again."""
    levels = _filled({1: 1000, 0: 1000})
    order = []
    for served in range(3 * STARVATION_BOUND):
        level = levels.next(served)
        levels.serve(level, 1, served)
        order.append(level.priority)

    assert [index for index, each in enumerate(order) if each == 0] == [50, 101]


def test_a_priority_that_was_alone_is_not_starved_by_the_next_one() -> None:
    """Nothing has passed over it so far, however much it was served."""
    levels = _filled({0: 1000})
    levels.count(levels.add(5, 700), 1000)
    order = []
    for served in range(700, 760):
        level = levels.next(served)
        levels.serve(level, 1, served)
        order.append(level.priority)

    assert order.index(0) == STARVATION_BOUND


def test_a_level_without_samples_is_not_starved() -> None:
    """It is starved from its next request on, and only after the bound."""
    levels = _filled({1: 1000, 0: 1})
    low = levels.of(0)
    levels.count(low, -1)
    for served in range(60, 90):
        levels.serve(levels.next(served), 1, served)
    levels.awake(low, 90)
    levels.count(low, 1)
    levels.check()

    order = []
    for served in range(90, 150):
        order.append(levels.next(served).priority)
        levels.serve(levels.of(1), 1, served)
    assert order.index(0) == STARVATION_BOUND


def test_entries_of_starved_levels_are_bounded() -> None:
    """A level that runs empty and fills a thousand times is not entered a thousand times."""
    levels = _filled({1: 1, 0: 0})
    for served in range(1000):
        levels.awake(levels.of(0), served)

    assert len(levels._starving) < 12
    levels.check()


def test_turns_of_tenants_that_are_gone_are_dropped() -> None:
    """A thousand tenants that come and go behind a lasting one leave a few entries at most."""
    level = PriorityLevels().add(0, 0)
    lasting = level.add_queue(Account(Tenant(), 0.0))
    for number in range(1000):
        level.drop(level.add_queue(Account(Tenant(), float(number))))

    assert level.next_queue() is lasting is level.only
    assert len(level._turns) < 12
