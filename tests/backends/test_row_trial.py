"""The trial tells models whose rows are independent from those that mix them."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qaic_sched.backends.row_trial import RowFinding, try_rows
from qaic_sched.program import Program, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qaic_sched.program import Tensors

ort = pytest.importorskip("onnxruntime")

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
WEIGHT = np.random.default_rng(0).integers(-127, 127, (4, 3)).astype(np.int8)
node = helper.make_node

INDEPENDENT: dict[str, list[Any]] = {
    "a product with weights": [node("MatMul", ["x", "w"], ["y"])],
    "a softmax of each row": [node("Softmax", ["x"], ["y"], axis=1)],
    "a sum over each row": [node("ReduceMean", ["x"], ["y"], axes=[1])],
    "a factor of 0": [node("Sub", ["x", "x"], ["y"])],
}
MIXED: dict[str, list[Any]] = {
    "dynamic quantization": [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node("MatMulInteger", ["q", "w8", "zero"], ["product"]),
        node("Cast", ["product"], ["cast"], to=FLOAT),
        node("Mul", ["cast", "scale"], ["y"]),
    ],
    "a softmax over the rows": [node("Softmax", ["x"], ["y"], axis=0)],
    "a running sum": [node("CumSum", ["x", "zero64"], ["y"])],
    "a sort": [node("TopK", ["x", "four"], ["y", "order"], axis=0)],
    "a reversal": [node("ReverseSequence", ["x", "lengths"], ["y"], time_axis=0, batch_axis=1)],
    "a centering": [
        node("ReduceMean", ["x"], ["mean"], axes=[0]),
        node("Sub", ["x", "mean"], ["y"]),
    ],
    "a product of two matrices": [
        node("Transpose", ["x"], ["t"]),
        node("MatMul", ["x", "t"], ["y"]),
    ],
    "a value for each place": [node("Add", ["x", "places"], ["y"])],
    "a statistic of the batch": [
        node("ReduceMax", ["x"], ["largest"], keepdims=1),
        node("Div", ["x", "largest"], ["y"]),
    ],
}
HARMLESS_PADDING = {
    "dynamic quantization",
    "a running sum",
    "a value for each place",
    "a statistic of the batch",
}
CONSTANTS = {
    "w": WEIGHT.astype(np.float32),
    "w8": WEIGHT,
    "zero64": np.array(0),
    "four": np.array([4]),
    "lengths": np.array([4, 4, 4, 4]),
    "places": np.arange(4, dtype=np.float32).reshape(4, 1),
}


def opened(
    nodes: Sequence[onnx.NodeProto], kind: int = FLOAT, shape: Sequence[int] = (4, 4)
) -> tuple[Program, Any]:
    """The program of a graph from `x` to `y`, and what runs it."""
    used = {name for each in nodes for name in each.input}
    constants = [numpy_helper.from_array(CONSTANTS[name], name) for name in used & CONSTANTS.keys()]
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_empty_tensor_value_info("y")],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    dtype = helper.tensor_dtype_to_np_dtype(kind)

    def run(inputs: Tensors) -> Tensors:
        (output,) = session.run(["y"], inputs)
        return {"y": output}

    output = run({"x": np.ones(shape, dtype)})["y"]
    program = Program.of(
        [TensorSpec("x", tuple(shape), dtype)], [TensorSpec("y", output.shape, output.dtype)]
    )
    return program, run


def found(program: Program, run: Any, **options: Any) -> RowFinding:
    """The result of a trial on a clock that stands still."""
    return try_rows(program, run, lambda: 0.0, **options)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_independent_rows_share_an_inference(name: str) -> None:
    """Such a model takes the rows of several requests in one inference."""
    finding = found(*opened(INDEPENDENT[name]))

    assert (finding.rows, finding.may_pad) == ("shared", True), finding.reason


@pytest.mark.parametrize("name", MIXED)
def test_mixed_rows_do_not(name: str) -> None:
    """The finding names the output and the size of the difference."""
    finding = found(*opened(MIXED[name]))

    assert finding.rows == "own"
    assert finding.output == "y"
    assert finding.difference is not None
    assert finding.difference > 1e-4
    assert "'y'" in finding.reason
    assert finding.may_pad == (name in HARMLESS_PADDING)


def test_ids_are_tried_within_the_range_that_the_model_accepts() -> None:
    """A table of four rejects an id of 5, so smaller ones are tried."""
    CONSTANTS["table"] = np.arange(4, dtype=np.float32)
    finding = found(*opened([node("Gather", ["table", "x"], ["y"])], INT64, [4]))

    assert finding.rows == "shared"


def test_a_division_by_an_input_is_not_tried_with_zero() -> None:
    """Integer division by zero ends the process in some versions of ONNX Runtime."""
    seen: list[int] = []
    program, run = opened([node("Div", ["x", "x"], ["y"])], INT64)

    def watched(inputs: Tensors) -> Tensors:
        seen.append(int(inputs["x"].min()))
        result: Tensors = run(inputs)
        return result

    assert found(program, watched).rows == "shared"
    assert min(seen) > 0


def test_booleans_are_tried() -> None:
    """Both values of them."""
    assert found(*opened([node("Not", ["x"], ["y"])], BOOL)).rows == "shared"


def test_a_model_that_differs_from_itself_is_unknown() -> None:
    """Nothing can be compared with a random result, so rows are not shared."""
    finding = found(*opened([node("RandomNormalLike", ["x"], ["y"])]))

    assert finding.rows == "own"
    assert not finding.may_pad
    assert finding.reason.startswith("unknown: its results differ")


def test_an_output_whose_size_depends_on_values_is_found() -> None:
    """The promised shape comes only for some values."""
    _, run = opened([node("Unique", ["x"], ["y"])], INT64, [4])
    spec = TensorSpec("x", (4,), np.dtype(np.int64))
    finding = found(Program.of([spec], [TensorSpec("y", (4,), spec.dtype)]), run)

    assert (finding.rows, finding.keeps_shapes) == ("own", False)
    assert "depends on the values" in finding.reason


def test_a_model_that_rejects_everything_is_unknown() -> None:
    """The finding has the model's own words."""
    program, _ = opened([node("Identity", ["x"], ["y"])])

    def fail(_inputs: Tensors) -> Tensors:
        raise RuntimeError("no such thing")

    finding = found(program, fail)

    assert finding.rows == "own"
    assert "no such thing" in finding.reason


def test_a_model_that_accepts_one_row_only_is_unknown() -> None:
    """A table of two takes the id 1 alone: 0 is never tried, and rows cannot differ."""
    CONSTANTS["pair"] = np.arange(2, dtype=np.float32)
    finding = found(*opened([node("Gather", ["pair", "x"], ["y"])], INT64, [4]))

    assert (finding.rows, finding.reason[:7]) == ("own", "unknown")


def test_a_trial_is_bounded_in_time() -> None:
    """A slow model is unknown after the limit, which is looked at before each inference."""
    program, run = opened(INDEPENDENT["a product with weights"])
    clock = count(step=7.0)

    finding = try_rows(program, run, lambda: next(clock), limit_s=10.0)

    assert finding.rows == "own"
    assert "10 s" in finding.reason


def test_fp16_is_compared_as_coarsely_as_it_computes() -> None:
    """What is noise in fp16 is a difference in fp32."""
    noise = iter(1 + 1e-3 * np.random.default_rng(0).standard_normal(100))
    program, run = opened(INDEPENDENT["a product with weights"])

    def rounded(inputs: Tensors) -> Tensors:
        return {"y": run(inputs)["y"] * np.float32(next(noise))}

    assert found(program, rounded).rows == "own"
    assert found(program, rounded, is_fp16=True).rows == "shared"


def test_a_single_row_needs_no_trial() -> None:
    """An inference of one row mixes nothing."""
    program = Program.of(
        [TensorSpec("x", (1, 4), np.dtype(np.float32))],
        [TensorSpec("y", (1, 4), np.dtype(np.float32))],
    )

    assert found(program, lambda _: pytest.fail("nothing to try")).rows == "shared"
