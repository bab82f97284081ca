"""The description of a program: its batch axis, and how requests use it."""

from __future__ import annotations

import numpy as np

from qaic_sched.program import Program, Rows, TensorSpec

F32 = np.dtype(np.float32)


def spec(*shape: int) -> TensorSpec:
    """A tensor of this shape."""
    return TensorSpec("x", shape, F32)


def test_a_common_first_dimension_is_the_batch_axis() -> None:
    """It is one unless an input or output has another, or none, or the dimension is empty."""
    assert Program.of([spec(4, 3), spec(4)], [spec(4, 2)]).batch_sizes == (4,)
    for inputs, outputs in (
        ([spec(4, 3), spec(3)], [spec(4, 2)]),
        ([spec(4, 3)], [spec(2, 4)]),
        ([spec(4, 3), spec()], [spec(4)]),
        ([spec(0, 3)], [spec(0)]),
    ):
        assert Program.of(inputs, outputs).batch_sizes == ()


def test_a_program_without_inputs_has_no_batch_axis() -> None:
    """A constant of four rows is an output of one request, not of four."""
    assert not Program.of([], [spec(4, 2)]).is_batched


def test_the_use_of_the_batch_axis_is_reported() -> None:
    """Metrics and `qaic-sched check` show the same mode, row counts and reason."""
    program = Program.of([spec(4, 3)], [spec(4, 2)])
    assert program.shares_rows
    own = program.using(Rows.PADDED, "because")
    assert not own.shares_rows
    assert (program.samples_each, own.samples_each) == (None, 4)
    assert own.rows_report == {"mode": "padded", "row_counts": "1 to 4", "reason": "because"}
    report = Program.of([spec(4, 3)], [spec()]).rows_report
    assert (report["mode"], report["row_counts"]) == (
        "unbatched",
        "exactly the shapes of the inputs",
    )


def test_the_bytes_of_a_sample_are_those_of_all_inputs() -> None:
    """Without a batch axis, a request is one sample."""
    assert Program.of([spec(4, 3), spec(4)], [spec(4)]).bytes_per_sample == 16
    assert Program.of([spec(4, 3), spec()], [spec(4)]).bytes_per_sample == 52
