"""Issue 13, line 5: what is wrong with one call is told to its caller, and hurts nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qaic_sched import DeviceError, InputError, InternalError, Scheduler, SchedulerError
from qaic_sched.testing import run_virtual
from tests.hosts import expected, host, rows
from tests.models import FLOAT, save_model, tensor
from tests.strangers.coupled_models import node

NO_ARGUMENTS: list[dict[str, Any]] = [
    {"priority": "1"},
    {"priority": 1.5},
    {"priority": None},
    {"priority": [1]},
    {"priority": np.array([1, 2])},
    {"timeout_s": "x"},
    {"timeout_s": "1"},
    {"timeout_s": [1]},
    {"timeout_s": 1j},
    {"timeout_s": float("nan")},
    {"tenant": ["a"]},
    {"tenant": {"a": 1}},
    {"tenant": np.array(["a", "b"])},
    {"tenant": 7},
    {"tenant": b"a"},
    {"model": ["a"]},
    {"model": "unknown"},
]
"""Arguments of a wrong kind."""


@pytest.mark.parametrize("wrong", NO_ARGUMENTS, ids=str)
def test_an_argument_that_is_none_is_an_input_error(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """It is refused at the call, and requests beside it and after it are answered."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            beside = scheduler.submit(rows(2, 1))
            with pytest.raises(InputError):
                await scheduler.run(rows(1), **wrong)
            await answers_rightly(scheduler, beside)

    run_virtual(main)


async def answers_rightly(scheduler: Scheduler, beside: Any = None) -> None:
    """Fail unless a new request, and one that was there before, are answered."""
    inputs = rows(2, 1)
    for request in (beside, scheduler.submit(inputs)):
        if request is not None:
            np.testing.assert_array_equal((await request)["mean"], expected(inputs))


LOG_BREAKERS: dict[str, Any] = {
    "surrogate": "\ud800",
    "surrogate in a word": "a\udcffb",
    "str of numpy": np.str_("a"),
}


@pytest.mark.parametrize("kind", LOG_BREAKERS)
def test_a_tenant_that_cannot_be_logged_breaks_nothing(tmp_path: Path, kind: str) -> None:
    """With an event log, such a name is an `InputError` or is written down, whichever."""
    log = tmp_path / "log.jsonl"

    async def main() -> None:
        async with Scheduler(host(tmp_path), event_log=str(log)) as scheduler:
            beside = scheduler.submit(rows(2, 1))
            with suppress(InputError):
                await scheduler.run(rows(1), tenant=LOG_BREAKERS[kind])
            await answers_rightly(scheduler, beside)

    run_virtual(main)
    assert log.read_text(encoding="utf-8", errors="strict").splitlines()[-1].find('"end"') > 0


class BrokenMapping(Mapping[str, Any]):
    """A mapping that raises where its values are read."""

    def __getitem__(self, name: str) -> Any:
        raise RuntimeError("no values here")

    def __iter__(self) -> Iterator[str]:
        return iter(["data"])

    def __len__(self) -> int:
        return 1


def test_a_mapping_that_raises_is_an_input_error(tmp_path: Path) -> None:
    """What the caller's own mapping raises is the caller's fault, with that as its cause."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            with pytest.raises(InputError):
                await scheduler.run(BrokenMapping())
            await answers_rightly(scheduler)

    run_virtual(main)


def test_a_request_whose_outputs_no_memory_holds_fails_alone(tmp_path: Path) -> None:
    """A million rows of four megabytes each: its caller gets an error, nobody else does."""
    outputs = {"mean": {"shape": [8, 1 << 20], "dtype": "float32"}}

    async def main() -> None:
        async with Scheduler(host(tmp_path, outputs=outputs)) as scheduler:
            large = scheduler.submit(rows(1 << 20))
            beside = scheduler.submit(rows(1, 1))
            with pytest.raises((SchedulerError, MemoryError)) as caught:
                await large

            assert not isinstance(caught.value, InternalError)
            assert (await beside)["mean"].shape == (1, 1 << 20)
            assert (await scheduler.run(rows(1)))["mean"].shape == (1, 1 << 20)

    run_virtual(main)


@pytest.mark.parametrize("error", [RuntimeError("no"), MemoryError(), OSError("gone")], ids=repr)
def test_a_backend_that_raises_fails_what_it_was_given(tmp_path: Path, error: Exception) -> None:
    """`submit` of a device raises once: another attempt or `DeviceError`, and no broken rule."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=2)) as scheduler:
            with_raising_submit(scheduler, error)
            with suppress(DeviceError):
                await scheduler.run(rows(1))
            await answers_rightly(scheduler)

    run_virtual(main)


def with_raising_submit(scheduler: Scheduler, error: Exception) -> None:
    """Let the first device that is given an inference raise, once."""
    assert scheduler._shell is not None
    is_raised = False

    def raising(submit: Callable[..., None]) -> Callable[..., None]:
        def once(*arguments: Any) -> None:
            nonlocal is_raised
            if not is_raised:
                is_raised = True
                raise error
            submit(*arguments)

        return once

    for executable in scheduler._shell.pool.executables.values():
        executable.submit = raising(executable.submit)  # type: ignore[method-assign]


def test_an_array_that_its_caller_shrinks_fails_only_its_request(tmp_path: Path) -> None:
    """Inputs must not change before the answer; whoever changes them hurts only himself."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=1)) as scheduler:
            inputs = rows(3)
            shrunk = scheduler.submit(inputs)
            beside = scheduler.submit(rows(2, 1))
            inputs["data"].resize((1, 4), refcheck=False)
            await asyncio.gather(shrunk, return_exceptions=True)
            await answers_rightly(scheduler, beside)

    run_virtual(main)


WRONG_ANSWERS: dict[str, Callable[[Any], Any]] = {
    "too few rows": lambda mean: {"mean": mean[:1]},
    "no axis": lambda mean: {"mean": mean[0, 0]},
    "wider rows": lambda mean: {"mean": np.repeat(mean, 2, axis=1)},
    "narrow rows that numpy would stretch": lambda mean: {"mean": mean[:, :1]},
    "too many rows": lambda mean: {"mean": np.repeat(mean, 2, axis=0)},
    "another name": lambda mean: {"other": mean},
    "no outputs": lambda mean: {},
    "another type": lambda mean: {"mean": mean.astype(np.complex64)},
}


@pytest.mark.parametrize("kind", WRONG_ANSWERS)
def test_an_answer_that_was_not_promised_fails_only_its_batch(tmp_path: Path, kind: str) -> None:
    """A device answers once with another shape, name or type: that batch fails, no other."""

    async def main() -> None:
        async with Scheduler(host(tmp_path), retry={"max_attempts": 1}) as scheduler:
            with_wrong_answer(scheduler, WRONG_ANSWERS[kind])
            with pytest.raises(DeviceError):
                await scheduler.run(rows(3))
            await answers_rightly(scheduler)

    run_virtual(main)


def with_wrong_answer(scheduler: Scheduler, change: Callable[[Any], Any]) -> None:
    """Let the device's first answer be another."""
    assert scheduler._shell is not None
    executable = scheduler._shell.pool.executables[0]
    submit = executable.submit
    is_changed = False

    def other(activation: int, inputs: Any, on_completed: Any) -> None:
        def changed(answer: Any, at: float) -> None:
            nonlocal is_changed
            wrong = answer if is_changed else change(answer["mean"])
            is_changed = True
            on_completed(wrong, at)

        submit(activation, inputs, changed)

    executable.submit = other  # type: ignore[method-assign]


def test_an_output_without_rows_breaks_nothing(tmp_path: Path) -> None:
    """A model of rows without a column: arrays of no bytes, in batches and alone."""
    path = save_model(
        tmp_path / "model.onnx",
        [node("Identity", ["x"], ["y"])],
        [tensor("x", ["N", 0], FLOAT)],
        [tensor("y", ["N", 0])],
    )

    async def main() -> None:
        async with Scheduler(path, devices=1, onnx_define_symbol={"N": 4}) as scheduler:
            for count in (1, 4, 9):
                outputs = await scheduler.run({"x": np.zeros((count, 0), np.float32)})
                assert outputs["y"].shape == (count, 0)

    asyncio.run(main())
