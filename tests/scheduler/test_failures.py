"""What goes wrong with one batch or one request fails those that it concerns, and no others."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qaic_sched.backends.base import OnCompleted
from qaic_sched.backends.sim.backend import SimBackend, SimExecutable
from qaic_sched.errors import DeviceError, InputError, SchedulerError
from qaic_sched.scheduler import pool as pool_module
from qaic_sched.scheduler.event_log import EventLog
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import check_log, expected, host, rows

Submit = Callable[[SimExecutable, int, Mapping[str, object], OnCompleted], None]


def raise_in_submit(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, *, times: int = 1, takes_it: bool = False
) -> None:
    """Have devices raise in their next calls of `submit`, having taken the inference or not."""
    submit = SimExecutable.submit
    left = times

    def raising(self: SimExecutable, activation: int, inputs: Any, on_completed: Any) -> None:
        nonlocal left
        if not left or takes_it:
            submit(self, activation, inputs, on_completed)
        if left:
            left -= 1
            raise error

    monkeypatch.setattr(SimExecutable, "submit", raising)


def change_answers(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any], times: int = 1
) -> None:
    """Have devices answer their next inferences with something else."""
    submit = SimExecutable.submit
    left = times

    def changing(self: SimExecutable, activation: int, inputs: Any, on_completed: Any) -> None:
        def changed(answer: Any, completed_at: float) -> None:
            nonlocal left
            is_changed = left > 0
            left -= is_changed
            on_completed(change(answer) if is_changed else answer, completed_at)

        submit(self, activation, inputs, changed)

    monkeypatch.setattr(SimExecutable, "submit", changing)


async def check_serves(scheduler: Scheduler) -> None:
    """Fail unless the scheduler answers a request of several batches."""
    inputs = rows(11, 5)
    np.testing.assert_array_equal((await scheduler.run(inputs))["mean"], expected(inputs))


# Backends that raise

ERRORS = [RuntimeError("no"), MemoryError(), OSError(errno.EIO, "gone"), asyncio.CancelledError()]


@pytest.mark.parametrize("takes_it", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_a_backend_that_raises_in_submit_has_failed_that_inference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, takes_it: bool
) -> None:
    """It is tried again as after any failure, and what the device may answer later is dropped."""
    log = tmp_path / "log.jsonl"

    async def main() -> None:
        async with Scheduler(host(tmp_path), event_log=str(log)) as scheduler:
            raise_in_submit(monkeypatch, error, takes_it=takes_it)
            requests = [scheduler.submit(rows(3, seed)) for seed in range(2)]
            for seed, request in enumerate(requests):
                outputs = await request
                np.testing.assert_array_equal(outputs["mean"], expected(rows(3, seed)))
                assert request.explain().retries == 1
            await check_serves(scheduler)
            assert scheduler.get_metrics()["devices"][0]["errors"] == 1

    run_virtual(main)
    check_log(log)


def test_without_another_attempt_the_error_names_device_and_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `DeviceError` for the requests of that batch, in the words of the backend."""
    cause = RuntimeError("the queue of the driver is full")

    async def main() -> None:
        async with Scheduler(host(tmp_path), retry={"max_attempts": 1}) as scheduler:
            raise_in_submit(monkeypatch, cause)
            with pytest.raises(DeviceError) as caught:
                await scheduler.run(rows(3))
            assert str(caught.value) == (
                "device 0, activation 0: the backend did not accept an inference: "
                "RuntimeError: the queue of the driver is full"
            )
            assert (caught.value.device_id, caught.value.kind) == (0, "inference")
            await check_serves(scheduler)

    run_virtual(main)


def test_a_device_whose_submit_always_raises_goes_into_quarantine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others serve its requests; it is not reloaded while its probes raise, and then comes back."""
    submit = SimExecutable.submit
    is_broken = True

    def raising(self: SimExecutable, *arguments: Any) -> None:
        if self.device_id == 0 and is_broken:
            raise RuntimeError("no")
        submit(self, *arguments)

    monkeypatch.setattr(SimExecutable, "submit", raising)

    async def main() -> None:
        nonlocal is_broken
        async with Scheduler(host(tmp_path, devices=2)) as scheduler:
            for _ in range(4):
                await check_serves(scheduler)
            await asyncio.sleep(1)
            assert scheduler.statistics().devices[0].state == "quarantined"
            is_broken = False
            await asyncio.sleep(60)
            for _ in range(9):
                await check_serves(scheduler)
            assert scheduler.statistics().devices[0].state == "ready"

    run_virtual(main)


def test_a_device_that_cannot_be_loaded_for_any_reason_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend may raise anything in `load`: the next probe brings the device back."""
    load = SimBackend.load
    errors = [OSError("no such device"), ValueError("odd")]

    async def main() -> None:
        faults = [{"kind": "lost", "device": 0, "at_s": 0.5, "for_s": 0.1}]
        async with Scheduler(host(tmp_path, devices=2, faults=faults)) as scheduler:

            async def failing(self: SimBackend, *arguments: int) -> SimExecutable:
                if errors:
                    raise errors.pop()
                return await load(self, *arguments)

            monkeypatch.setattr(SimBackend, "load", failing)
            await asyncio.sleep(0.6)
            for _ in range(20):
                await check_serves(scheduler)
            await asyncio.sleep(60)
            assert not errors
            assert scheduler.statistics().devices[0].state != "quarantined"

    run_virtual(main)


# Inputs that cannot be gathered


def test_an_array_that_its_caller_shrinks_fails_only_its_request(tmp_path: Path) -> None:
    """Inputs must not change before the answer; who shares the batch is served all the same."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            shrunk, beside = rows(3), rows(2, 1)
            requests = [scheduler.submit(shrunk), scheduler.submit(beside)]
            shrunk["data"].resize((1, 4), refcheck=False)
            failed, outputs = await asyncio.gather(*requests, return_exceptions=True)
            assert isinstance(failed, DeviceError)
            assert "its inputs cannot be gathered: ValueError" in str(failed)
            assert isinstance(outputs, dict)
            np.testing.assert_array_equal(outputs["mean"], expected(beside))
            await check_serves(scheduler)

    run_virtual(main)


@pytest.mark.parametrize("count", [8, 16])
def test_full_batches_of_an_array_that_shrinks_fail_only_their_request(
    tmp_path: Path, count: int
) -> None:
    """Such batches are passed on as they are: the device gets something that it cannot run."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=2)) as scheduler:
            shrunk, beside = rows(count), rows(8, 1)
            requests = [scheduler.submit(shrunk), scheduler.submit(beside)]
            shrunk["data"].resize((count - 3, 4), refcheck=False)
            failed, outputs = await asyncio.gather(*requests, return_exceptions=True)
            assert isinstance(failed, DeviceError)
            assert isinstance(outputs, dict)
            np.testing.assert_array_equal(outputs["mean"], expected(beside))

    run_virtual(main)


@pytest.mark.interpreted
def test_memory_that_is_missing_for_a_batch_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch has failed and is tried again; nobody else notices."""
    gather = pool_module.gather
    errors = [MemoryError("no buffer")]

    def failing(*arguments: Any) -> None:
        if errors:
            raise errors.pop()
        gather(*arguments)

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            monkeypatch.setattr(pool_module, "gather", failing)
            await check_serves(scheduler)
            assert not errors

    run_virtual(main)


# Outputs that are too large

WIDE = {"mean": {"shape": [8, 1 << 20], "dtype": "float32"}}


@pytest.mark.parametrize("others_before", [0, 3])
def test_a_request_whose_outputs_no_memory_holds_fails_alone(
    tmp_path: Path, others_before: int
) -> None:
    """A million rows of four megabytes each; whoever shares a batch with it is served."""
    log = tmp_path / "log.jsonl"

    async def main() -> None:
        model = host(tmp_path, outputs=WIDE)
        async with Scheduler(model, event_log=str(log)) as scheduler:
            before = [scheduler.submit(rows(1, seed)) for seed in range(others_before)]
            large = scheduler.submit(rows(1 << 20))
            after = [scheduler.submit(rows(1, seed)) for seed in range(3)]
            with pytest.raises(DeviceError, match="the outputs of 1048576 samples") as caught:
                await large
            assert isinstance(caught.value.__cause__, MemoryError)
            assert (large.outcome, large.explain().outcome) == ("failed", "failed")
            for outputs in await asyncio.gather(*before, *after):
                assert outputs["mean"].shape == (1, 1 << 20)
            statistics = scheduler.statistics()
            done = others_before + 3
            assert (statistics.done, statistics.failed, statistics.cancelled) == (done, 1, 0)
            counts = scheduler.get_metrics()["requests"]
            assert (counts["done"], counts["failed"], counts["cancelled"]) == (done, 1, 0)
            assert statistics.devices[0].state == "ready"

    run_virtual(main)
    check_log(log)


@pytest.mark.interpreted
def test_a_request_that_fails_with_its_last_part_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device has done all of it, but its caller has no outputs: it failed."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, outputs=WIDE)) as scheduler:
            request = scheduler.submit(rows(3))
            await asyncio.sleep(0.001)
            monkeypatch.setattr(
                "qaic_sched.scheduler.request.allocate_outputs", _raise(MemoryError())
            )
            with pytest.raises(DeviceError, match="MemoryError"):
                await request
            statistics = scheduler.statistics()
            assert (statistics.done, statistics.failed, statistics.in_flight) == (0, 1, 0)

    run_virtual(main)


def _raise(error: Exception) -> Callable[..., Any]:
    def raising(*_: Any) -> None:
        raise error

    return raising


# Answers that were not promised

WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "too few rows": (
        lambda answer: {"mean": answer["mean"][:1]},
        "output 'mean': got shape (1, 2) of float32; the program promises shape (8, 2) of float32",
    ),
    "too many rows": (lambda answer: {"mean": np.repeat(answer["mean"], 2, axis=0)}, "(16, 2)"),
    "no axes": (lambda answer: {"mean": np.array(answer["mean"][0, 0])}, "got shape ()"),
    "a scalar": (lambda answer: {"mean": answer["mean"][0, 0]}, "got numpy.float32"),
    "one axis more": (lambda answer: {"mean": answer["mean"][..., None]}, "(8, 2, 1)"),
    "one axis less": (lambda answer: {"mean": answer["mean"][:, 0]}, "got shape (8,)"),
    "rows that numpy would stretch": (lambda answer: {"mean": answer["mean"][:, :1]}, "(8, 1)"),
    "another type": (lambda answer: {"mean": answer["mean"].astype(np.float64)}, "of float64"),
    "a list": (lambda answer: {"mean": answer["mean"].tolist()}, "output 'mean': got list"),
    "none": (lambda answer: {"mean": None}, "output 'mean': got NoneType"),
    "another name": (lambda answer: {"max": answer["mean"]}, "output 'mean': missing"),
    "one output more": (lambda answer: {**answer, "max": answer["mean"]}, "output 'max': unknown"),
    "no outputs": (lambda answer: {}, "output 'mean': missing"),
    "no answer": (lambda answer: None, "its answer is no dict of outputs: got NoneType"),
    "a tuple": (lambda answer: tuple(answer.values()), "got tuple"),
    "an error of no kind": (lambda answer: ValueError("odd"), "got ValueError"),
}


@pytest.mark.parametrize("count", [3, 8, 11])
@pytest.mark.parametrize("kind", WRONG)
def test_an_answer_that_was_not_promised_is_a_failure_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, count: int
) -> None:
    """Never fitted, stretched or cut: the error names output, shape and promise."""
    change, message = WRONG[kind]

    async def main() -> None:
        async with Scheduler(host(tmp_path), retry={"max_attempts": 1}) as scheduler:
            change_answers(monkeypatch, change)
            with pytest.raises(DeviceError) as caught:
                await scheduler.run(rows(count))
            assert message in str(caught.value)
            assert str(caught.value).startswith("device 0, activation 0: ")
            assert (caught.value.device_id, caught.value.kind) == (0, "inference")
            await check_serves(scheduler)
            assert scheduler.get_metrics()["devices"][0]["errors"] == 1

    run_virtual(main)


def test_a_wrong_answer_is_tried_again_on_another_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As any failure is: the callers get what the other device gives."""
    change, _ = WRONG["too few rows"]

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=2)) as scheduler:
            change_answers(monkeypatch, change)
            await asyncio.gather(*(check_serves(scheduler) for _ in range(5)))

    run_virtual(main)


@pytest.mark.parametrize("kind", ["inference", "odd", None])
def test_errors_of_a_kind_that_is_unknown_fail_one_inference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    """A backend of somebody else's may have words of its own."""

    class Unreadable(DeviceError):
        def __str__(self) -> str:
            raise ValueError

    async def main() -> None:
        async with Scheduler(host(tmp_path), retry={"max_attempts": 1}) as scheduler:
            change_answers(monkeypatch, lambda _: Unreadable("text", 0, kind=kind))
            with pytest.raises(DeviceError):
                await scheduler.run(rows(1))
            await check_serves(scheduler)
            assert scheduler.statistics().devices[0].state == "ready"

    run_virtual(main)


# The log, and callbacks


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("odd")], ids=repr)
@pytest.mark.parametrize("method", ["record_events", "record_decisions"])
def test_a_log_that_cannot_be_written_ends_and_costs_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception
) -> None:
    """Whatever the reason: a full disk, or a value that JSON does not have."""

    async def main() -> None:
        log = str(tmp_path / "log.jsonl")
        async with Scheduler(host(tmp_path), event_log=log) as scheduler:
            monkeypatch.setattr(EventLog, method, _raise(error))
            await check_serves(scheduler)
            await check_serves(scheduler)

    run_virtual(main)


def test_callbacks_that_raise_or_are_none_concern_nobody_else(tmp_path: Path) -> None:
    """In asyncio's debug mode, too, where it refuses coroutine functions."""
    problems: list[Any] = []

    async def coroutine(_: Any) -> None:
        raise AssertionError("it is never run")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.set_exception_handler(lambda _, context: problems.append(context["exception"]))
        async with Scheduler(host(tmp_path)) as scheduler:
            request = scheduler.submit(rows(2))
            with pytest.raises(TypeError, match="not callable"):
                request.add_done_callback(None)  # type: ignore[arg-type]
            request.add_done_callback(_raise(ZeroDivisionError()))
            request.add_done_callback(coroutine)
            beside = scheduler.submit(rows(3, 1))
            await request
            np.testing.assert_array_equal((await beside)["mean"], expected(rows(3, 1)))
            await check_serves(scheduler)

    run_virtual(main)
    assert {type(each) for each in problems} == {ZeroDivisionError, TypeError}


class Raising(Mapping[str, Any]):
    """A mapping that cannot be read."""

    def __getitem__(self, name: str) -> Any:
        raise ZeroDivisionError

    def __iter__(self) -> Iterator[str]:
        return iter(["data"])

    def __len__(self) -> int:
        return 1


def test_a_mapping_that_raises_is_an_input_error(tmp_path: Path) -> None:
    """With its own error as the cause."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            with pytest.raises(InputError, match="which raises ZeroDivisionError") as caught:
                scheduler.submit(Raising())
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            await check_serves(scheduler)

    run_virtual(main)


def test_devices_that_raise_while_they_close_leave_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is raised once all others are closed and the log has its end."""
    close, closed = SimExecutable.aclose, []
    log = tmp_path / "log.jsonl"

    async def raising(self: SimExecutable) -> None:
        await close(self)
        closed.append(self.device_id)
        if self.device_id == 0:
            raise SchedulerError("the driver does not let go")

    async def main() -> None:
        with pytest.raises(SchedulerError, match="let go"):
            async with Scheduler(host(tmp_path, devices=3), event_log=str(log)) as scheduler:
                await check_serves(scheduler)
                monkeypatch.setattr(SimExecutable, "aclose", raising)

    run_virtual(main)
    assert sorted(closed) == [0, 1, 2]
    check_log(log)
    assert log.read_bytes().endswith(b'{"event":"end"}\n')
