"""A process that serves requests while others stop it: `python -m tests.scheduler.served_child`.

It takes the model and "asyncio" or "uvloop", prints "running" once requests are in flight, serves
until its standard input ends, and prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
import uvloop

from qaic_sched import Scheduler
from tests.models import linear, linear_inputs

_CALLERS = 6
_DISPATCH_TIMEOUT_S = 0.4
"""An inference that takes longer is stuck; a pause of the process that takes longer is not."""


async def _serve(model: str) -> dict[str, Any]:
    is_over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    problems: list[str] = []
    served = 0

    async def call(scheduler: Scheduler, seed: int) -> None:
        nonlocal served
        while not is_over.done():
            inputs = linear_inputs(1 + served % 3, seed)
            try:
                outputs = await scheduler.run(inputs)
                if model.endswith(".onnx"):
                    np.testing.assert_array_equal(outputs["y"], linear(**inputs))
            except Exception as error:
                problems.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.01)
            served += 1

    health = {"dispatch_timeout_s": _DISPATCH_TIMEOUT_S}
    options: dict[str, Any] = {"onnx_define_symbol": {"N": 4}} if model.endswith(".onnx") else {}
    async with Scheduler(model, devices=2, health=health, **options) as scheduler:
        callers = [asyncio.create_task(call(scheduler, seed)) for seed in range(_CALLERS)]
        await asyncio.sleep(0.3)
        print("running", flush=True)
        await asyncio.gather(*callers)
        metrics = scheduler.get_metrics()
        devices = metrics["devices"].values()
    return {
        "problems": problems,
        "served": served,
        "errors": sum(each["errors"] for each in devices),
        "states": [each["state"] for each in devices],
        "max_latency": metrics["max_latency"],
    }


if __name__ == "__main__":
    run = uvloop.run if sys.argv[2] == "uvloop" else asyncio.run
    print(json.dumps(run(_serve(sys.argv[1]))), flush=True)
