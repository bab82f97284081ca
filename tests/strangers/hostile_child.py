"""A process in which hostile callers share a scheduler with honest ones: what became of those.

`python -m tests.strangers.hostile_child KIND FOLDER [ACT…]` serves until its input ends. It prints
"running" once all are at work, and at last one line of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np

from qaic_sched import InternalError, Scheduler
from tests.hosts import expected, host
from tests.models import FLOAT, save_model, tensor
from tests.strangers.coupled_models import INT64, node
from tests.strangers.hostile_acts import ACTS, Bed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.strangers.hostile_acts import Act, Random

HONEST = 4
HOSTILE = 4
ENOUGH_PROBLEMS = 20
"""After so many there is nothing more to learn."""
DISPATCH_TIMEOUT_S = 1.0
TABLE = np.arange(16, dtype=np.float32).reshape(8, 2)


def cpu_bed(folder: Path) -> Bed:
    """Rows of a table by id, and the mean of four numbers added."""
    nodes = [
        node("Gather", ["table", "ids"], ["row"]),
        node("ReduceMean", ["data"], ["mean"], axes=[1], keepdims=1),
        node("Add", ["row", "mean"], ["y"]),
    ]
    inputs = [tensor("ids", ["N"], INT64), tensor("data", ["N", 4], FLOAT)]
    model = save_model(
        folder / "model.onnx", nodes, inputs, [tensor("y", ["N", 2])], {"table": TABLE}
    )

    def make(random: Random, count: int) -> dict[str, Any]:
        data = random.random((count, 4), np.float32)
        return {"ids": random.integers(0, 8, count), "data": data}

    def wanted(given: Mapping[str, Any]) -> Any:
        return TABLE[given["ids"]] + given["data"].mean(axis=1, keepdims=True)

    return Bed(model, {"devices": 2, "onnx_define_symbol": {"N": 8}}, make, wanted, "y")


def cards_bed(folder: Path) -> Bed:
    """Four simulated cards in real time."""
    model = host(folder, devices=4, service_time_s=0.004, service_time_cv=0.5)

    def make(random: Random, count: int) -> dict[str, Any]:
        return {"data": random.random((count, 4), np.float32)}

    return Bed(model, {"num_activations": 2}, make, lambda given: expected(dict(given)), "mean")


BEDS = {"cpu": cpu_bed, "cards": cards_bed}


class Game:
    """Honest and hostile callers at one scheduler."""

    def __init__(self, bed: Bed, acts: list[Act]) -> None:
        self.bed = bed
        self.acts = acts
        self.is_over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()

    def goes_on(self) -> bool:
        """Whether there is more to learn."""
        return not self.is_over.done() and len(self.problems) < ENOUGH_PROBLEMS

    async def be_honest(self, scheduler: Scheduler, seed: int) -> None:
        """Send valid requests and look at the answers."""
        random = np.random.default_rng(seed)
        while self.goes_on():
            inputs = self.bed.make(random, int(random.integers(1, 20)))
            try:
                outputs = await scheduler.run(inputs, tenant=f"honest {seed}")
                wanted = self.bed.expected(inputs)
                np.testing.assert_allclose(outputs[self.bed.output], wanted, 1e-5)
            except Exception as error:
                self.problems.append(f"{type(error).__name__}: {error}"[:300])
            self.counts["honest"] += 1
            await asyncio.sleep(0.002)

    async def be_hostile(self, scheduler: Scheduler, seed: int) -> None:
        """Do one act after the other; only a broken scheduler is a problem."""
        random = np.random.default_rng(1000 + seed)
        while self.goes_on():
            act = self.acts[int(random.integers(len(self.acts)))]
            task = asyncio.ensure_future(act(scheduler, self.bed, random))
            _, unfinished = await asyncio.wait([task], timeout=20)
            if unfinished:
                self.problems.append(f"{act.__name__} never ended")
                task.cancel()
            elif not task.cancelled() and isinstance(task.exception(), InternalError):
                self.problems.append(f"{act.__name__}: {task.exception()}"[:300])
            self.counts[act.__name__] += 1
            await asyncio.sleep(0.005)


async def play(kind: str, folder: Path, acts: list[Act]) -> dict[str, Any]:
    """Let all call until the input ends; problems, counts, memory and the devices' states."""
    bed = BEDS[kind](folder)
    game = Game(bed, acts)
    options = {"event_log": str(folder / "log.jsonl"), **bed.options}
    health = {"dispatch_timeout_s": DISPATCH_TIMEOUT_S}
    memory_kb = []
    async with Scheduler(bed.model, health=health, **options) as scheduler:
        tasks = [asyncio.create_task(game.be_honest(scheduler, seed)) for seed in range(HONEST)]
        tasks += [asyncio.create_task(game.be_hostile(scheduler, seed)) for seed in range(HOSTILE)]
        await asyncio.sleep(0.5)
        print("running", flush=True)
        while game.goes_on():
            await asyncio.wait([game.is_over], timeout=1)
            memory_kb.append(resident_kb())
        await asyncio.gather(*tasks)
        with anyio.fail_after(20):
            inputs = bed.make(np.random.default_rng(0), 20)
            try:
                np.testing.assert_allclose(
                    (await scheduler.run(inputs))[bed.output], bed.expected(inputs), 1e-5
                )
            except Exception as error:
                game.problems.append(f"afterwards: {error!r}"[:300])
        states = [each["state"] for each in scheduler.get_metrics()["devices"].values()]
    return {
        "problems": game.problems,
        "counts": game.counts,
        "memory_kb": memory_kb,
        "states": states,
    }


def resident_kb() -> int:
    """The memory that this process has now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


if __name__ == "__main__":
    logging.disable()
    chosen = [each for each in ACTS if each.__name__ in sys.argv[3:]] or ACTS
    print(json.dumps(asyncio.run(play(sys.argv[1], Path(sys.argv[2]), chosen))), flush=True)
