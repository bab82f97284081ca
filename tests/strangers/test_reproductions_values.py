"""Issue 13, lines 6 and 7: bad values are their sender's alone, and zeros are no valid inputs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import onnxruntime
import pytest

from qaic_sched import DeviceError, InputError, Scheduler
from tests.models import gather_model, save_model, tensor
from tests.strangers.comparing import assert_near
from tests.strangers.coupled_models import INT64, Parts, node, save
from tests.strangers.running import alone, run_together

# Older ones divide whole numbers by zero without a look, which ends the process.
DIVIDES_SAFELY = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 24)
NEEDS_SAFE_DIVISION = pytest.mark.skipif(
    not DIVIDES_SAFELY, reason="this onnxruntime ends the process on a division by zero"
)

# Line 6: bad values in one request


def ids(*values: int) -> dict[str, Any]:
    """A request for rows of the table, of which there are four."""
    return {"x": np.array(values)}


def two_lookups() -> Parts:
    """Two tables, each with ids of its own, and a sum: bad values may come in either input."""
    nodes = [
        node("Gather", ["table", "a"], ["left"]),
        node("Gather", ["table", "b"], ["right"]),
        node("Add", ["left", "right"], ["y"]),
    ]
    inputs = [tensor("a", ["N"], INT64), tensor("b", ["N"], INT64)]
    return nodes, inputs, [tensor("y", ["N"])], {"table": np.arange(4, dtype=np.float32)}


def divided() -> Parts:
    """Whole numbers that are divided: by zero there is no answer."""
    inputs = [tensor("a", ["N"], INT64), tensor("b", ["N"], INT64)]
    return [node("Div", ["a", "b"], ["y"])], inputs, [tensor("y", ["N"], INT64)], {}


Pair = dict[str, Any]


def pair(a: int, b: int) -> Pair:
    """One row of two whole numbers."""
    return {"a": np.array([a]), "b": np.array([b])}


CULPRITS: dict[str, tuple[Callable[[], Parts], Callable[[int], Pair], Pair]] = {
    "ids of two tables": (two_lookups, lambda i: pair(i % 4, 3 - i % 4), pair(0, 10**6)),
    "division by zero": (divided, lambda i: pair(i, 1 + i % 3), pair(1, 0)),
}


@pytest.mark.parametrize("max_attempts", [1, 2])
def test_ids_out_of_range_fail_only_their_own_request(tmp_path: Path, max_attempts: int) -> None:
    """Of forty requests ten are bad: these get `InputError`, the others their answers."""
    path = gather_model(tmp_path / "model.onnx", batch=4, output_batch=4)
    requests = [ids(10**9) if i % 4 == 2 else ids(i % 4) for i in range(40)]

    async def main() -> None:
        async with Scheduler(path, devices=1, retry={"max_attempts": max_attempts}) as scheduler:
            answers = await run_together(scheduler, requests)
            for i, answer in enumerate(answers):
                if i % 4 == 2:
                    assert isinstance(answer, InputError)
                else:
                    assert not isinstance(answer, BaseException), answer
                    np.testing.assert_array_equal(answer["y"], [i % 4])
            assert scheduler.get_metrics()["devices"][0]["state"] == "ready"

    asyncio.run(main())


@pytest.mark.parametrize(
    "kind",
    ["ids of two tables", pytest.param("division by zero", marks=NEEDS_SAFE_DIVISION)],
)
def test_whatever_is_bad_about_values_it_stays_with_their_sender(tmp_path: Path, kind: str) -> None:
    """One bad request in each batch of four: of any input, and of any operator."""
    make, good, bad = CULPRITS[kind]
    path = save(tmp_path / "model.onnx", make())
    requests = [bad if i % 4 == 3 else good(i) for i in range(24)]
    wanted = alone(path, requests)

    async def main() -> None:
        async with Scheduler(path, devices=1, onnx_define_symbol={"N": 4}) as scheduler:
            answers = await run_together(scheduler, requests)
            for found, one in zip(answers, wanted, strict=True):
                if isinstance(one, Exception):
                    is_told = "INVALID_ARGUMENT" in str(one)
                    assert isinstance(found, InputError if is_told else (InputError, DeviceError))
                else:
                    assert not isinstance(found, BaseException), found
                    assert_near(found, one)
            assert scheduler.get_metrics()["devices"][0]["state"] == "ready"

    asyncio.run(main())


def test_one_bad_row_of_a_large_request_fails_only_that_request(tmp_path: Path) -> None:
    """A request of ten rows is split over batches; what shares the bad one's batch is answered."""
    path = gather_model(tmp_path / "model.onnx", batch=4, output_batch=4)
    large = ids(*[0] * 9, 77)

    async def main() -> None:
        async with Scheduler(path, devices=1) as scheduler:
            for _ in range(3):
                answers = await run_together(scheduler, [ids(1), large, ids(2, 3), ids(3)])
                assert isinstance(answers[1], InputError)
                for answer, value in ((answers[0], [1]), (answers[2], [2, 3]), (answers[3], [3])):
                    assert not isinstance(answer, BaseException), answer
                    np.testing.assert_array_equal(answer["y"], value)

    asyncio.run(main())


def test_a_model_that_is_not_batched_calls_bad_values_an_input_error(tmp_path: Path) -> None:
    """What the runtime calls an invalid argument is the caller's, also where nothing is shared."""
    path = gather_model(tmp_path / "model.onnx", batch=3, output_batch="N")

    async def main() -> None:
        async with Scheduler(path, devices=1, batching={}) as scheduler:
            for _ in range(8):
                with pytest.raises(InputError):
                    await scheduler.run(ids(1, 2, 77))
            np.testing.assert_array_equal((await scheduler.run(ids(1, 2, 3)))["y"], [1, 2, 3])
            assert scheduler.get_metrics()["devices"][0]["state"] == "ready"

    asyncio.run(main())


# Line 7: zeros


def remainder() -> Parts:
    """The remainder of a division."""
    inputs = [tensor("a", ["N"], INT64), tensor("b", ["N"], INT64)]
    return [node("Mod", ["a", "b"], ["y"])], inputs, [tensor("y", ["N"], INT64)], {}


def from_five() -> Parts:
    """Ids that begin with 5: zeros are out of range."""
    nodes = [
        node("Sub", ["a", "lowest"], ["from_zero"]),
        node("Add", ["from_zero", "b"], ["index"]),
        node("Gather", ["table", "index"], ["y"]),
    ]
    inputs = [tensor("a", ["N"], INT64), tensor("b", ["N"], INT64)]
    constants = {"table": np.arange(4, dtype=np.float32), "lowest": np.array([5], np.int64)}
    return nodes, inputs, [tensor("y", ["N"])], constants


PADDED: dict[str, tuple[Callable[[], Parts], Pair]] = {
    "Div": (divided, pair(9, 2)),
    "Mod": (remainder, pair(9, 2)),
    "Gather": (from_five, pair(5, 0)),
}
"""Operators that fail for zeros, and a row that is valid."""


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("Div", marks=NEEDS_SAFE_DIVISION),
        pytest.param("Mod", marks=NEEDS_SAFE_DIVISION),
        "Gather",
    ],
)
def test_padding_never_fails_a_valid_request(tmp_path: Path, kind: str) -> None:
    """One to three rows of a batch of four, for operators that fail for zeros."""
    make, row = PADDED[kind]
    path = save(tmp_path / "model.onnx", make())
    requests = [
        {name: np.repeat(value, count) for name, value in row.items()} for count in (1, 2, 3, 4, 5)
    ]
    wanted = alone(path, requests)

    async def main() -> None:
        async with Scheduler(path, devices=1, onnx_define_symbol={"N": 4}) as scheduler:
            for inputs, one in zip(requests, wanted, strict=True):
                assert not isinstance(one, Exception)
                assert_near(await scheduler.run(inputs), one)

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["id", "sizes to cut at"])
def test_a_model_that_fails_for_zeros_opens(tmp_path: Path, kind: str) -> None:
    """The sizes of its outputs are not said, and a try with zeros fails: it can be used anyway."""
    if kind == "id":
        path = gather_model(tmp_path / "model.onnx", batch="N", output_batch="M", lowest=5)
        inputs = ids(5, 8)
    else:
        nodes = [node("Split", ["x", "sizes"], ["y", "z"], axis=0)]
        values = [tensor("x", ["N"]), tensor("sizes", [2], INT64)]
        outputs = [tensor("y", ["left"]), tensor("z", ["right"])]
        path = save_model(tmp_path / "model.onnx", nodes, values, outputs)
        inputs = {"x": np.arange(2, dtype=np.float32), "sizes": np.array([2, 0])}
    (wanted,) = alone(path, [inputs])

    async def main() -> None:
        async with Scheduler(path, devices=1, onnx_define_symbol={"N": 2}) as scheduler:
            assert not isinstance(wanted, Exception)
            assert_near(await scheduler.run(inputs), wanted)

    asyncio.run(main())


@pytest.mark.slow
def test_a_device_comes_back_where_zeros_are_no_valid_inputs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a quarantine it is probed with inputs that have worked before."""
    path = gather_model(tmp_path / "model.onnx", batch=4, output_batch=4, lowest=5)
    caplog.set_level(logging.CRITICAL)

    async def main() -> None:
        async with Scheduler(path, devices=1) as scheduler:
            for _ in range(4):
                await scheduler.run(ids(5, 6, 7, 8))
            break_device(scheduler)
            await run_together(scheduler, [ids(5, 6, 7, 8)])
            with anyio.fail_after(10):
                # Its probation ends with three answers; before that there may be no device.
                while scheduler.get_metrics()["devices"][0]["state"] != "ready":
                    await run_together(scheduler, [ids(5, 6, 7, 8)])
                    await asyncio.sleep(0.05)
            np.testing.assert_array_equal((await scheduler.run(ids(5, 6, 7, 8)))["y"], range(4))

    asyncio.run(main())


def break_device(scheduler: Scheduler) -> None:
    """Let the device fail its next inference as one that was restarted does."""
    assert scheduler._shell is not None
    executable = scheduler._shell.pool.executables[0]

    def fail(activation: int, inputs: Any, on_completed: Any) -> None:
        loop = asyncio.get_running_loop()
        error = DeviceError("was restarted", 0, kind="restarted")
        loop.call_soon(on_completed, error, loop.time())

    executable.submit = fail  # type: ignore[method-assign]
