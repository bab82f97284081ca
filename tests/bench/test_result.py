"""Results: medians, ratios, targets, and JSON."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from bench.result import at_least, at_most, compare, from_json, this_machine, to_json

if TYPE_CHECKING:
    from typing import Literal

    from bench.result import PerformanceTarget


def test_a_result_is_the_ratio_of_two_medians() -> None:
    """An outlier among the rounds affects neither median."""
    result = compare("b", "calls", "1/s", [9.0, 10.0, 900.0], "threads", [4.0, 5.0, 0.1])

    assert (result.value, result.baseline_value, result.ratio) == (10.0, 4.0, 2.5)
    assert result.rounds == 3
    assert result.key == "b: calls / threads"


@pytest.mark.parametrize(
    ("target", "is_met"),
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
def test_a_target_applies_to_the_value_or_the_ratio(
    target: PerformanceTarget, is_met: bool
) -> None:
    """A target is met at its limit and missed beyond it."""
    result = compare("b", "calls", "1/s", [10.0], "threads", [4.0], targets=[target])

    assert result.missed == ([] if is_met else [target])


@pytest.mark.parametrize(
    ("better", "floor", "holds"),
    [("higher", 3.3, True), ("higher", 3.4, False), ("lower", 1.9, True), ("lower", 1.8, False)],
)
def test_a_ratio_is_compared_with_a_recorded_one(
    better: Literal["higher", "lower"], floor: float, holds: bool
) -> None:
    """A ratio may be worse than recorded by the given fraction, in the worse direction."""
    result = compare("b", "calls", "1/s", [10.0], "threads", [4.0], better=better)

    assert result.holds(floor, 0.25) is holds


def test_results_survive_json() -> None:
    """Machine, targets and note are the same after encoding and decoding."""
    results = [
        compare("b", "calls", "1/s", [10.0], "threads", [4.0], targets=[at_least(3), at_most(9)]),
        compare("b", "CPU", "us", [1.0], "one device", [2.0], better="lower", note="why"),
    ]

    assert b'"asked": [' in to_json(results)
    assert from_json(to_json(results)) == results


def test_a_result_describes_its_machine() -> None:
    """A result has the cores, the Python and the package versions of its machine."""
    machine = compare("b", "calls", "1/s", [1.0], "threads", [1.0]).machine

    assert machine is this_machine()
    assert machine.cores >= 1
    assert machine.python.count(".") == 2
    assert "numpy" in machine.packages


def test_a_result_names_the_kind_of_core() -> None:
    """The core is "C" in a run of the compiled package, and "Python" otherwise."""
    is_compiled = os.environ.get("QAIC_SCHED_COMPILE") == "1"

    assert this_machine().core == ("C" if is_compiled else "Python")
