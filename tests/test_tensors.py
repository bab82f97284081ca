"""Tensors: validation of inputs, gathering, padding and scattering."""

from __future__ import annotations

from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qaic_sched.errors import InputError
from qaic_sched.program import Program, Rows, TensorSpec
from qaic_sched.tensors import (
    AnswerCheck,
    BatchBuffers,
    allocate_outputs,
    check_row_count,
    copy_rows,
    gather,
    validate,
)

F32, I32 = np.dtype("f4"), np.dtype("i4")
BATCHED = Program.of(
    [TensorSpec("data", (8, 3), F32), TensorSpec("ids", (8,), I32)],
    [TensorSpec("prob", (8, 2), F32), TensorSpec("best", (8,), I32)],
    [1, 4, 8],
)
ONE_INPUT = Program.of([TensorSpec("data", (4, 3), F32)], [TensorSpec("prob", (4, 2), F32)])
UNBATCHED = Program.of(
    [TensorSpec("x", (2, 3), F32), TensorSpec("scale", (), F32)], [TensorSpec("y", (2, 3), F32)], []
)


def inputs_of(rows: int = 5) -> dict[str, Any]:
    """Return inputs that fit BATCHED."""
    data = np.arange(rows * 3, dtype=F32).reshape(rows, 3)
    return {"data": data, "ids": np.arange(rows, dtype=I32)}


def refused(program: Program, inputs: object) -> str:
    """Return the message with which the inputs are refused."""
    with pytest.raises(InputError) as caught:
        validate(program, inputs)
    return str(caught.value)


@pytest.mark.parametrize("rows", [1, 5, 8, 100])
def test_fitting_inputs_are_passed_on_without_a_copy(rows: int) -> None:
    """Arrays of the right type and layout are returned themselves, for any number of rows."""
    inputs = inputs_of(rows)
    tensors, found = validate(BATCHED, inputs)
    assert found == rows
    assert all(tensors[name] is inputs[name] for name in inputs)


def test_inputs_come_back_in_the_programs_order() -> None:
    """The order and the type of the caller's mapping do not matter."""
    for kind in (OrderedDict, MappingProxyType):
        tensors, _ = validate(BATCHED, kind(dict(reversed(inputs_of().items()))))
        assert list(tensors) == ["data", "ids"]


@pytest.mark.parametrize("inputs", [None, [np.zeros(3)], np.zeros((2, 3), F32), "data"])
def test_inputs_that_are_no_mapping_are_refused(inputs: object) -> None:
    """Anything but a mapping is refused, with the type that is wanted."""
    assert "wanted a dict of input name to numpy array" in refused(BATCHED, inputs)


def test_a_missing_input_is_named() -> None:
    """A request without one of the inputs is refused."""
    assert refused(BATCHED, {"data": np.zeros((1, 3), F32)}).startswith("input 'ids': missing")
    assert "input 'data', 'ids': missing" in refused(BATCHED, {})


def test_an_unknown_input_is_named_with_the_nearest_known_one() -> None:
    """For a misspelt name the error suggests the nearest one, for any other it lists all."""
    inputs = inputs_of()
    misspelt = {"dta": inputs["data"], "ids": inputs["ids"]}
    assert refused(BATCHED, misspelt).endswith(
        "the program takes 'data', 'ids'; did you mean 'data'?"
    )
    message = refused(BATCHED, {**inputs, 7: inputs["ids"]})
    assert "input 7: unknown" in message
    assert "did you mean" not in message


@pytest.mark.parametrize(
    "value",
    [[[1.0, 2.0, 3.0]], 1.0, None, np.float32(1), np.ma.zeros((5, 3), F32), memoryview(b"abc")],
)
def test_values_other_than_plain_arrays_are_refused(value: object) -> None:
    """Lists, scalars and masked arrays are refused by type."""
    message = refused(BATCHED, {**inputs_of(), "data": value})
    assert message.startswith("input 'data': got ")
    assert message.endswith("wanted a numpy array")


def test_subclasses_of_arrays_come_back_as_plain_arrays() -> None:
    """A matrix is passed on as a plain array, because slicing a matrix differs."""
    matrix = np.ones((5, 3), F32).view(np.matrix)
    tensors, _ = validate(BATCHED, {**inputs_of(), "data": matrix})
    assert type(tensors["data"]) is np.ndarray
    assert np.shares_memory(tensors["data"], matrix)


@pytest.mark.parametrize("shape", [(), (5,), (5, 4), (5, 3, 1), (5, 0)])
def test_a_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    """The rank, and all dimensions but the batch axis, must be the program's."""
    message = refused(BATCHED, {**inputs_of(), "data": np.zeros(shape, F32)})
    assert message == f"input 'data': shape {shape}; wanted (rows, 3) of float32"


def test_rows_must_be_the_same_in_every_input() -> None:
    """Inputs with different numbers of rows are refused, with both numbers."""
    message = refused(BATCHED, {**inputs_of(5), "ids": np.zeros(4, I32)})
    assert message.startswith("input 'ids': 4 rows, but input 'data' has 5")


def test_a_request_has_at_least_one_row() -> None:
    """An input without rows is refused, be it the first or a later one."""
    assert "input 'data': no rows" in refused(BATCHED, inputs_of(0))
    assert "'ids': 0 rows" in refused(BATCHED, {**inputs_of(2), "ids": np.zeros(0, I32)})


@pytest.mark.parametrize("dtype", ["f8", "f2", "i8", "u1", "?", ">f4"])
def test_safe_casts_are_silent(dtype: str) -> None:
    """Types of the program's kind are cast, byte order included."""
    data = np.array([[0, 1, 1]], dtype)
    tensors, _ = validate(ONE_INPUT, {"data": data})
    assert tensors["data"].dtype == F32
    assert tensors["data"].dtype.isnative
    assert tensors["data"].tolist() == [[0.0, 1.0, 1.0]]


@pytest.mark.parametrize("dtype", ["f4", "c8", "U1", "O", "M8[s]", "S1"])
def test_casts_that_change_the_kind_are_refused(dtype: str) -> None:
    """Float to int, text, objects and times are refused with both types."""
    message = refused(BATCHED, {**inputs_of(1), "ids": np.zeros(1, dtype)})
    assert message.startswith(f"input 'ids': dtype {np.dtype(dtype)} cannot be cast to int32")


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_integers_that_do_not_fit_are_refused(value: int) -> None:
    """A narrowing cast never wraps values around: it is refused."""
    inputs = {**inputs_of(1), "ids": np.array([value])}
    assert f"int64 values from {value} to {value} do not fit int32" in refused(BATCHED, inputs)


def test_integers_that_fit_are_narrowed() -> None:
    """The largest and smallest values of the narrower type pass."""
    ids = np.array([2**31 - 1, -(2**31)])
    tensors, _ = validate(BATCHED, {**inputs_of(2), "ids": ids})
    assert tensors["ids"].dtype == I32
    assert tensors["ids"].tolist() == ids.tolist()


def test_an_empty_array_can_be_narrowed() -> None:
    """An array with a dimension of size 0 has no values that could not fit."""
    program = Program.of([TensorSpec("x", (2, 0), I32)], [TensorSpec("y", (2,), F32)])
    tensors, rows = validate(program, {"x": np.zeros((2, 0), np.int64)})
    assert (tensors["x"].dtype, rows) == (I32, 2)


def test_floats_keep_what_cannot_be_a_number() -> None:
    """NaN and infinity pass, and a float too large for the type becomes infinity, all silently."""
    tensors, _ = validate(ONE_INPUT, {"data": np.array([[np.nan, -np.inf, 1e300]])})
    np.testing.assert_array_equal(tensors["data"], [[np.nan, -np.inf, np.inf]])


def unaligned() -> np.ndarray[Any, Any]:
    """Return an array that starts at an odd address."""
    return np.frombuffer(bytes(1 + 24), np.uint8)[1:].view(F32).reshape(2, 3)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 2), F32).T,
        np.zeros((4, 3), F32)[::2],
        np.broadcast_to(np.zeros(3, F32), (2, 3)),
        unaligned(),
    ],
)
def test_other_layouts_are_copied_to_c_order(array: np.ndarray[Any, Any]) -> None:
    """Strided, broadcast and unaligned arrays come back C-contiguous and aligned."""
    tensors, _ = validate(ONE_INPUT, {"data": array})
    assert tensors["data"].flags.c_contiguous
    assert tensors["data"].flags.aligned
    assert not np.shares_memory(tensors["data"], array)


def test_an_unbatched_program_takes_its_shapes_exactly() -> None:
    """Without a batch axis every dimension must match, and a request is one row."""
    inputs = {"x": np.zeros((2, 3), F32), "scale": np.array(2, F32)}
    tensors, rows = validate(UNBATCHED, inputs)
    assert rows == 1
    assert tensors["scale"] is inputs["scale"]
    message = refused(UNBATCHED, {**inputs, "x": np.zeros((1, 3), F32)})
    assert message == "input 'x': shape (1, 3); wanted (2, 3) of float32"


def test_a_program_without_inputs_takes_none() -> None:
    """An empty mapping is the only valid request of such a program."""
    program = Program.of([], [TensorSpec("y", (2,), F32)], [])
    assert validate(program, {}) == ({}, 1)
    assert "the program takes no inputs" in refused(program, {"x": np.zeros(1)})


def test_buffers_are_used_again_by_size() -> None:
    """A released buffer is the next one taken of its size."""
    buffers = BatchBuffers(BATCHED)
    four, eight = buffers.take(4), buffers.take(8)
    assert (four["data"].shape, four["ids"].shape) == ((4, 3), (4,))
    assert eight["data"].dtype == F32
    buffers.give_back(4, four)
    assert buffers.take(8) is not eight
    assert buffers.take(4) is four
    assert buffers.take(4) is not four


def test_gather_pads_with_the_last_row() -> None:
    """Rows beyond the parts repeat it, whatever an earlier batch left there."""
    buffer = BatchBuffers(ONE_INPUT).take(4)
    counted = {"data": np.repeat(np.arange(1, 5, dtype=F32), 3).reshape(4, 3)}
    gather(buffer, [(counted, 0, 3)])
    assert buffer["data"][:, 0].tolist() == [1, 2, 3, 3]
    gather(buffer, [(counted, 3, 1), (counted, 1, 1)])
    assert buffer["data"].tolist() == [[4] * 3, [2] * 3, [2] * 3, [2] * 3]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3)), min_size=1, max_size=8).filter(
        lambda parts: sum(rows for _, rows in parts) <= 8
    ),
    st.integers(1, 8),
)
def test_gather_then_scatter_gives_every_part_its_rows(
    parts: list[tuple[int, int]], dirty_rows: int
) -> None:
    """Whatever the buffer held before, each part gets its rows back; the last row follows."""
    rng = np.random.default_rng(len(parts))
    sources = [
        {"data": rng.random((7, 3)).astype(F32), "ids": rng.integers(1, 9, 7).astype(I32)}
        for _ in parts
    ]
    buffer = BatchBuffers(BATCHED).take(8)
    gather(buffer, [(inputs_of(8), 0, dirty_rows)])
    gather(
        buffer,
        [(source, offset, rows) for source, (offset, rows) in zip(sources, parts, strict=True)],
    )
    at = 0
    for source, (offset, rows) in zip(sources, parts, strict=True):
        back = {name: np.zeros_like(array) for name, array in source.items()}
        copy_rows(buffer, at, back, offset, rows)
        for name, array in source.items():
            np.testing.assert_array_equal(
                back[name][offset : offset + rows], array[offset : offset + rows]
            )
        at += rows
    assert (buffer["data"][at:] == buffer["data"][at - 1]).all()
    assert (buffer["ids"][at:] == buffer["ids"][at - 1]).all()


def test_outputs_have_the_requests_rows() -> None:
    """Output arrays have the program's shapes with the request's rows, and share no memory."""
    outputs = allocate_outputs(BATCHED, 100)
    assert {name: (each.shape, each.dtype) for name, each in outputs.items()} == {
        "prob": ((100, 2), F32),
        "best": ((100,), I32),
    }
    assert not np.shares_memory(outputs["prob"], allocate_outputs(BATCHED, 100)["prob"])


# Answers


def answer_of(rows: int) -> dict[str, Any]:
    """Return outputs as BATCHED promises them."""
    return allocate_outputs(BATCHED, rows)


@pytest.mark.parametrize("rows", [1, 4, 8])
def test_a_promised_answer_is_no_problem(rows: int) -> None:
    """Of each compiled size, in any order, and whatever subclass its arrays have."""
    check = AnswerCheck(BATCHED)
    answer = answer_of(rows)
    assert check.problem(answer, rows) is None
    assert check.problem(dict(reversed(answer.items())), rows) is None
    assert check.problem({**answer, "best": answer["best"].view(np.recarray)}, rows) is None
    big_endian = answer["prob"].astype(">f4").astype("=f4")
    assert check.problem({**answer, "prob": big_endian}, rows) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"best": np.zeros(4, np.int32)}, "'best': got shape (4,) of int32; the program promises"),
        ({"best": np.zeros(8, np.int64)}, "promises shape (8,) of int32"),
        ({"prob": np.zeros((8, 2), ">f4")}, "'prob': got shape (8, 2) of >f4"),
        ({"prob": np.zeros((2, 8), np.float32)}, "'prob': got shape (2, 8) of float32"),
        ({"prob": [[0.0, 0.0]] * 8}, "'prob': got list; the program promises shape (8, 2)"),
        ({"more": np.zeros(8)}, "output 'more': unknown; the program promises 'prob', 'best'"),
        ({7: np.zeros(8)}, "output 7: unknown"),
    ],
)
def test_a_broken_promise_is_named(change: dict[Any, Any], message: str) -> None:
    """The output, what came and what the program promises."""
    problem = AnswerCheck(BATCHED).problem({**answer_of(8), **change}, 8)
    assert problem is not None
    assert message in problem


def test_without_a_batch_axis_an_answer_has_whatever_shape_it_has() -> None:
    """Such a program takes one request per inference: nothing is joined, so nothing must fit."""
    check = AnswerCheck(UNBATCHED)
    assert check.problem({"y": np.zeros((2, 7), np.float32)}, 1) is None
    problem = check.problem({"y": np.zeros((2, 3))}, 1)
    assert problem is not None
    assert problem.endswith("of float64; the program promises an array of float32")


def test_read_only_and_unaligned_arrays_are_inputs() -> None:
    """The first is passed on, the second copied."""
    inputs = inputs_of()
    inputs["data"].flags.writeable = False
    assert validate(BATCHED, inputs)[0]["data"] is inputs["data"]

    unaligned = np.frombuffer(b"-" + inputs["data"].tobytes(), np.uint8)[1:].view(F32)
    tensors, _ = validate(BATCHED, {**inputs, "data": unaligned.reshape(5, 3)})
    assert tensors["data"].flags.aligned
    np.testing.assert_array_equal(tensors["data"], inputs["data"])


@pytest.mark.parametrize("dtype", ["O", "U3", "S3", "V4", "m8[s]", "M8[s]", [("a", "f4")], "c8"])
def test_arrays_of_other_kinds_are_refused(dtype: Any) -> None:
    """Objects, text, times and structures are no numbers."""
    assert "cannot be cast" in refused(
        BATCHED, {**inputs_of(1), "data": np.zeros((1, 3), np.dtype(dtype))}
    )


class Unreadable:
    """A name that cannot even be shown."""

    def __repr__(self) -> str:
        raise ValueError


def test_names_that_are_no_strings_are_refused() -> None:
    """Whatever they are, the message can be written."""
    assert "Unreadable: unknown" in refused(BATCHED, {**inputs_of(), Unreadable(): 1})


# Uses of the batch axis


def of_rows(use: Rows, *sizes: int) -> Program:
    """A program of one input that uses its batch axis in this way."""
    spec = TensorSpec("x", (sizes[-1], 2), np.dtype(np.float32))
    return Program.of([spec], [spec], sizes).using(use, "its rows depend on each other")


@pytest.mark.parametrize(
    ("use", "possible", "impossible", "listed"),
    [
        (Rows.SHARED, (1, 3, 9), (), "1 or more"),
        (Rows.ANY, (1, 3, 9), (), "1 or more"),
        (Rows.PADDED, (1, 3, 8), (9, 100), "1 to 8"),
        (Rows.EXACT, (4, 8), (1, 3, 5, 9), "4 or 8"),
    ],
)
def test_the_use_of_the_batch_axis_decides_which_row_counts_are_possible(
    use: Rows, possible: tuple[int, ...], impossible: tuple[int, ...], listed: str
) -> None:
    """Any other count is refused with a list of the possible ones, and why."""
    program = of_rows(use, 4, 8)
    assert program.row_counts == listed
    assert program.limits_rows == bool(impossible)
    for rows in possible:
        check_row_count(program, rows)
    for rows in impossible:
        with pytest.raises(InputError) as raised:
            check_row_count(program, rows)
        assert f"input 'x': {rows} rows; wanted {listed}, because" in str(raised.value)
        assert str(raised.value).endswith("its rows depend on each other")


@pytest.mark.parametrize("use", Rows)
def test_outputs_of_any_shape_fit_an_inference_of_one_whole_request(use: Rows) -> None:
    """What is neither cut nor filled needs no promise, even if a trial saw one kept."""
    check = AnswerCheck(of_rows(use, 4))
    assert check.problem({"x": np.zeros((4, 2), np.float32)}, 4) is None
    problem = check.problem({"x": np.zeros((3, 2), np.float32)}, 4)
    assert (problem is None) == (use in (Rows.ANY, Rows.EXACT))
