"""Simulated hosts for tests of everything above the backends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from qaic_sched.backends.sim.executable import SimExecutable
from qaic_sched.core.invariants import check_invariants
from qaic_sched.core.state import SchedulerState
from qaic_sched.scheduler.event_log import EventLogReader, decisions_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest
    from numpy.typing import NDArray

    from qaic_sched.backends.base import OnCompleted

__all__ = ["answer_twice", "check_log", "expected", "host", "now", "rows", "two_hosts"]


def host(folder: Path, *, batch: int = 8, **changes: Any) -> str:
    """Write a host of one simulated device that takes 10 ms per inference; return its path.

    `changes` replace keys of the specification.
    """
    spec = {
        "inputs": {"data": {"shape": [batch, 4], "dtype": "float32"}},
        "outputs": {"mean": {"shape": [batch, 2], "dtype": "float32"}},
        "service_time_s": 0.010,
        "devices": 1,
        **changes,
    }
    path = folder / "host.sim.yaml"
    path.write_text(yaml.safe_dump(spec))
    return str(path)


def two_hosts(folder: Path, *, fast: dict[str, Any] | None = None, **slow: Any) -> dict[str, str]:
    """Write two models that share simulated devices: `fast` takes 10 ms per inference, `slow` 50.

    `fast` and `slow` are changes of each; returns their paths by name.
    """
    paths = {}
    for name, changes in (("fast", fast or {}), ("slow", {"service_time_s": 0.050, **slow})):
        (folder / name).mkdir(exist_ok=True)
        paths[name] = host(folder / name, **changes)
    return paths


def now() -> float:
    """Return the time of the running event loop, which is virtual in most tests."""
    return asyncio.get_running_loop().time()


def rows(count: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return inputs of `count` random samples."""
    return {"data": np.random.default_rng(seed).random((count, 4), dtype=np.float32)}


def expected(inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the outputs of a simulated device: each row's mean, in both columns."""
    means = inputs["data"].astype(np.float64).mean(axis=1).astype(np.float32)
    return np.repeat(means[:, None], 2, axis=1)


def check_log(log: Path) -> None:
    """Replay an event log: the decisions must repeat, and all invariants hold after each call."""
    with EventLogReader(str(log)) as reader:
        core = SchedulerState(reader.policy)
        for call in reader:
            commands = core.handle(call.at, call.events)
            check_invariants(core)
            assert list(decisions_of(call.number, call.at, commands)) == call.decisions


def answer_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have simulated devices answer each inference twice, which breaks a rule of the scheduler.

    Only inferences that are submitted from here on.
    """
    submit = SimExecutable.submit

    def submit_once(
        self: SimExecutable,
        activation: int,
        inputs: Mapping[str, object],
        on_completed: OnCompleted,
    ) -> None:
        def complete_twice(*answer: Any) -> None:
            on_completed(*answer)
            on_completed(*answer)

        submit(self, activation, inputs, complete_twice)

    monkeypatch.setattr(SimExecutable, "submit", submit_once)
