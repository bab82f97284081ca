"""The async front end on simulated cards, in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import yaml

from qaic_sched.errors import (
    ConfigError,
    DeadlineExceededError,
    DeviceError,
    InputError,
    InternalError,
    QueueFullError,
    SchedulerClosedError,
)
from qaic_sched.scheduler.explain import Explanation
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import expected, host, replace_handle, rows


def now() -> float:
    """The virtual time."""
    return asyncio.get_running_loop().time()


def test_runs_one_request(tmp_path: Path) -> None:
    """A lone request is padded to the compiled batch, runs once and gets its own rows back."""

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
    """Requests that arrive in the same turn of the loop are packed into one inference."""

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
    """A request of any size comes back with its own row count and order, in arrays of its own."""

    async def main() -> None:
        model = host(tmp_path, devices=2, batch_sizes=[1, 2, 4, 8])
        async with Scheduler(model) as scheduler:
            inputs = rows(samples)
            outputs = await scheduler.run(inputs)

            np.testing.assert_array_equal(outputs["mean"], expected(inputs))
            assert outputs["mean"].flags.c_contiguous

    run_virtual(main)


def test_outputs_of_two_callers_share_no_memory(tmp_path: Path) -> None:
    """What one caller does to its outputs cannot reach another's, nor a later batch."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            first, second = await asyncio.gather(scheduler.run(rows(4)), scheduler.run(rows(4)))

            assert not np.shares_memory(first["mean"], second["mean"])
            assert first["mean"].base is None

    run_virtual(main)


def test_a_partial_batch_waits_for_company_at_most_the_queue_delay(tmp_path: Path) -> None:
    """With an idle activation, a partial batch leaves when its oldest has waited the delay."""

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
    """Of what is queued, the higher priority is dispatched first, whatever came first."""

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
    """`timeout_s` covers the whole stay and raises at the deadline, not when the device answers."""

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


def test_a_cancelled_caller_among_64_disturbs_nobody(tmp_path: Path) -> None:
    """Cancelling the awaiting task cancels its request alone; the other 63 get their rows."""

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
    """Its caller goes on at once, its slot is freed when the device answers."""

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


def test_when_full_reject_says_when_to_come_again(tmp_path: Path) -> None:
    """Beyond the bound `run` raises, with a time computed from what has been measured."""

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


def test_when_full_wait_lets_requests_wait_in_order(tmp_path: Path) -> None:
    """By default a request beyond the bound waits for room, and `submit` returns it waiting."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, batch=1), queue={"max_samples": 1}) as scheduler:
            requests = [scheduler.submit(rows(1)) for _ in range(10)]
            statistics = scheduler.statistics()
            assert (statistics.waiting, statistics.queued, statistics.in_flight) == (7, 1, 2)
            await asyncio.gather(*requests)
            assert scheduler.statistics().done == 10

    run_virtual(main)


def test_bad_input_leaves_the_scheduler_usable(tmp_path: Path) -> None:
    """Each bad input is one `InputError` at once, and the next good one runs."""
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
    """With `max_attempts: 1` a device's error reaches the requests of that batch and no others."""

    async def main() -> None:
        faults = [{"kind": "error", "device": 1, "probability": 1.0}]
        model = host(tmp_path, batch=2, devices=2, faults=faults)
        async with Scheduler(model, retry={"max_attempts": 1}) as scheduler:
            answers = await asyncio.gather(
                *(scheduler.run(rows(1, seed)) for seed in range(16)), return_exceptions=True
            )
            failed = [each for each in answers if isinstance(each, DeviceError)]
            done = [each for each in answers if isinstance(each, dict)]

            assert len(failed) + len(done) == 16
            assert failed
            assert done
            assert all(error.device_id == 1 and "1" in str(error) for error in failed)
            devices = scheduler.get_metrics()["devices"]
            assert devices[0]["errors"] == 0
            assert 2 * devices[1]["errors"] == len(failed)
            assert devices[0]["samples"] == len(done)

    run_virtual(main)


def test_a_failed_batch_is_tried_again_on_another_device(tmp_path: Path) -> None:
    """By default what a device failed is retried elsewhere, and its callers never know."""

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
            assert devices[0]["retries"] == 2 * devices[1]["errors"]

    run_virtual(main)


def test_who_answers_in_the_moment_when_the_time_is_up_was_in_time(tmp_path: Path) -> None:
    """The timer may come before the answer's own way through the loop: the answer counts."""
    model = host(tmp_path, devices=2, service_time_s=0.5)

    async def main() -> Explanation:
        async with Scheduler(model, health={"dispatch_timeout_s": 0.5}) as scheduler:
            request = scheduler.submit(rows(8))
            await request
            return request.explain()

    explanation = run_virtual(main)
    assert (explanation.outcome, explanation.retries) == ("done", 0)


def test_use_outside_of_async_with_is_refused(tmp_path: Path) -> None:
    """Before opening, after closing and a second opening: `SchedulerClosedError` says which."""

    async def main() -> None:
        scheduler = Scheduler(host(tmp_path))
        for use in (
            lambda: scheduler.submit(rows(1)),
            scheduler.get_metrics,
            scheduler.statistics,
            lambda: scheduler.map([]),
            lambda: scheduler.program,
        ):
            with pytest.raises(SchedulerClosedError, match="not open yet"):
                use()
        async with scheduler:
            await scheduler.run(rows(1))
        with pytest.raises(SchedulerClosedError, match="closed"):
            await scheduler.run(rows(1))
        with pytest.raises(SchedulerClosedError, match="opens once"):
            async with scheduler:
                pass
        assert scheduler.get_metrics()["devices"][0]["state"] == "closed"

    run_virtual(main)


def test_closing_one_that_never_opened_does_nothing(tmp_path: Path) -> None:
    """`aclose` before opening is allowed, and closes it for good."""

    async def main() -> None:
        scheduler = Scheduler(host(tmp_path))
        await scheduler.aclose()
        with pytest.raises(SchedulerClosedError):
            async with scheduler:
                pass

    run_virtual(main)


def test_leaving_drains(tmp_path: Path) -> None:
    """At the end of `async with` everything accepted is finished, without waiting for company."""

    async def main() -> None:
        async with Scheduler(host(tmp_path), batching={"max_queue_delay_s": 5.0}) as scheduler:
            request = scheduler.submit(rows(3))
        assert (await request)["mean"].shape == (3, 2)
        assert now() == 0.010

    run_virtual(main)


def test_a_draining_scheduler_takes_nothing_new(tmp_path: Path) -> None:
    """From `drain` on a new request is refused; what is there is finished."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            request = scheduler.submit(rows(20))
            draining = asyncio.ensure_future(scheduler.drain())
            await asyncio.sleep(0)
            with pytest.raises(SchedulerClosedError, match="draining"):
                scheduler.submit(rows(1))
            await draining
            assert request.done()
            await scheduler.drain()

    run_virtual(main)


def test_leaving_with_an_exception_cancels(tmp_path: Path) -> None:
    """An exception out of `async with` ends what is there instead of finishing it."""

    async def main() -> None:
        requests = []

        async def break_off() -> None:
            async with Scheduler(host(tmp_path)) as scheduler:
                requests.append(scheduler.submit(rows(1)))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await break_off()
        with pytest.raises(SchedulerClosedError):
            await requests[0]
        assert now() == 0.0

    run_virtual(main)


def test_closing_ends_10_000_waiting_callers_at_once(tmp_path: Path) -> None:
    """Every caller gets `SchedulerClosedError`, in the same instant."""

    async def main() -> None:
        async with Scheduler(host(tmp_path), queue={"max_samples": 100}) as scheduler:
            callers = [asyncio.ensure_future(scheduler.run(rows(1))) for _ in range(10_000)]
            await asyncio.sleep(0.001)
            await asyncio.gather(scheduler.aclose(), scheduler.aclose())
            answers = await asyncio.gather(*callers, return_exceptions=True)

            assert all(isinstance(answer, SchedulerClosedError) for answer in answers)
            assert now() == 0.001

    run_virtual(main)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 3}, "3"),
        ({"devices": [0, 7]}, "7"),
        ({"dev_id": 9}, "9"),
        ({"num_activations": 17}, "16"),
        ({"num_activations": 5, "aic_num_cores": 4}, "4"),
        ({"queue": {"max_sample": 3}}, "max_samples"),
        ({"queues": {"max_samples": 3}}, "queue"),
        ({"num_activations": "two"}, "num_activations"),
    ],
)
def test_what_cannot_work_is_said_at_opening(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """Missing devices and cores, misspelt keys, wrong types: `ConfigError` names them."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=2, cores=16), **options):
            raise AssertionError("it opened")

    with pytest.raises(ConfigError, match=message):
        run_virtual(main)


def test_a_list_of_devices_uses_those(tmp_path: Path) -> None:
    """`devices=[2, 0]` runs on those two and no others, and metrics are by their ids."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=4), devices=[2, 0]) as scheduler:
            await scheduler.run(rows(64))
            assert sorted(scheduler.get_metrics()["devices"]) == [0, 2]

    run_virtual(main)


def test_from_config_reads_a_file_and_keywords_win(tmp_path: Path) -> None:
    """A relative model is found beside the file."""
    host(tmp_path, devices=4)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"model": "host.sim.yaml", "devices": 2, "set-size": 3}))

    async def main() -> None:
        async with Scheduler.from_config(config, devices=3) as scheduler:
            await scheduler.run(rows(1))
            assert len(scheduler.statistics().devices) == 3
            assert scheduler.config.set_size == 3
            assert repr(scheduler).endswith("host.sim.yaml: open>")

    run_virtual(main)


def test_metrics_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole is the merged sum of the devices, and print_metrics shows each."""

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


@pytest.mark.interpreted
def test_a_broken_rule_ends_every_request(tmp_path: Path) -> None:
    """A bug of ours must not leave a caller waiting: all get `InternalError`, and closing works."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            request = scheduler.submit(rows(1))
            await asyncio.sleep(0.001)

            def broken(*_: object) -> NoReturn:
                raise ZeroDivisionError("a bug")

            replace_handle(scheduler, broken)
            other = scheduler.submit(rows(1))
            for each in (request, other):
                with pytest.raises(InternalError, match="a bug"):
                    await each
            with pytest.raises(InternalError):
                scheduler.submit(rows(1))

    run_virtual(main)
