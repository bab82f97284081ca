"""The baselines that stand in for the scheduler return the right answers on every slot."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bench.baselines import MicroBatcher, infer, infer_on_thread, load_all, run_in_slots
from bench.cards import card_file, rows_of
from bench.models import linear
from qaic_sched.testing import run_virtual

if TYPE_CHECKING:
    from pathlib import Path


def test_the_micro_batcher_answers_each_sample() -> None:
    """19 samples fill two batches of 8, and the rest is sent after the delay."""

    async def run() -> tuple[list[float], float]:
        async with load_all(path) as executables:
            batcher = MicroBatcher(executables, 2, 0.005)
            rows = [{"data": np.full((1, 16), i, np.float32)} for i in range(19)]
            answers = await asyncio.gather(*(batcher.submit(row) for row in rows))
            now = asyncio.get_running_loop().time()
        return [float(each["prob"][0, 0]) for each in answers], now

    with card_file(batch=8, execute_s=0.010) as path:
        means, ended_at = run_virtual(run)

    assert means == list(range(19))
    assert ended_at == pytest.approx(0.030)


def test_tasks_keep_every_slot_busy() -> None:
    """6 requests of 4 batches of 1 ms take 3 ms on 2 devices of 4 activations."""

    async def run() -> float:
        async with load_all(path, 4) as executables:
            await run_in_slots(executables, 2, rows_of(32), 6)
            return asyncio.get_running_loop().time()

    with card_file(devices=2, batch=8, execute_s=0.001) as path:
        assert run_virtual(run) == pytest.approx(0.003)


def test_a_bare_submit_returns_the_answer_on_the_loop(tmp_path: Path) -> None:
    """A bare submit works for devices with and without threads."""

    async def run(path: str, call: Any, **options: Any) -> Any:
        async with load_all(path, **options) as [executable]:
            return await call(executable, 0, inputs)

    inputs = rows_of(1)
    with card_file() as path:
        assert (run_virtual(run, path, infer)["prob"] == 1).all()
    options = {
        "backend": "cpu",
        "devices": [0],
        "onnx_define_symbol": {"N": 1},
        "output_dir": str(tmp_path / "compiled"),
    }
    path = linear(tmp_path / "linear.onnx", 16)
    answer = asyncio.run(run(path, infer_on_thread, **options))
    assert answer["prob"].shape == (1, 16)
