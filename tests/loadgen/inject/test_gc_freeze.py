"""The objects that the garbage collector visits during a run, and after it."""

from __future__ import annotations

import gc

import pytest

from qaic_sched.loadgen.inject.gc_freeze import gc_frozen


class Node:
    """An object that the collector tracks."""


def nodes() -> int:
    """The number of tracked objects that the collector visits."""
    return sum(isinstance(each, Node) for each in gc.get_objects())


def test_only_what_came_during_the_run_is_searched() -> None:
    """Objects from before the block are frozen, new objects are collected as usual."""
    before = Node()
    with gc_frozen():
        assert nodes() == 0
        during = Node()
        assert nodes() == 1
    assert nodes() == 2
    assert before is not during


def test_a_run_that_fails_leaves_nothing_hidden() -> None:
    """An exception in the block unfreezes the objects, too."""
    node = Node()
    with pytest.raises(OSError, match="broken"), gc_frozen():
        raise OSError("broken")

    assert nodes() == 1
    assert isinstance(node, Node)
