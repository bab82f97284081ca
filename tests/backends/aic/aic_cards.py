"""Loads programs on the stand-in's devices, and runs inferences on them."""

from __future__ import annotations

import asyncio
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from qaic_sched.backends.aic import AicBackend
from qaic_sched.config.keys import ModelOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from qaic_sched.backends.aic.executable import AicExecutable

__all__ = ["backend", "expected", "on_card", "rows", "start", "until"]


def backend(path: str, **options: Any) -> AicBackend:
    """A backend for the QPC at `path` with these options."""
    return AicBackend(path, ModelOptions(**options))


def rows(count: int = 8, seed: int = 0) -> dict[str, Any]:
    """Inputs of `count` random rows."""
    return {"x": np.random.default_rng(seed).random((count, 4), dtype=np.float32)}


def expected(inputs: dict[str, Any]) -> Any:
    """The outputs of the stand-in: the mean of each row, in both columns."""
    means = inputs["x"].astype(np.float64).mean(axis=1).astype(np.float32)
    return np.repeat(means[:, None], 2, axis=1)


def on_card(
    path: str,
    test: Callable[[AicExecutable], Coroutine[Any, Any, None]],
    num_activations: int = 1,
    set_size: int = 2,
    **options: Any,
) -> AicExecutable:
    """Load the program on device 0, run `test(executable)`, and return the closed executable."""

    async def main() -> AicExecutable:
        executable = await backend(path, **options).load(0, num_activations, set_size)
        try:
            await test(executable)
        finally:
            await executable.aclose()
        return executable

    return asyncio.run(main())


def start(executable: AicExecutable, inputs: Any, activation: int = 0) -> asyncio.Future[Any]:
    """Start an inference; the future of its outputs or its error."""
    loop = asyncio.get_running_loop()
    completed = loop.create_future()
    times: SimpleQueue[float] = SimpleQueue()

    def on_completed(result: Any, completed_at: float) -> None:
        times.put(completed_at)
        assert times.qsize() == 1, "completed twice"
        loop.call_soon_threadsafe(completed.set_result, result)

    executable.submit(activation, inputs, on_completed)
    return completed


def until(condition: Callable[[], object], limit_s: float = 5.0) -> None:
    """Wait until another thread makes the condition true; fail after the limit."""
    give_up_at = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up_at, "the condition never came true"
        time.sleep(0.001)
