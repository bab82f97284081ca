"""Wrong answers, logs and callbacks fail the requests that they concern, and no others."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qaic_sched.backends.sim.backend import SimExecutable
from qaic_sched.errors import DeviceError, InputError, SchedulerError
from qaic_sched.scheduler.event_log import EventLog
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import check_log, expected, host, rows
from tests.scheduler.faulty_devices import change_answers, check_serves, raising

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
            monkeypatch.setattr(EventLog, method, raising(error))
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
            request.add_done_callback(raising(ZeroDivisionError()))
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
