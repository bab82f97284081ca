"""A process that serves requests while others stop it: `python -m … MODEL` until told to end.

It prints "running" once requests are in flight, and at the end of its input one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np

from qaic_sched import Scheduler
from tests.hosts import expected, rows

IN_FLIGHT = 6
DISPATCH_TIMEOUT_S = 0.5
"""What is stopped for longer than this must not count as stuck."""


async def serve(model: str) -> dict[str, Any]:
    """Keep requests in flight until standard input ends; what became of them."""
    is_over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    problems: list[str] = []
    served = 0

    async def caller(scheduler: Scheduler, seed: int) -> None:
        nonlocal served
        inputs = rows(1 + seed % 3, seed)
        while not is_over.done():
            try:
                outputs = await scheduler.run(inputs, tenant=f"caller {seed}")
                np.testing.assert_allclose(outputs["mean"], expected(inputs), 1e-5)
            except Exception as error:
                problems.append(f"{type(error).__name__}: {error}")
                await asyncio.wait([is_over], timeout=0.05)
            served += 1

    health = {"dispatch_timeout_s": DISPATCH_TIMEOUT_S}
    options: dict[str, Any] = {"onnx_define_symbol": {"N": 2}} if model.endswith(".onnx") else {}
    async with Scheduler(model, devices=2, health=health, **options) as scheduler:
        callers = [asyncio.create_task(caller(scheduler, seed)) for seed in range(IN_FLIGHT)]
        await asyncio.sleep(0.5)
        print("running", flush=True)
        await asyncio.gather(*callers)
        metrics = scheduler.get_metrics()
    return {
        "served": served,
        "problems": problems,
        "errors": sum(each["errors"] for each in metrics["devices"].values()),
        "hedges": sum(each["hedges"] for each in metrics["devices"].values()),
        "states": [each["state"] for each in metrics["devices"].values()],
        "max_latency": metrics["max_latency"],
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(serve(sys.argv[1]))), flush=True)
