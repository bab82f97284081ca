"""Loads programs on the stand-in's cards, and runs inferences on them."""

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
    """A backend for the QPC with these options."""
    return AicBackend(path, ModelOptions(**options))


def rows(count: int = 8, seed: int = 0) -> dict[str, Any]:
    """Inputs of so many random rows."""
    return {"x": np.random.default_rng(seed).random((count, 4), dtype=np.float32)}


def expected(inputs: dict[str, Any]) -> Any:
    """What the stand-in computes: each row's mean, in both columns."""
    means = inputs["x"].astype(np.float64).mean(axis=1).astype(np.float32)
    return np.repeat(means[:, None], 2, axis=1)


def on_card(
    path: str,
    test: Callable[[AicExecutable], Coroutine[Any, Any, None]],
    num_activations: int = 1,
    set_size: int = 2,
    **options: Any,
) -> AicExecutable:
    """Run `test(executable)` on the program loaded on device 0, and close it; gives it back."""

    async def main() -> AicExecutable:
        executable = await backend(path, **options).load(0, num_activations, set_size)
        try:
            await test(executable)
        finally:
            await executable.aclose()
        return executable

    return asyncio.run(main())


def start(executable: AicExecutable, inputs: Any, activation: int = 0) -> asyncio.Future[Any]:
    """Start an inference; what it ends with, outputs or an error."""
    loop = asyncio.get_running_loop()
    answered = loop.create_future()
    answers: SimpleQueue[Any] = SimpleQueue()

    def on_completed(answer: Any, completed_at: float) -> None:
        answers.put(completed_at)
        assert answers.qsize() == 1, "answered twice"
        loop.call_soon_threadsafe(answered.set_result, answer)

    executable.submit(activation, inputs, on_completed)
    return answered


def until(condition: Callable[[], object], limit_s: float = 5.0) -> None:
    """Wait for what another thread does; fails after the limit."""
    give_up_at = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up_at, "it did not happen"
        time.sleep(0.001)
