"""What a result says: medians, ratios, what was asked for, and the same again from JSON."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from bench.result import at_least, at_most, compare, from_json, this_machine, to_json

if TYPE_CHECKING:
    from typing import Literal

    from bench.result import Asked


def test_a_result_is_the_ratio_of_two_medians() -> None:
    """One round that went wrong moves neither side."""
    result = compare("b", "calls", "1/s", [9.0, 10.0, 900.0], "threads", [4.0, 5.0, 0.1])

    assert (result.value, result.baseline_value, result.ratio) == (10.0, 4.0, 2.5)
    assert result.rounds == 3
    assert result.key == "b: calls / threads"


@pytest.mark.parametrize(
    ("asked", "is_met"),
    [
        (at_least(2.5), True),
        (at_least(2.6), False),
        (at_most(2.5), True),
        (at_most(2.4), False),
        (at_least(10, "value"), True),
        (at_least(11, "value"), False),
        (at_most(9, "value"), False),
    ],
)
def test_what_was_asked_for_is_held_against_the_value_or_the_ratio(
    asked: Asked, is_met: bool
) -> None:
    """A bound is met at its limit, and missed beyond it."""
    result = compare("b", "calls", "1/s", [10.0], "threads", [4.0], asked=[asked])

    assert result.missed == ([] if is_met else [asked])


@pytest.mark.parametrize(
    ("better", "floor", "holds"),
    [("higher", 3.3, True), ("higher", 3.4, False), ("lower", 1.9, True), ("lower", 1.8, False)],
)
def test_a_ratio_holds_a_recorded_one_with_some_slack(
    better: Literal["higher", "lower"], floor: float, holds: bool
) -> None:
    """A quarter worse is allowed for, in the direction that is worse."""
    result = compare("b", "calls", "1/s", [10.0], "threads", [4.0], better=better)

    assert result.holds(floor, 0.25) is holds


def test_results_come_back_from_json_as_they_were() -> None:
    """With the machine, the bounds and the note."""
    results = [
        compare("b", "calls", "1/s", [10.0], "threads", [4.0], asked=[at_least(3), at_most(9)]),
        compare("b", "CPU", "us", [1.0], "one device", [2.0], better="lower", note="why"),
    ]

    assert from_json(to_json(results)) == results


def test_a_result_names_the_machine_it_was_taken_on() -> None:
    """Cores, Python and versions, so that a figure can be judged later."""
    machine = compare("b", "calls", "1/s", [1.0], "threads", [1.0]).machine

    assert machine is this_machine()
    assert machine.cores >= 1
    assert machine.python.count(".") == 2
    assert "numpy" in machine.packages


def test_a_result_says_whether_the_core_is_compiled() -> None:
    """It is where the run was asked for that, and nowhere else: what is tested is what is meant."""
    is_asked = os.environ.get("QAIC_SCHED_COMPILE") == "1"

    assert this_machine().core == ("C" if is_asked else "Python")
