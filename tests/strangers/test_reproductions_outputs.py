"""Issue 13, lines 2 to 4: outputs of other shapes, outputs that are inputs, and ends of streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from qaic_sched import CompileError, ConfigError, InputError, Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import host, rows
from tests.models import FLOAT, save_model, tensor
from tests.strangers.comparing import assert_near
from tests.strangers.coupled_models import INT64, Parts, node, save
from tests.strangers.running import alone, run_together

# Line 2: outputs whose size depends on the data


def kept_rows() -> Parts:
    """The rows without a positive number in front, which are all rows of zeros."""
    nodes = [
        node("Slice", ["x", "zero", "one", "one"], ["first"]),
        node("LessOrEqual", ["first", "limit"], ["is_kept"]),
        node("Squeeze", ["is_kept", "one"], ["mask"]),
        node("Compress", ["x", "mask"], ["y"], axis=0),
    ]
    constants: dict[str, Any] = {name: np.array([at], np.int64) for name, at in NUMBERS}
    constants["limit"] = np.array(0, np.float32)
    return nodes, [tensor("x", ["N", 3])], [tensor("y", ["kept", 3])], constants


NUMBERS = (("zero", 0), ("one", 1))


def one_or_two_copies() -> Parts:
    """One copy of the rows, or two where their sum is positive: branches of different shapes."""
    y, z = tensor("y1", ["N", 3]), tensor("y2", ["M", 3])
    once = helper.make_graph([node("Identity", ["x"], ["y1"])], "once", [], [y])
    twice = helper.make_graph([node("Concat", ["x", "x"], ["y2"], axis=0)], "twice", [], [z])
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "limit"], ["is_positive"]),
        node("If", ["is_positive"], ["y"], then_branch=twice, else_branch=once),
    ]
    limit = {"limit": np.array(0, np.float32)}
    return nodes, [tensor("x", ["N", 3])], [tensor("y", ["many", 3])], limit


def detections() -> Parts:
    """Boxes that do not overlap; of zeros there is one, and one image is its batch of one."""
    nodes = [node("NonMaxSuppression", ["boxes", "scores", "most", "overlap"], ["found"])]
    inputs = [tensor("boxes", ["N", 6, 4]), tensor("scores", ["N", 1, 6])]
    constants = {"most": np.array([9], np.int64), "overlap": np.array([0.5], np.float32)}
    return nodes, inputs, [tensor("found", ["found", 3], INT64)], constants


def distinct_values() -> Parts:
    """The distinct numbers of all rows; of zeros there is one."""
    return [node("Unique", ["x"], ["y"])], [tensor("x", ["N", 3])], [tensor("y", ["values"])], {}


def repeated_rows() -> Parts:
    """Each row once, and as often again as the request says."""
    nodes = [
        node("ReduceMax", ["count"], ["most"], keepdims=0),
        node("Unsqueeze", ["most", "zero"], ["more"]),
        node("Add", ["more", "one"], ["times"]),
        node("Concat", ["times", "one"], ["repeats"], axis=0),
        node("Tile", ["x", "repeats"], ["y"]),
    ]
    inputs = [tensor("x", ["N", 3]), tensor("count", ["N"], INT64)]
    constants = {name: np.array([at], np.int64) for name, at in NUMBERS}
    return nodes, inputs, [tensor("y", ["many", 3])], constants


def positions_of_non_zeros() -> Parts:
    """Where the numbers are that are not zero: as many columns as there are."""
    return (
        [node("NonZero", ["x"], ["y"])],
        [tensor("x", [2, 2])],
        [tensor("y", [2, "M"], INT64)],
        {},
    )


def matrix_of_a_shape() -> Parts:
    """A matrix of the shape that the caller gives, which has two numbers as the matrix two axes."""
    nodes = [node("ConstantOfShape", ["shape"], ["y"])]
    return nodes, [tensor("shape", [2], INT64)], [tensor("y", ["rows", "columns"])], {}


def cut_into_pieces() -> Parts:
    """Rows cut into two outputs at the column that the caller gives."""
    nodes = [node("Split", ["x", "sizes"], ["left", "right"], axis=1)]
    outputs = [tensor("left", [2, "l"]), tensor("right", [2, "r"])]
    return nodes, [tensor("x", [2, 6]), tensor("sizes", [2], INT64)], outputs, {}


Request = dict[str, Any]
Case = tuple[Callable[[], Parts], dict[str, int], list[Request]]


def sign_rows(*signs: int) -> Request:
    """A request whose rows have these signs."""
    return {"x": np.array([[sign, 2 * sign, 3 * sign] for sign in signs], np.float32)}


def images(count: int, seed: int) -> Request:
    """Boxes and scores of so many images."""
    random = np.random.default_rng(seed)
    corners = np.sort(random.random((count, 6, 2, 2)), axis=2).reshape(count, 6, 4)
    return {
        "boxes": corners.astype(np.float32),
        "scores": random.random((count, 1, 6), np.float32),
    }


def counted(rows_: int, times: int) -> Request:
    """Rows that are to be repeated."""
    return {"x": np.ones((rows_, 3), np.float32), "count": np.full(rows_, times)}


CASES: dict[str, Case] = {
    "Compress": (
        kept_rows,
        {"N": 4},
        [sign_rows(-1, 1), sign_rows(1, 1, 1), sign_rows(-1, 1, -1, 1), sign_rows(-1, -1, 1, 1, 1)],
    ),
    "If": (one_or_two_copies, {"N": 4}, [sign_rows(1), sign_rows(-1), sign_rows(1, 1, 1, 1)]),
    "NonMaxSuppression": (detections, {"N": 1}, [images(1, 1), images(2, 2), images(1, 3)]),
    "Unique": (distinct_values, {"N": 1}, [sign_rows(1), sign_rows(1, 2), sign_rows(3)]),
    "Tile": (repeated_rows, {"N": 4}, [counted(2, 2), counted(4, 3), counted(1, 0)]),
    "NonZero": (
        positions_of_non_zeros,
        {},
        [{"x": np.array(each, np.float32)} for each in ([[1, 0], [0, 0]], [[1, 2], [3, 4]])],
    ),
    "ConstantOfShape": (
        matrix_of_a_shape,
        {},
        [{"shape": np.array(each)} for each in ([3, 2], [1, 5], [2, 2])],
    ),
    "Split": (
        cut_into_pieces,
        {},
        [
            {"x": np.arange(12, dtype=np.float32).reshape(2, 6), "sizes": np.array(each)}
            for each in ([2, 4], [3, 3], [6, 0])
        ],
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_an_answer_comes_with_the_shape_that_it_has(tmp_path: Path, kind: str) -> None:
    """One request per inference, never cut, filled or stretched; or the model is refused."""
    make, sizes, requests = CASES[kind]
    path = save(tmp_path / "model.onnx", make())
    wanted = alone(path, requests)

    async def main() -> None:
        refusal, answers = "", []
        try:
            async with Scheduler(path, devices=1, onnx_define_symbol=sizes) as scheduler:
                answers = await run_together(scheduler, requests)
                answers += [await run_one(scheduler, each) for each in requests]
        except (ConfigError, CompileError) as error:
            refusal = str(error)
        assert "zeros" not in refusal
        if refusal:
            return
        for found, one in zip(answers, [*wanted, *wanted], strict=True):
            if isinstance(found, InputError):
                continue
            if isinstance(found, BaseException):
                raise found
            assert not isinstance(one, Exception)
            assert_near(found, one)
        assert sum(isinstance(each, dict) for each in answers) > 0

    asyncio.run(main())


async def run_one(scheduler: Scheduler, inputs: Request) -> dict[str, Any] | Exception:
    """One request with nobody beside it; its answer or error."""
    try:
        return await scheduler.run(inputs)
    except Exception as error:
        return error


# Line 3: outputs that are inputs

SAME_VALUES: dict[str, list[Any]] = {
    "Identity": [node("Identity", ["x"], ["y"])],
    "two of Identity": [node("Identity", ["x"], ["z"]), node("Identity", ["z"], ["y"])],
    "Reshape": [node("Reshape", ["x", "shape"], ["y"])],
    "Flatten": [node("Flatten", ["x"], ["y"], axis=1)],
    "Squeeze": [node("Unsqueeze", ["x", "axis"], ["z"]), node("Squeeze", ["z", "axis"], ["y"])],
    "Dropout": [node("Dropout", ["x"], ["y"])],
    "Cast to its own type": [node("Cast", ["x"], ["y"], to=FLOAT)],
    "Transpose of nothing": [node("Transpose", ["x"], ["y"], perm=[0, 1])],
    "Slice of all": [node("Slice", ["x", "start", "end"], ["y"])],
    "Concat of one": [node("Concat", ["x"], ["y"], axis=0)],
    "Expand to its own shape": [node("Expand", ["x", "ones"], ["y"])],
    "Sum of one": [node("Sum", ["x"], ["y"])],
}


@pytest.mark.parametrize("is_compiled", [True, False])
def test_an_output_that_is_an_input_has_memory_of_its_own(
    tmp_path: Path, is_compiled: bool
) -> None:
    """A caller may use its array again once `run` has returned, and keeps the answer."""
    check_memory(tmp_path, [node("Add", ["x", "x"], ["y"])], ["x", "y"], is_compiled=is_compiled)


@pytest.mark.parametrize("kind", SAME_VALUES)
def test_an_output_of_the_same_values_has_memory_of_its_own(tmp_path: Path, kind: str) -> None:
    """Whatever operator passes values on, alone or in a batch with others."""
    check_memory(tmp_path, SAME_VALUES[kind], ["y"])


def check_memory(
    folder: Path, nodes: list[Any], outputs: list[str], *, is_compiled: bool = True
) -> None:
    """Run full, partial and split requests, overwrite the inputs, and look at the first output."""
    constants = {
        "shape": np.array([-1, 3], np.int64),
        "axis": np.array([0], np.int64),
        "start": np.array([0], np.int64),
        "end": np.array([2**31], np.int64),
        "ones": np.array([1, 1], np.int64),
    }
    values = [tensor(name, ["N", 3]) for name in outputs]
    path = save_model(folder / "model.onnx", nodes, [tensor("x", ["N", 3])], values, constants)

    async def main() -> None:
        options: dict[str, Any] = {"compile": is_compiled, "onnx_define_symbol": {"N": 4}}
        async with Scheduler(path, devices=1, **options) as scheduler:
            for count in (4, 1, 6, 8):
                given = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
                kept = given.copy()
                answer = (await scheduler.run({"x": given}))[outputs[0]]
                given[:] = -1

                assert not np.shares_memory(answer, given)
                np.testing.assert_array_equal(answer, kept)

    asyncio.run(main())


# Line 4: the end of a stream


class Interrupted:
    """An async stream whose third element raises."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        yield rows(1, 1)
        yield rows(1, 2)
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        asyncio.CancelledError("gone"),
        ValueError("broken"),
        TimeoutError(),
        ConnectionResetError(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("ordered", [True, False])
def test_an_error_of_a_stream_is_raised_and_never_taken_for_its_end(
    tmp_path: Path, error: BaseException, ordered: bool
) -> None:
    """Whoever reads the outputs learns that elements are missing."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            with pytest.raises(type(error)):
                async for _ in scheduler.map(Interrupted(error), ordered=ordered):
                    pass

            assert (await scheduler.run(rows(1)))["mean"].shape == (1, 2)

    run_virtual(main)
