"""The interface of a scheduler: `Scheduler` satisfies it, and its users need nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from qaic_sched.core.values import DeviceStatistics, Statistics
from qaic_sched.errors import InputError, QueueFullError, SchedulerClosedError, SchedulerError
from qaic_sched.loadgen.targets.base import Outcome, Reply
from qaic_sched.loadgen.targets.scheduler import SchedulerTarget
from qaic_sched.program import Program, Tensors, TensorSpec
from qaic_sched.scheduler.api import (
    DeviceTotals,
    Inference,
    RequestHandle,
    SchedulerApi,
    Totals,
)
from qaic_sched.scheduler.blocking import blocking
from qaic_sched.scheduler.explain import Explanation
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.scheduler.mapping import map_requests
from qaic_sched.testing import run_virtual
from tests.hosts import host, rows, two_hosts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Mapping

    from qaic_sched.scheduler.request import ScheduledRequest

PROGRAM = Program.of(
    [TensorSpec("x", (4, 2), np.dtype("float32"))], [TensorSpec("y", (4,), np.dtype("float32"))]
)


def as_api(scheduler: Scheduler) -> SchedulerApi:
    """Return the scheduler; mypy checks that it satisfies the interface."""
    return scheduler


def as_handle(request: ScheduledRequest) -> RequestHandle:
    """Return the request; mypy checks that it satisfies the interface."""
    return request


class Answer:
    """A request of `Echo`, resolved when it is made."""

    def __init__(self, inputs: Mapping[str, Any], error: SchedulerError | None) -> None:
        self._outputs = {"y": np.asarray(inputs["x"]).mean(axis=1)}
        self._error = error

    def __await__(self) -> Generator[object, None, Tensors]:
        yield from asyncio.sleep(0).__await__()
        return self.result()

    @property
    def samples(self) -> int:
        return len(self._outputs["y"])

    @property
    def outcome(self) -> str:
        return "done" if self._error is None else "rejected"

    @property
    def inference(self) -> Inference | None:
        return Inference(7, 0, 1, 0.5, 0.5, 1.0)

    def done(self) -> bool:
        return True

    def cancelled(self) -> bool:
        return False

    def cancel(self) -> bool:
        return False

    def result(self) -> Tensors:
        if self._error is not None:
            raise self._error
        return self._outputs

    def add_done_callback(self, callback: Callable[[RequestHandle], object]) -> None:
        asyncio.get_running_loop().call_soon(callback, self)

    def explain(self) -> Explanation:
        return Explanation("done", None, (), 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)


class Echo:
    """A scheduler without a core, a pool or devices; requests of four samples are rejected."""

    def __init__(self) -> None:
        self.is_open = False

    async def __aenter__(self) -> Echo:
        self.is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def drain(self) -> None: ...

    async def aclose(self) -> None:
        self.is_open = False

    async def run(self, inputs: Mapping[str, Any], **options: Any) -> Tensors:
        return await self.submit(inputs, **options)

    def submit(self, inputs: Mapping[str, Any], **_: Any) -> Answer:
        full = QueueFullError("it would take 3 s", 1.0, 3.0)
        return Answer(inputs, full if len(inputs["x"]) == 4 else None)

    def map(self, stream: Any, *, ordered: bool = True, **_: Any) -> AsyncIterator[Tensors]:
        return map_requests(self.submit, stream, lambda: 4, ordered=ordered)

    def samples_to_keep_busy_of(self, model: str | None) -> int:
        return 4

    @property
    def programs(self) -> dict[str, Program]:
        return {"echo": self.program_of(None)}

    def program_of(self, model: str | None) -> Program:
        if not self.is_open:
            raise SchedulerClosedError("not open yet")
        return PROGRAM

    def config_for_report(self, *, model: str | None = None) -> dict[str, Any]:
        return {"model": "echo.onnx"}

    async def update_backend_options(self, *, model: str | None = None, **options: Any) -> None: ...

    def get_metrics(self) -> dict[str, Any]:
        return {"num_of_inferences": 3}

    def statistics(self, *, model: str | None = None) -> Statistics:
        zeros: dict[str, Any] = dict.fromkeys((each.name for each in fields(Statistics)), 0)
        return Statistics(**{**zeros, "devices": {0: DeviceStatistics("ready", 2, 0)}})

    def totals(self, *, model: str | None = None) -> Totals:
        return Totals(5, {0: DeviceTotals(3, 0.5)})


def test_the_handle_of_a_request_has_its_outcome(tmp_path: Path) -> None:
    """The handle has the outcome, the number of samples, and the inference that answered."""

    async def main() -> None:
        async with as_api(Scheduler(host(tmp_path))) as scheduler:
            small, large, late = (
                scheduler.submit(rows(3)),
                scheduler.submit(rows(20)),
                scheduler.submit(rows(1), timeout_s=0.001),
            )
            with pytest.raises(asyncio.InvalidStateError):
                _ = small.outcome
            assert small.inference is None
            await asyncio.gather(small, large, late, return_exceptions=True)

            assert [each.outcome for each in (small, large, late)] == ["done", "done", "expired"]
            assert [each.samples for each in (small, large, late)] == [3, 20, 1]
            assert [each.inference is None for each in (small, large, late)] == [False, True, True]
            inference = small.inference
            assert inference is not None
            assert (inference.device_id, inference.activation) == (0, 0)
            assert inference.completed_at == 0.010

    run_virtual(main)


def test_models_are_read_by_name(tmp_path: Path) -> None:
    """Programs and configurations are those of the named model; without a name it is an error."""

    async def main() -> None:
        unopened = as_api(Scheduler(two_hosts(tmp_path)))
        for use in (lambda: unopened.program_of("fast"), unopened.totals):
            with pytest.raises(SchedulerClosedError, match="not open yet"):
                use()
        async with unopened as scheduler:
            assert scheduler.program_of("slow") is scheduler.programs["slow"]
            assert scheduler.config_for_report(model="slow")["model"].endswith("slow/host.sim.yaml")
            assert msgspec.json.encode(scheduler.config_for_report(model="fast"))
            for read in (scheduler.program_of, scheduler.samples_to_keep_busy_of):
                with pytest.raises(InputError, match="runs several: fast, slow"):
                    read(None)
            with pytest.raises(InputError, match="runs several"):
                scheduler.config_for_report()

    run_virtual(main)


def test_totals_have_no_effect_on_scheduling(tmp_path: Path) -> None:
    """Reading totals between two requests of one turn does not split their batch."""

    async def main() -> int:
        async with Scheduler(host(tmp_path)) as scheduler:
            first = scheduler.submit(rows(2))
            assert scheduler.totals().queued_samples == 0
            await asyncio.gather(first, scheduler.submit(rows(2)))
            inferences: int = scheduler.get_metrics()["num_of_inferences"]
            return inferences

    assert run_virtual(main) == 1


def test_a_load_test_runs_on_any_scheduler() -> None:
    """The target of a load test needs nothing beyond the interface."""

    async def main() -> None:
        echo = Echo()
        target = SchedulerTarget(echo)
        info = await target.open()
        assert echo.is_open
        assert (info.name, info.activations) == ("echo", {0: 2})
        replies: list[Reply] = []
        for count in (1, 4):
            target.send({"x": np.ones((count, 2), np.float32)}, None, replies.append)
        await asyncio.sleep(0)
        done, rejected = replies
        assert (done.outcome, done.inference) == (Outcome.DONE, Inference(7, 0, 1, 0.5, 0.5, 1.0))
        assert rejected.outcome is Outcome.REJECTED
        assert rejected.problem == "QueueFullError: it would not be done within timeout_s"
        sample = target.sample()
        assert sample is not None
        assert (sample.queued_samples, sample.inferences) == (5, {0: 3})
        await target.aclose()
        assert not echo.is_open

    run_virtual(main)


@pytest.mark.slow
def test_the_blocking_front_runs_on_any_scheduler() -> None:
    """Requests, streams and metrics of the blocking front need nothing beyond the interface."""
    inputs = {"x": np.ones((2, 2), np.float32)}
    with blocking(Echo()) as scheduler:
        np.testing.assert_array_equal(scheduler.run(inputs)["y"], [1.0, 1.0])
        assert len(list(scheduler.map([inputs] * 5))) == 5
        assert scheduler.get_metrics() == {"num_of_inferences": 3}
        with pytest.raises(QueueFullError, match="3 s"):
            scheduler.run({"x": np.ones((4, 2), np.float32)})
