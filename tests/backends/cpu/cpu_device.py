"""Loads models on CPU devices, and runs inferences on them."""

from __future__ import annotations

import asyncio
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from qaic_sched.backends.cpu import CpuBackend
from qaic_sched.backends.cpu.executable import CpuActivation, CpuExecutable
from qaic_sched.config.keys import ModelOptions

if TYPE_CHECKING:
    pass


__all__ = ["backend", "close", "cpu_threads", "infer", "load"]


def backend(path: str, **options: Any) -> CpuBackend:
    """A backend for the model at `path` with these options."""
    return CpuBackend(path, ModelOptions(**options))


def load(model: CpuBackend, num_activations: int = 1, devices: Any = "all") -> CpuExecutable:
    """Load the model on the first of the devices."""

    async def main() -> CpuExecutable:
        [first, *_] = await model.select(devices)
        return await model.load(first, num_activations, 2)

    return asyncio.run(main())


def close(executable: CpuExecutable) -> None:
    """Close on a new event loop, as the blocking Session may."""
    asyncio.run(executable.aclose())


def infer(executable: CpuExecutable, inputs: Any, activation: int = 0) -> Any:
    """Run one inference; its outputs or its `DeviceError`."""
    results: SimpleQueue[Any] = SimpleQueue()
    executable.submit(activation, inputs, lambda result, completed_at: results.put(result))
    return results.get(timeout=10)


def cpu_threads() -> list[threading.Thread]:
    """The live threads of activations."""
    return [thread for thread in threading.enumerate() if isinstance(thread, CpuActivation)]
