"""Hostile callers beside honest ones, in real time: no honest request fails or is answered wrongly.

Each game runs in a process of its own, so that even one that dies is told of.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.strangers.hostile_acts import ACTS
from tests.strangers.pausing import run_child

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, sends SIGSTOP"),
]

LEVEL_KB = 20_000


def play(kind: str, folder: Path, *acts: str, pauses_s: list[float], between_s: float) -> Any:
    """Play one game, and fail on the first problem of an honest caller."""
    command = ["tests.strangers.hostile_child", kind, str(folder), *acts]
    found = run_child(command, pauses_s, between_s)
    print(found["counts"])

    assert found["problems"] == []
    assert set(found["states"]) == {"ready"}
    assert found["counts"]["honest"] > 20
    return found


@pytest.mark.parametrize("act", [act.__name__ for act in ACTS])
@pytest.mark.parametrize("kind", ["cpu", "cards"])
def test_no_act_hurts_honest_callers(tmp_path: Path, kind: str, act: str) -> None:
    """One kind of act, for a moment."""
    play(kind, tmp_path, act, pauses_s=[0], between_s=0.6)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["cpu", "cards"])
def test_all_acts_and_pauses_hurt_no_honest_caller(tmp_path: Path, kind: str) -> None:
    """Half a minute of all, with pauses and 10,000 tenants among them; and memory stays level."""
    pauses_s = [0, 0, 2.5, 0, 0, 2.5, 0, 0]
    found = play(kind, tmp_path, pauses_s=pauses_s, between_s=3.0)

    memory_kb = found["memory_kb"]
    third = len(memory_kb) // 3
    assert median(memory_kb[-third:]) - median(memory_kb[third : 2 * third]) < LEVEL_KB
    assert sum(count for act, count in found["counts"].items() if act != "honest") > 100
    assert found["counts"]["many_tenants"] >= 100  # of a hundred tenants each
