"""Real models on the CPU: samples per second compared with ONNX Runtime alone.

The models are Magika's and ResNet50 with random weights. First, ONNX Runtime alone runs with every
number of threads that divides the cores, with as many sessions as fill them, each on a Python
thread, and with several batch sizes. Then the fastest layout alternates with the scheduler, whose
devices are laid out in the same way. p99 is that of an inference on both sides. CPU time shows the
cost of the scheduler even if other programs use the machine. The short form runs Magika at one
batch size.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from bench.cards import Cost
from bench.models import resnet50
from bench.result import Result, at_least, compare
from bench.rounds import ROUNDS, alternate, run_on_uvloop
from qaic_sched.backends.choose import find_model
from qaic_sched.backends.cpu.cores import usable_cores
from qaic_sched.backends.cpu.onnx_model import import_onnxruntime
from qaic_sched.metrics.histogram import Histogram
from qaic_sched.scheduler.front import Scheduler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.rounds import Contender
    from qaic_sched.program import Tensors

__all__ = ["BenchmarkModel", "Plain", "SessionLayout", "layouts", "measure"]

MAGIKA = "pkg://magika/models/standard_v3_3/model.onnx"
BATCHES = (1, 4, 8, 16)
TRIALS = 3
"""Runs of each layout, whose median rate selects the fastest."""
OURS = "scheduler.map"
ALONE = "onnxruntime alone"


class BenchmarkModel(NamedTuple):
    """A model file, and one sample of random input for it."""

    name: str
    path: str
    symbol: str
    """The symbolic dimension of the batch axis."""
    source: str
    """The name of the input."""
    sample: Any

    def inputs(self, batch: int) -> Tensors:
        """Make a full batch of the sample."""
        return {self.source: np.repeat(self.sample[np.newaxis], batch, axis=0)}


class SessionLayout(NamedTuple):
    """A layout of ONNX Runtime: parallel sessions, threads of each, and the batch size."""

    sessions: int
    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.sessions} session(s) of {self.threads} thread(s), batch {self.batch}"


class Speed(NamedTuple):
    """The speed of a run."""

    rate: float
    """Samples per second."""
    cpu_ms: float
    """CPU time of this process per sample."""
    p99_ms: float
    """99th percentile of the time of an inference."""


def layouts(cores: int, batches: tuple[int, ...]) -> list[SessionLayout]:
    """Return every layout whose sessions and threads fill the cores."""
    threads = [each for each in range(1, cores + 1) if cores % each == 0]
    return [SessionLayout(cores // each, each, batch) for each in threads for batch in batches]


def measure(is_short: bool) -> list[Result]:
    """Measure samples per second, CPU time and p99 of each model."""
    with TemporaryDirectory() as folder:
        models = [_magika()] if is_short else [_magika(), _resnet50(Path(folder))]
        return [
            result
            for model in models
            for result in run_on_uvloop(_results(model, Path(folder), is_short))
        ]


def _magika() -> BenchmarkModel:
    tokens = np.random.default_rng(1).integers(0, 256, 2048, np.int32)
    path = find_model(MAGIKA)
    [source] = import_onnxruntime().InferenceSession(path).get_inputs()
    return BenchmarkModel("Magika", path, source.shape[0], source.name, tokens)


def _resnet50(folder: Path) -> BenchmarkModel:
    image = np.random.default_rng(1).standard_normal((3, 224, 224), np.float32)
    return BenchmarkModel("ResNet50", resnet50(folder / "resnet50.onnx"), "N", "data", image)


async def _results(model: BenchmarkModel, folder: Path, is_short: bool) -> list[Result]:
    seconds = 0.5 if is_short else 4.0
    best, batches = await _best_layout(model, (8,) if is_short else BATCHES, seconds)
    options: dict[str, Any] = {
        "backend": "cpu",
        "devices": best.sessions,
        "onnx_define_symbol": {model.symbol: best.batch},
        "output_dir": str(folder / model.name),
    }
    inputs = model.inputs(best.batch)

    async def ours() -> Speed:
        async with Scheduler(model.path, **options) as scheduler:
            await asyncio.gather(*(scheduler.run(inputs) for _ in range(2 * best.sessions)))
            wall, cpu = perf_counter(), process_time()
            async for _ in scheduler.map(repeat(inputs, batches), ordered=False):
                pass
            cost = Cost.since(wall, cpu, batches * best.batch)
            return Speed(cost.rate, cost.cpu_us / 1e3, 1e3 * scheduler.get_metrics()["P99"])

    async def alone() -> Speed:
        with opened(model, best) as plain:
            return plain.run(batches)

    contenders: dict[str, Contender[Speed]] = {OURS: ours, ALONE: alone}
    speeds = await alternate(contenders, ROUNDS)
    return _compared(model, best, speeds)


def _compared(
    model: BenchmarkModel, best: SessionLayout, speeds: dict[str, list[Speed]]
) -> list[Result]:
    ours, alone = zip(*speeds[OURS], strict=True), zip(*speeds[ALONE], strict=True)
    rates, cpu, p99 = zip(ours, alone, strict=True)
    note = f"fastest layout of onnxruntime alone: {best}"

    def result(
        what: str, unit: str, columns: Any, better: Literal["higher", "lower"], **more: Any
    ) -> Result:
        metric = f"{model.name}, {what}"
        value, other = columns
        return compare("real_model", metric, unit, value, ALONE, other, better=better, **more)

    return [
        result("samples", "1/s", rates, "higher", targets=[at_least(0.98)], note=note),
        result("CPU of a sample", "ms", cpu, "lower"),
        result("p99 of an inference", "ms", p99, "lower"),
    ]


async def _best_layout(
    model: BenchmarkModel, batches: tuple[int, ...], seconds: float
) -> tuple[SessionLayout, int]:
    """Return the fastest layout, and the number of batches that it runs in about `seconds`."""

    async def rate(layout: SessionLayout) -> float:
        with opened(model, layout) as plain:
            first = plain.run(2 * layout.sessions)
            count = max(2 * layout.sessions, round(first.rate * seconds / 4 / layout.batch))
            return plain.run(count).rate

    choices = {str(each): each for each in layouts(len(usable_cores()), batches)}
    contenders: dict[str, Contender[float]] = {
        name: partial(rate, layout) for name, layout in choices.items()
    }
    rates = {
        choices[name]: median(trials)
        for name, trials in (await alternate(contenders, TRIALS, warm_up=0)).items()
    }
    best = max(rates, key=rates.__getitem__)
    return best, max(8 * best.sessions, round(rates[best] * seconds / best.batch))


class Plain:
    """ONNX Runtime as a user would run it for throughput: one session per thread."""

    def __init__(
        self, model: BenchmarkModel, layout: SessionLayout, pool: ThreadPoolExecutor
    ) -> None:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = layout.threads
        providers = ["CPUExecutionProvider"]
        self._pool = pool
        self._layout = layout
        self._inputs = model.inputs(layout.batch)
        self._sessions = [
            ort.InferenceSession(model.path, options, providers) for _ in range(layout.sessions)
        ]
        for session in self._sessions:  # warm-up
            session.run(None, self._inputs)

    def run(self, batches: int) -> Speed:
        """Run `batches` batches, each on the next free session, and return the speed."""
        left = iter(range(batches))
        wall, cpu = perf_counter(), process_time()
        loops = [self._pool.submit(self._keep_busy, each, left) for each in self._sessions]
        times = [time for each in loops for time in each.result()]
        cost = Cost.since(wall, cpu, batches * self._layout.batch)
        histogram = Histogram()
        for time in times:
            histogram.record(time)
        return Speed(cost.rate, cost.cpu_us / 1e3, 1e3 * histogram.percentile(99))

    def _keep_busy(self, session: Any, left: Iterator[int]) -> list[float]:
        times = []
        for _ in left:
            started = perf_counter()
            session.run(None, self._inputs)
            times.append(perf_counter() - started)
        return times


@contextmanager
def opened(model: BenchmarkModel, layout: SessionLayout) -> Iterator[Plain]:
    """Open ONNX Runtime with a layout until the context ends."""
    with ThreadPoolExecutor(layout.sessions) as pool:
        yield Plain(model, layout, pool)
