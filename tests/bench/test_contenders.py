"""What the scheduler is measured against does its work, and so does what loads the scheduler."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from math import prod
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from bench.by_hand import MicroBatcher, infer, infer_on_thread, load_all, run_in_slots
from bench.cards import Refill, card_file, rows_of
from bench.models import linear, resnet50
from bench.real_model import Layout, layouts
from bench.server import LIMIT_S, Offered, highest_rate
from bench.threadpool import BlockingCard
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual

if TYPE_CHECKING:
    from pathlib import Path


def test_the_micro_batcher_gives_each_row_its_own_answer() -> None:
    """19 rows fill two batches of 8, and the rest goes when the delay is over."""

    async def run() -> tuple[list[float], float]:
        async with load_all(path) as executables:
            batcher = MicroBatcher(executables, 2, 0.005)
            rows = [{"data": np.full((1, 16), i, np.float32)} for i in range(19)]
            answers = await asyncio.gather(*(batcher.submit(row) for row in rows))
            now = asyncio.get_running_loop().time()
        return [float(each["prob"][0, 0]) for each in answers], now

    with card_file(batch=8, service_s=0.010) as path:
        means, ended_at = run_virtual(run)

    assert means == list(range(19))
    assert ended_at == pytest.approx(0.030)


def test_tasks_by_hand_keep_every_slot_busy() -> None:
    """6 requests of 4 batches take 3 ms on 2 devices of 4 activations, 1 ms a batch."""

    async def run() -> float:
        async with load_all(path, 4) as executables:
            await run_in_slots(executables, 2, rows_of(32), 6)
            return asyncio.get_running_loop().time()

    with card_file(devices=2, batch=8, service_s=0.001) as path:
        assert run_virtual(run) == pytest.approx(0.003)


def test_a_bare_submit_gives_the_answer_on_the_loop(tmp_path: Path) -> None:
    """Of a device without threads, and of one with."""

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


def test_a_refill_keeps_so_many_requests_outstanding() -> None:
    """Each that is answered brings the next, until it is stopped."""

    async def run() -> None:
        async with Scheduler(path, queue={"max_samples": 8}) as scheduler:
            refill = Refill(scheduler, 20)
            await refill.run(30)
            counts = scheduler.statistics()
            assert counts.waiting + counts.queued + counts.in_flight == 20
            assert counts.done == 30
            refill.stop()
            await scheduler.aclose()

    with card_file(service_s=0.001) as path:
        run_virtual(run)


def test_a_blocking_card_runs_as_many_at_once_as_it_has_activations() -> None:
    """4 inferences of 5 ms on 2 activations cannot take less than 10 ms."""
    card = BlockingCard(2, 0.005)

    started = perf_counter()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(card.run, repeat(rows_of(1), 4)))

    assert perf_counter() - started >= 0.010
    assert [each["prob"].shape for each in answers] == [(1, 4)] * 4


@pytest.mark.parametrize("most_possible", [300.0, 717.0, 2000.0])
def test_the_highest_rate_is_found_by_halving(most_possible: float) -> None:
    """To within a hundredth of where it looks."""

    async def offer(rate: float) -> Offered:
        return Offered(rate, LIMIT_S * rate / most_possible, 1.0, 1.0)

    found = run_virtual(highest_rate, offer, 1000.0)

    assert found.rate <= most_possible
    assert found.rate == pytest.approx(min(most_possible, 1000.0), abs=10.0)


def test_onnxruntime_is_tried_with_all_ways_to_fill_the_cores() -> None:
    """Sessions times threads is always the number of cores."""
    assert layouts(4, (1, 8)) == [
        Layout(4, 1, 1),
        Layout(4, 1, 8),
        Layout(2, 2, 1),
        Layout(2, 2, 8),
        Layout(1, 4, 1),
        Layout(1, 4, 8),
    ]


@pytest.mark.slow
def test_the_model_made_here_is_resnet50(tmp_path: Path) -> None:
    """As many numbers as the one trained for ImageNet: 25,557,032, and 53,120 of statistics."""
    model = onnx.load(resnet50(tmp_path / "resnet50.onnx"))
    onnx.checker.check_model(model, full_check=True)

    sizes = [prod(each.dims) for each in model.graph.initializer]
    assert sum(sizes) == 25_557_032 + 53_120
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 53
