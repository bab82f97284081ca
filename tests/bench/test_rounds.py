"""Alternating rounds, and functions in a process of their own."""

from __future__ import annotations

import os
from functools import partial

import pytest

from bench.rounds import alternate, run_apart, run_on_uvloop


def test_contenders_alternate_in_both_orders() -> None:
    """Every second round is reversed, and results of the warm-up are discarded."""
    calls: list[str] = []

    async def contender(name: str) -> int:
        calls.append(name)
        return len(calls)

    contenders = {name: partial(contender, name) for name in "ab"}
    results = run_on_uvloop(alternate(contenders, 2, warm_up=1))

    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert results == {"a": [3, 6], "b": [4, 5]}


def test_a_function_runs_in_a_new_process() -> None:
    """The function's result is returned, and its exception raised."""
    assert run_apart(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="invalid literal"):
        run_apart(int, "x")
