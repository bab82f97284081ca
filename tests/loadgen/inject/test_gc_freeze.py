"""What the garbage collector searches during a run, and after it."""

from __future__ import annotations

import gc

import pytest

from qaic_sched.loadgen.inject.gc_freeze import gc_frozen


class Node:
    """Something that the collector looks at."""


def nodes() -> int:
    """How many the collector finds in what it searches."""
    return sum(isinstance(each, Node) for each in gc.get_objects())


def test_only_what_came_during_the_run_is_searched() -> None:
    """What was there before is out of sight, what is made meanwhile is not."""
    before = Node()
    with gc_frozen():
        assert nodes() == 0
        during = Node()
        assert nodes() == 1
    assert nodes() == 2
    assert before is not during


def test_a_run_that_fails_leaves_nothing_hidden() -> None:
    """The collector is back at work, whatever happened."""
    node = Node()
    with pytest.raises(OSError, match="broken"), gc_frozen():
        raise OSError("broken")

    assert nodes() == 1
    assert isinstance(node, Node)
