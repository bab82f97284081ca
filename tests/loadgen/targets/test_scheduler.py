"""A scheduler as the target: each reply has the outcome of its request."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from qaic_sched.errors import InputError
from qaic_sched.loadgen.targets.base import Outcome, Reply
from qaic_sched.loadgen.targets.scheduler import SchedulerTarget
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import expected, host, rows


async def ask(target: SchedulerTarget, inputs: Any, timeout_s: float | None = None) -> Reply:
    """Send one request and wait for its reply."""
    future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    target.send(inputs, timeout_s, future.set_result)
    return await future


def test_tells_what_it_is(tmp_path: Path) -> None:
    """The facts are the model, its inputs, activations by device, and the configuration."""

    async def main() -> None:
        target = SchedulerTarget(Scheduler(host(tmp_path, devices=3), num_activations=2))
        info = await target.open()

        assert info.name.endswith("host.sim.yaml")
        assert [(each.name, each.shape) for each in info.inputs] == [("data", (8, 4))]
        assert (info.max_batch_size, info.is_batched) == (8, True)
        assert info.activations == {0: 2, 1: 2, 2: 2}
        assert info.config["num_activations"] == 2
        await target.aclose()

    run_virtual(main)


def test_a_request_in_one_part_has_its_inference(tmp_path: Path) -> None:
    """The reply has the outputs, and where and when the inference ran."""

    async def main() -> None:
        target = SchedulerTarget(Scheduler(host(tmp_path)))
        await target.open()
        await asyncio.sleep(1.0)
        inputs = rows(3)
        reply = await ask(target, inputs)

        assert (reply.outcome, reply.problem) == (Outcome.DONE, None)
        assert reply.outputs is not None
        np.testing.assert_array_equal(reply.outputs["mean"], expected(inputs))
        inference = reply.inference
        assert inference is not None
        assert (inference.device_id, inference.activation) == (0, 0)
        assert (inference.submitted_at, inference.started_at) == (1.0, 1.0)
        assert inference.completed_at == 1.010
        await target.aclose()

    run_virtual(main)


def test_requests_of_one_batch_have_the_same_inference(tmp_path: Path) -> None:
    """Their replies have the id of the inference that answered all of them."""

    async def main() -> None:
        target = SchedulerTarget(Scheduler(host(tmp_path)))
        await target.open()
        replies = await asyncio.gather(*(ask(target, rows(2)) for _ in range(8)))
        ids = [reply.inference.id for reply in replies if reply.inference is not None]

        assert ids == [ids[0]] * 4 + [ids[4]] * 4
        assert ids[0] != ids[4]
        await target.aclose()

    run_virtual(main)


def test_a_request_in_several_parts_has_none(tmp_path: Path) -> None:
    """Several inferences answered it, so its reply names none."""

    async def main() -> None:
        target = SchedulerTarget(Scheduler(host(tmp_path)))
        await target.open()
        reply = await ask(target, rows(20))

        assert reply.outcome is Outcome.DONE
        assert reply.inference is None
        await target.aclose()

    run_virtual(main)


def test_every_other_end_is_told_as_what_it_was(tmp_path: Path) -> None:
    """Failed, expired and rejected requests have their outcome and a problem."""

    async def main() -> None:
        broken = host(tmp_path, faults=[{"kind": "error", "probability": 1.0}])
        target = SchedulerTarget(Scheduler(broken))
        await target.open()
        failed = await ask(target, rows(1))
        await target.aclose()

        options = {"queue": {"max_samples": 8, "when_full": "reject"}}
        slow = SchedulerTarget(Scheduler(host(tmp_path), **options, set_size=1))
        await slow.open()
        several = await asyncio.gather(
            ask(slow, rows(8)), ask(slow, rows(8), timeout_s=0.005), ask(slow, rows(8))
        )
        late = await ask(slow, rows(8), timeout_s=0.005)
        await slow.aclose()

        assert failed.outcome is Outcome.FAILED
        assert failed.problem is not None
        assert failed.problem.startswith("DeviceError: ")
        assert {each.outcome for each in (*several, late)} == {
            Outcome.DONE,
            Outcome.EXPIRED,
            Outcome.REJECTED,
        }
        for each in (*several, late):
            assert (each.problem is None) == (each.outcome is Outcome.DONE)

    run_virtual(main)


def test_wrong_inputs_are_a_reply_from_the_loop(tmp_path: Path) -> None:
    """`send` raises nothing; the reply is FAILED and comes in a later turn of the loop."""

    async def main() -> None:
        target = SchedulerTarget(Scheduler(host(tmp_path)))
        await target.open()
        replies: list[Reply] = []
        target.send({"date": np.zeros((1, 4))}, None, replies.append)
        assert replies == []
        await asyncio.sleep(0)

        assert replies[0].outcome is Outcome.FAILED
        assert "did you mean 'data'" in str(replies[0].problem)
        await target.aclose()

    run_virtual(main)


def test_closing_gives_up_what_is_out(tmp_path: Path) -> None:
    """Outstanding requests are CANCELLED, and a scheduler that the target opened is closed."""

    async def main() -> None:
        scheduler = Scheduler(host(tmp_path, faults=[{"kind": "hang", "at_s": 0}]))
        target = SchedulerTarget(scheduler)
        await target.open()
        asked = [asyncio.ensure_future(ask(target, rows(1))) for _ in range(3)]
        await asyncio.sleep(0.1)
        await target.aclose()
        replies = await asyncio.gather(*asked)

        assert [reply.outcome for reply in replies] == [Outcome.CANCELLED] * 3
        assert "closed" in repr(scheduler)

    run_virtual(main)


def test_a_scheduler_that_is_open_stays_open(tmp_path: Path) -> None:
    """The target cancels only its own requests, and does not close a scheduler that was open."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            theirs = scheduler.submit(rows(1))
            target = SchedulerTarget(scheduler)
            await target.open()
            ours = asyncio.ensure_future(ask(target, rows(8)))
            await asyncio.sleep(0)
            await target.aclose()

            assert (await ours).outcome is Outcome.CANCELLED
            await theirs
            await scheduler.run(rows(1))

    run_virtual(main)


def test_one_of_several_models_is_measured(tmp_path: Path) -> None:
    """The target selects a model by name, and samples only the inferences of this model."""
    spec = yaml.safe_load(Path(host(tmp_path)).read_text())
    for name in ("one", "two"):
        (tmp_path / f"{name}.sim.yaml").write_text(yaml.safe_dump(spec))
    models = {name: str(tmp_path / f"{name}.sim.yaml") for name in ("one", "two")}

    async def main() -> None:
        async with Scheduler(models) as scheduler:
            target = SchedulerTarget(scheduler, "two")
            info = await target.open()
            await scheduler.run(rows(1), model="one")
            await ask(target, rows(1))
            sample = target.sample()

            assert info.name == "two"
            assert sample is not None
            assert sample.inferences == {0: 1}
            assert sample.busy_s == {0: pytest.approx(0.010)}
            with pytest.raises(InputError, match="there is no 'three'"):
                await SchedulerTarget(scheduler, "three").open()

    run_virtual(main)


def test_samples_count_what_is_queued(tmp_path: Path) -> None:
    """A sample has the number of rows that are not on a device yet."""

    async def main() -> None:
        target = SchedulerTarget(Scheduler(host(tmp_path), set_size=1))
        assert target.sample() is None
        await target.open()
        for _ in range(5):
            target.send(rows(8), None, lambda reply: None)
        await asyncio.sleep(0.005)
        sample = target.sample()

        assert sample is not None
        assert (sample.queued_samples, sample.inferences) == (32, {0: 0})
        await target.aclose()

    run_virtual(main)
