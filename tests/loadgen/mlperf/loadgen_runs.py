"""Runs under LoadGen on simulated cards, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qaic_sched.loadgen.mlperf.run import run_loadgen
from qaic_sched.loadgen.plan.plan import Plan
from tests.hosts import host
from tests.loadgen.loadgen_targets import CountingTarget, library_of

__all__ = ["cards", "run"]


def cards(folder: Path, **changes: Any) -> CountingTarget:
    """8 devices of 4 activations, 2 ms an inference of one sample."""
    options: dict[str, Any] = {"batch": 1, "devices": 8, "service_time_s": 0.002, **changes}
    return CountingTarget(host(folder, **options), num_activations=4)


async def run(target: CountingTarget, plan: Plan, folder: Path, **options: Any) -> dict[str, Any]:
    """One run under LoadGen."""
    info = await target.open()
    try:
        inputs = library_of(info)
        return await run_loadgen(target, info, inputs, plan, output_dir=folder / "logs", **options)
    finally:
        await target.aclose()
