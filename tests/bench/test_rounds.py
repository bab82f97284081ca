"""Contenders take turns; and what runs apart, runs in another process."""

from __future__ import annotations

import os
from functools import partial

import pytest

from bench.rounds import alternate, run_apart, run_on_uvloop


def test_contenders_take_turns_in_both_orders() -> None:
    """Every second round is reversed, and what the warm-up gave is thrown away."""
    calls: list[str] = []

    async def contender(name: str) -> int:
        calls.append(name)
        return len(calls)

    contenders = {name: partial(contender, name) for name in "ab"}
    results = run_on_uvloop(alternate(contenders, 2, warm_up=1))

    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert results == {"a": [3, 6], "b": [4, 5]}


def test_a_function_runs_in_a_process_of_its_own() -> None:
    """What it returns comes back, and what it raises is raised."""
    assert run_apart(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="invalid literal"):
        run_apart(int, "x")
