"""Simulated cards for tests: a small card, and a recorder of its completions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from qaic_sched.backends.base import Executable
from qaic_sched.backends.sim import SimBackend
from qaic_sched.config.keys import ModelOptions
from qaic_sched.testing import run_virtual

__all__ = ["Make", "Recorder", "maker", "rows", "run_queued", "virtually"]

CARD: dict[str, Any] = {
    "inputs": {"data": {"shape": [4, 3], "dtype": "float32"}},
    "outputs": {"prob": {"shape": [4, 2], "dtype": "float32"}},
    "batch_sizes": [1, 2, 4],
    "service_time_s": {1: 0.004, 2: 0.005, 4: 0.007},
    "devices": 4,
}

Make = Callable[..., SimBackend]


def maker(folder: Path) -> Make:
    """A function that makes a backend of CARD with some keys changed; its file is in `folder`."""

    def make(options: ModelOptions | None = None, **changes: object) -> SimBackend:
        path = folder / "card.sim.yaml"
        path.write_text(yaml.safe_dump({**CARD, **changes}, sort_keys=False))
        return SimBackend(str(path), options or ModelOptions())

    return make


def rows(count: int) -> dict[str, object]:
    """`count` rows of inputs for CARD, all ones."""
    return {"data": np.ones((count, 3), np.float32)}


class Recorder:
    """Records every completion with its time, and the loop's time when the callback ran."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.seen: list[float] = []
        self.results: list[Any] = []
        self.changed = asyncio.Event()

    def __call__(self, result: object, completed_at: float) -> None:
        self.ends.append(completed_at)
        self.seen.append(asyncio.get_running_loop().time())
        self.results.append(result)
        self.changed.set()

    async def wait(self, count: int) -> None:
        while len(self.ends) < count:
            self.changed.clear()
            await self.changed.wait()


async def run_queued(executable: Executable, sizes: list[int]) -> Recorder:
    """Submit an inference of each size to activation 0 at once, and wait until all complete."""
    recorder = Recorder()
    for size in sizes:
        executable.submit(0, rows(size), recorder)
    await recorder.wait(len(sizes))
    return recorder


def virtually(
    backend: SimBackend, function: Callable[[Executable], Coroutine[Any, Any, Any]], **load: int
) -> Any:
    """Run the function on device 0 with one activation, unless `load` says otherwise."""

    async def main() -> Any:
        chosen = {"device_id": 0, "num_activations": 1, "set_size": 2, **load}
        executable = await backend.load(**chosen)
        return await function(executable)

    return run_virtual(main)
