"""Requests and metrics of the front end, on simulated devices in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qaic_sched.errors import (
    DeadlineExceededError,
    DeviceError,
    InputError,
    InternalError,
    QueueFullError,
)
from qaic_sched.scheduler.explain import Explanation
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import answer_twice, expected, host, now, rows


def test_runs_one_request(tmp_path: Path) -> None:
    """A lone request is padded to the compiled batch size, runs once and gets its own outputs."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            inputs = rows(3)
            outputs = await scheduler.run(inputs)

            np.testing.assert_array_equal(outputs["mean"], expected(inputs))
            assert now() == 0.010
            metrics = scheduler.get_metrics()
            assert metrics["num_of_inferences"] == 1
            assert metrics["devices"][0]["samples"] == 3
            assert metrics["devices"][0]["fill"] == 3 / 8
            assert metrics["requests"]["done"] == 1

    run_virtual(main)


def test_requests_of_one_turn_share_a_batch(tmp_path: Path) -> None:
    """Requests of one turn of the event loop are packed into one inference."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            several = [rows(2, seed) for seed in range(4)]
            answers = await asyncio.gather(*map(scheduler.run, several))

            assert scheduler.get_metrics()["num_of_inferences"] == 1
            for inputs, outputs in zip(several, answers, strict=True):
                np.testing.assert_array_equal(outputs["mean"], expected(inputs))

    run_virtual(main)


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 16, 40])
def test_splits_and_joins(tmp_path: Path, samples: int) -> None:
    """A request of any size gets its outputs in order, in contiguous arrays."""

    async def main() -> None:
        model = host(tmp_path, devices=2, batch_sizes=[1, 2, 4, 8])
        async with Scheduler(model) as scheduler:
            inputs = rows(samples)
            outputs = await scheduler.run(inputs)

            np.testing.assert_array_equal(outputs["mean"], expected(inputs))
            assert outputs["mean"].flags.c_contiguous

    run_virtual(main)


def test_outputs_of_two_callers_share_no_memory(tmp_path: Path) -> None:
    """Writing to the outputs of one request changes no other request."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            first, second = await asyncio.gather(scheduler.run(rows(4)), scheduler.run(rows(4)))

            assert not np.shares_memory(first["mean"], second["mean"])
            assert first["mean"].base is None

    run_virtual(main)


def test_a_partial_batch_waits_for_company_at_most_the_queue_delay(tmp_path: Path) -> None:
    """A partial batch goes to an idle activation once its oldest request has waited the delay."""

    async def main() -> None:
        model = host(tmp_path)
        async with Scheduler(model, batching={"max_queue_delay_s": 0.002}) as scheduler:
            first = scheduler.submit(rows(3))
            await asyncio.sleep(0.001)
            second = scheduler.submit(rows(3))
            await asyncio.gather(first, second)

            assert now() == 0.012
            assert scheduler.get_metrics()["num_of_inferences"] == 1

    run_virtual(main)


def test_a_higher_priority_overtakes(tmp_path: Path) -> None:
    """Among queued requests, the one of the highest priority is sent first."""

    async def main() -> None:
        order: list[str] = []
        async with Scheduler(host(tmp_path, batch=1), set_size=1) as scheduler:

            async def caller(name: str, priority: int) -> None:
                await scheduler.run(rows(1), priority=priority)
                order.append(name)

            await asyncio.gather(caller("a", 0), caller("b", 0), caller("c", 5), caller("d", 1))

        assert order == ["c", "d", "a", "b"]

    run_virtual(main)


def test_a_deadline_is_kept_while_queued_and_in_flight(tmp_path: Path) -> None:
    """`timeout_s` covers queue and device, and the error is raised at the deadline."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, batch=1), set_size=1) as scheduler:
            in_flight = scheduler.submit(rows(1), timeout_s=0.004)
            queued = scheduler.submit(rows(1), timeout_s=0.006)
            with pytest.raises(DeadlineExceededError, match=r"0\.004 s"):
                await in_flight
            assert now() == 0.004
            with pytest.raises(TimeoutError):
                await queued
            assert now() == 0.006
            assert scheduler.statistics().expired == 2

            await scheduler.run(rows(1))
            assert now() == 0.020, "the late inference kept its slot until it was answered"

    run_virtual(main)


def test_cancelling_one_caller_of_64_affects_no_other(tmp_path: Path) -> None:
    """Cancelling a task cancels its request only; the other 63 get their outputs."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=2)) as scheduler:
            several = [rows(2, seed) for seed in range(64)]
            tasks = [asyncio.ensure_future(scheduler.run(inputs)) for inputs in several]
            await asyncio.sleep(0.001)
            tasks[40].cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)

            assert isinstance(answers.pop(40), asyncio.CancelledError)
            del several[40]
            for inputs, outputs in zip(several, answers, strict=True):
                assert isinstance(outputs, dict)
                np.testing.assert_array_equal(outputs["mean"], expected(inputs))
            statistics = scheduler.statistics()
            assert (statistics.done, statistics.cancelled) == (63, 1)

    run_virtual(main)


def test_a_request_in_flight_can_be_cancelled(tmp_path: Path) -> None:
    """The caller continues at once; the slot is freed when the device answers."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, batch=1), set_size=1) as scheduler:
            request = scheduler.submit(rows(1))
            await asyncio.sleep(0.001)
            assert request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            assert now() == 0.001
            assert scheduler.statistics().devices[0].in_flight == 1
            await scheduler.run(rows(1))
            assert now() == 0.020

    run_virtual(main)


def test_when_full_reject_says_when_to_retry(tmp_path: Path) -> None:
    """Beyond the bound `run` raises `QueueFullError`, with a `retry_after_s` from measurements."""

    async def main() -> None:
        model = host(tmp_path, batch=1)
        queue = {"max_samples": 2, "when_full": "reject"}
        async with Scheduler(model, set_size=1, queue=queue) as scheduler:
            await scheduler.run(rows(1))
            accepted = [scheduler.submit(rows(1)) for _ in range(3)]
            with pytest.raises(QueueFullError) as refused:
                await scheduler.run(rows(1))
            assert refused.value.retry_after_s == pytest.approx(0.010)
            await asyncio.gather(*accepted)
            assert scheduler.get_metrics()["requests"]["rejected"] == 1

    run_virtual(main)


def test_when_full_wait_makes_requests_wait(tmp_path: Path) -> None:
    """By default a request beyond the bound waits for room, and `submit` returns at once."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, batch=1), queue={"max_samples": 1}) as scheduler:
            requests = [scheduler.submit(rows(1)) for _ in range(10)]
            statistics = scheduler.statistics()
            assert (statistics.waiting, statistics.queued, statistics.in_flight) == (7, 1, 2)
            await asyncio.gather(*requests)
            assert scheduler.statistics().done == 10

    run_virtual(main)


def test_bad_input_leaves_the_scheduler_usable(tmp_path: Path) -> None:
    """Each bad input raises `InputError` at once, and the next good one runs."""
    bad: list[Any] = [
        {},
        {"data": rows(1)["data"], "more": rows(1)["data"]},
        {"data": np.zeros((1, 2, 2), np.float32)},
        {"data": np.zeros((1, 5), np.float32)},
        {"data": np.zeros((1, 4), np.complex64)},
        {"data": np.zeros((0, 4), np.float32)},
        {"data": np.full((1, 4), None, object)},
        {"data": [[1.0, 2.0, 3.0, 4.0]]},
        None,
    ]

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            for inputs in bad:
                with pytest.raises(InputError):
                    await scheduler.run(inputs)
            outputs = await scheduler.run({"data": np.full((2, 4), np.nan, np.float32)})
            assert np.isnan(outputs["mean"]).all()
            assert scheduler.statistics().accepted == 1

    run_virtual(main)


def test_a_failed_batch_fails_only_its_own_requests(tmp_path: Path) -> None:
    """With `max_attempts: 1` a device's error fails the request of that batch and no others."""

    async def main() -> None:
        faults = [{"kind": "error", "device": 1, "probability": 1.0}]
        model = host(tmp_path, batch=2, devices=2, faults=faults)
        async with Scheduler(model, retry={"max_attempts": 1}) as scheduler:
            answers = await asyncio.gather(
                *(scheduler.run(rows(2, seed)) for seed in range(16)), return_exceptions=True
            )
            failed = [each for each in answers if isinstance(each, DeviceError)]
            done = [each for each in answers if isinstance(each, dict)]

            assert len(failed) + len(done) == 16
            assert failed
            assert done
            assert all(error.device_id == 1 and "1" in str(error) for error in failed)
            devices = scheduler.get_metrics()["devices"]
            assert devices[0]["errors"] == 0
            assert devices[1]["errors"] == len(failed)
            assert devices[0]["samples"] == 2 * len(done)

    run_virtual(main)


def test_a_failed_batch_is_tried_again_on_another_device(tmp_path: Path) -> None:
    """By default a failed batch is retried on another device, and no caller gets an error."""

    async def main() -> None:
        faults = [{"kind": "error", "device": 1, "probability": 1.0}]
        model = host(tmp_path, batch=2, devices=2, faults=faults)
        async with Scheduler(model) as scheduler:
            several = [rows(1, seed) for seed in range(16)]
            answers = await asyncio.gather(*map(scheduler.run, several))

            for inputs, outputs in zip(several, answers, strict=True):
                np.testing.assert_array_equal(outputs["mean"], expected(inputs))
            devices = scheduler.get_metrics()["devices"]
            assert devices[1]["errors"] > 0
            assert devices[0]["retries"] == devices[1]["errors"]

    run_virtual(main)


def test_an_answer_at_the_very_timeout_is_in_time(tmp_path: Path) -> None:
    """The timer may fire before the answer has passed through the loop: the answer still counts."""
    model = host(tmp_path, devices=2, service_time_s=0.5)

    async def main() -> Explanation:
        async with Scheduler(model, health={"dispatch_timeout_s": 0.5}) as scheduler:
            request = scheduler.submit(rows(8))
            await request
            return request.explain()

    explanation = run_virtual(main)
    assert (explanation.outcome, explanation.retries) == ("done", 0)


def test_metrics_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole is the merged sum of the devices, and `print_metrics` shows each device."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=2), num_activations=2) as scheduler:
            await asyncio.gather(*(scheduler.run(rows(5)) for _ in range(32)))
            metrics = scheduler.get_metrics()
            devices = metrics["devices"].values()

            assert metrics["num_of_inferences"] == sum(each["batches"] for each in devices)
            assert sum(each["samples"] for each in devices) == 160
            assert metrics["min_latency"] == pytest.approx(0.010)
            assert metrics["max_latency"] == pytest.approx(0.010)
            assert metrics["total_inference_time"] == pytest.approx(0.2)
            assert metrics["requests"]["total"]["max_latency"] == pytest.approx(now())
            assert [each["utilisation"] for each in devices] == pytest.approx([1.0, 1.0])
            scheduler.print_metrics()

    run_virtual(main)
    assert capsys.readouterr().out.count("ready") == 2


def test_a_broken_rule_ends_every_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a bug of the package every request gets `InternalError`, and closing works."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=2)) as scheduler:
            other = scheduler.submit(rows(8))
            answer_twice(monkeypatch)
            requests = [scheduler.submit(rows(8)) for _ in range(4)]
            for each in (*requests, other):
                with pytest.raises(InternalError, match="broke one of its rules"):
                    await each
            with pytest.raises(InternalError):
                scheduler.submit(rows(1))

    run_virtual(main)
