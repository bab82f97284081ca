"""The promises of the project as a whole, with real models and on simulated hosts."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import uvloop
import yaml

from qaic_sched import ConfigError, Scheduler, SchedulerError
from qaic_sched.testing import run_virtual
from tests.hosts import check_log, expected, host, rows
from tests.models import linear_inputs, linear_model, unbatched_model

MAGIKA = "pkg://magika/models/standard_v3_3/model.onnx"


@pytest.mark.slow
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("concurrency", [1, 16, 256])
def test_outputs_equal_onnxruntime(
    tmp_path: Path,
    checked_log: str,
    concurrency: int,
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """For any mix of request sizes and concurrency, outputs equal those of onnxruntime."""
    model = linear_model(tmp_path / "model.onnx")
    reference = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(concurrency)
    several = [linear_inputs(int(random.integers(1, 41)), seed) for seed in range(512)]

    async def main() -> None:
        room = asyncio.Semaphore(concurrency)
        options: dict[str, Any] = {"devices": 2, "onnx_define_symbol": {"N": 8}}
        async with Scheduler(model, event_log=checked_log, **options) as scheduler:

            async def one(inputs: dict[str, Any]) -> None:
                async with room:
                    outputs = await scheduler.run(inputs)
                np.testing.assert_allclose(
                    outputs["y"], reference.run(["y"], inputs)[0], rtol=0, atol=1e-5
                )

            await asyncio.gather(*map(one, several))
            assert scheduler.statistics().done == 512

    run_on(new_loop, main)


@pytest.mark.slow
def test_magika_equals_onnxruntime() -> None:
    """A trained model answers mixed request sizes on two devices as onnxruntime does."""
    from qaic_sched.backends.choose import find_model

    reference = onnxruntime.InferenceSession(find_model(MAGIKA))
    random = np.random.default_rng(0)
    several = [
        {"bytes": random.integers(0, 257, (count, 2048)).astype(np.int32)}
        for count in (1, 2, 3, 5, 8, 13, 21, 40)
    ]

    async def main() -> None:
        options: dict[str, Any] = {"devices": 2, "onnx_define_symbol": {"unk__214": 8}}
        async with Scheduler(MAGIKA, **options) as scheduler:
            answers = await asyncio.gather(*map(scheduler.run, several))
        for inputs, outputs in zip(several, answers, strict=True):
            wanted = reference.run(["target_label"], inputs)[0]
            np.testing.assert_allclose(outputs["target_label"], wanted, rtol=0, atol=1e-5)

    asyncio.run(main())


def test_a_model_without_a_batch_axis_runs_one_request_at_a_time(tmp_path: Path) -> None:
    """Each request has exactly the model's shapes and is one inference."""
    model = unbatched_model(tmp_path / "model.onnx")
    random = np.random.default_rng(0)

    async def main() -> None:
        async with Scheduler(model, devices=2, hedging={"enabled": False}) as scheduler:

            async def one() -> None:
                x, w = random.random((2, 3), np.float32), random.random(3, np.float32)
                outputs = await scheduler.run({"x": x, "w": w})
                np.testing.assert_array_equal(outputs["y"], x * w)

            await asyncio.gather(*(one() for _ in range(20)))
            assert scheduler.get_metrics()["num_of_inferences"] == 20

    asyncio.run(main())


def run_requests(model: str, log: Path, count: int) -> str:
    """Run `count` requests of mixed sizes, check outputs and log; return the log's digest."""
    random = np.random.default_rng(7)
    gaps = random.exponential(1 / 380.0, count).tolist()
    sizes = random.integers(1, 25, count).tolist()
    data = random.random((25, 4), dtype=np.float32)
    wanted = expected({"data": data})
    resolved = 0

    async def main() -> None:
        nonlocal resolved
        async with Scheduler(model, event_log=str(log)) as scheduler:

            async def one(size: int) -> None:
                nonlocal resolved
                start = size % (26 - size)
                outputs = await scheduler.run({"data": data[start : start + size]})
                assert np.array_equal(outputs["mean"], wanted[start : start + size])
                resolved += 1

            async with asyncio.TaskGroup() if hasattr(asyncio, "TaskGroup") else _Tasks() as tasks:
                for gap, size in zip(gaps, sizes, strict=True):
                    await asyncio.sleep(gap)
                    tasks.create_task(one(size))
            statistics = scheduler.statistics()
            assert statistics.accepted == statistics.done == count

    run_virtual(main)
    assert resolved == count
    check_log(log)
    return hashlib.sha256(log.read_bytes()).hexdigest()


class _Tasks:
    """The part of `asyncio.TaskGroup` that is used here, for Python 3.10."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.ensure_future(coroutine))

    async def __aenter__(self) -> _Tasks:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._tasks)


@pytest.mark.slow
def test_100_000_requests_on_8_devices_twice(tmp_path: Path) -> None:
    """Each request is resolved once and right, invariants hold, and the same seed gives one log."""
    model = host(
        tmp_path,
        devices=8,
        batch_sizes=[1, 2, 4, 8],
        service_time_s={1: 0.004, 2: 0.005, 4: 0.007, 8: 0.010},
        service_time_cv=0.2,
        host_turnaround_s=0.0003,
    )
    with ProcessPoolExecutor(2, get_context("spawn")) as processes:
        runs = [
            processes.submit(run_requests, model, tmp_path / name, 100_000)
            for name in ("first.jsonl", "second.jsonl")
        ]
        first, second = (run.result() for run in runs)
    assert first == second


@pytest.mark.parametrize("cycles", [50])
def test_opening_and_closing_leaks_nothing(tmp_path: Path, cycles: int) -> None:
    """After 50 cycles of opening, running and closing, no thread or open file is left."""
    onnx = linear_model(tmp_path / "model.onnx", batch=4)
    simulated = host(tmp_path)

    async def cycle() -> None:
        async with Scheduler(onnx, devices=2) as scheduler:
            await scheduler.run(linear_inputs(3))
        async with Scheduler(simulated) as scheduler:
            await scheduler.run(rows(3))

    async def main() -> None:
        await cycle()
        before = _threads_and_files()
        for _ in range(cycles):
            await cycle()
        assert _threads_and_files() == before

    asyncio.run(main())


def _threads_and_files() -> tuple[int, int]:
    files = Path("/proc/self/fd")
    return threading.active_count(), len(os.listdir(files)) if files.exists() else 0


@pytest.mark.parametrize("content", [b"", b"not a model at all", None])
def test_a_bad_model_is_one_clear_error(tmp_path: Path, content: bytes | None) -> None:
    """A missing, empty or non-ONNX file is a `ConfigError` that names it."""
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.onnx"):
        asyncio.run(_open(str(path)))


def test_a_truncated_model_is_one_clear_error(tmp_path: Path) -> None:
    """Half of an ONNX file is a `ConfigError` that names it."""
    path = Path(linear_model(tmp_path / "half.onnx"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ConfigError, match=r"half\.onnx"):
        asyncio.run(_open(str(path)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "yaml:1:9"),
        ("model: m.onnx\nqueue: {max_samples: many}", "queue.max_samples"),
        ("model: m.onnx\nqueue: {max_sample: 3}", "max_samples"),
        ("model: m.onnx\nbatchin: {max_queue_delay_s: 1}", "batching"),
        ("devices: 2", "model"),
        ("model: m.onnx\nnum_activations: -1", "num_activations"),
    ],
)
def test_a_bad_configuration_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    """Invalid YAML, wrong types and misspelt keys are a `ConfigError` that says where."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        Scheduler.from_config(path)
    assert "config.yaml" in str(error.value)


def test_shipped_configurations_open() -> None:
    """Each scheduler configuration in configs/ is valid and its model is found."""
    files = [each for each in Path("configs").glob("*.yaml") if ".sim." not in each.name]
    assert len(files) >= 3
    for path in files:
        assert yaml.safe_load(path.read_text())["model"]
        scheduler = Scheduler.from_config(path)
        assert "not open yet" in repr(scheduler)


async def _open(model: str) -> None:
    async with Scheduler(model):
        raise SchedulerError("it opened")


def run_on(
    new_loop: Callable[[], asyncio.AbstractEventLoop], main: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """`asyncio.run` on a loop of the given kind, on every supported Python."""
    loop = new_loop()
    try:
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
