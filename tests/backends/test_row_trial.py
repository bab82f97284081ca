"""The trial tells models whose rows are independent from those that mix them."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qaic_sched.backends.row_finding import RowFinding
from qaic_sched.backends.row_trial import try_rows
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
    nodes: Sequence[onnx.NodeProto], kind: int = FLOAT, shape: Sequence[Any] = (4, 4)
) -> tuple[Program, Any]:
    """The program of a graph from `x` to `y`, and what runs it."""
    size = [4 if each == "N" else each for each in shape]
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

    output = run({"x": np.ones(size, dtype)})["y"]
    program = Program.of(
        [TensorSpec("x", tuple(size), dtype)], [TensorSpec("y", output.shape, output.dtype)]
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


def one_row() -> Program:
    """A program of one row, `x` to `y`."""
    spec = TensorSpec("x", (1, 4), np.dtype(np.float32))
    return Program.of([spec], [TensorSpec("y", (1, 4), spec.dtype)])


def test_a_single_row_mixes_nothing() -> None:
    """But it may still give another shape than it promises."""
    _, run = opened([node("Softmax", ["x"], ["y"], axis=0)], shape=[1, 4])
    _, thinned = opened([node("NonZero", ["x"], ["y"])], shape=[1, 4])

    assert found(one_row(), run).rows == "shared"
    assert not found(one_row(), thinned).keeps_shapes


def test_a_program_of_any_row_count_is_tried_with_more_than_one() -> None:
    """A softmax over the rows shows once there are several, whatever the compiled size is."""
    _, run = opened([node("Softmax", ["x"], ["y"], axis=0)], shape=["N", 4])
    finding = found(one_row(), run, takes_any=True)

    assert (finding.rows, finding.takes_any) == ("own", True)


def test_the_number_of_rows_counts() -> None:
    """Each row over their number gives another result alone, whatever its companions are."""
    nodes = [
        node("Shape", ["x"], ["shape"], start=0, end=1),
        node("Cast", ["shape"], ["count"], to=FLOAT),
        node("Div", ["x", "count"], ["y"]),
    ]
    program, run = opened(nodes, shape=["N", 4])

    assert found(program, run).rows == "shared"
    assert found(program, run, takes_any=True).rows == "own"


def test_a_row_count_that_does_not_run_is_found() -> None:
    """A size of the export that is left in the graph keeps all other row counts out."""
    CONSTANTS["four_by_four"] = np.array([4, 4])
    nodes = [node("Reshape", ["x", "four_by_four"], ["r"]), node("Softmax", ["r"], ["y"], axis=0)]
    program, run = opened(nodes, shape=["N", 4])
    finding = found(program, run, takes_any=True)

    assert (finding.rows, finding.takes_any, finding.may_pad) == ("own", False, False)


def test_rows_that_name_other_rows_are_found() -> None:
    """Alone, a row lacks what it refers to; but any number of rows can run."""
    nodes = [
        node("Gather", ["x", "zero64"], ["ids"], axis=1),
        node("Gather", ["x", "ids"], ["y"], axis=0),
    ]
    finding = found(*opened(nodes, INT64, ["N", 4]), takes_any=True)

    assert (finding.rows, finding.takes_any) == ("own", True)


def test_each_integer_input_is_tried_in_its_own_range() -> None:
    """Ids of a large table and kinds of a table of two: neither hides what the other does."""
    CONSTANTS["words"] = np.random.default_rng(0).standard_normal((101, 4)).astype(np.float32)
    CONSTANTS["kinds"] = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
    seen: dict[str, int] = {"ids": 0, "types": 0}
    graph = helper.make_graph(
        [
            node("Gather", ["words", "ids"], ["word"]),
            node("Gather", ["kinds", "types"], ["kind"]),
            node("Add", ["word", "kind"], ["sum"]),
            node("ReduceMean", ["sum"], ["y"], axes=[1]),
        ],
        "test",
        [helper.make_tensor_value_info(name, INT64, [4, 3]) for name in seen],
        [helper.make_tensor_value_info("y", FLOAT, [4, 1, 4])],
        [numpy_helper.from_array(CONSTANTS[name], name) for name in ("words", "kinds")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options)
    specs = [TensorSpec(name, (4, 3), np.dtype(np.int64)) for name in seen]
    program = Program.of(specs, [TensorSpec("y", (4, 1, 4), np.dtype(np.float32))])

    def run(inputs: Tensors) -> Tensors:
        result = {"y": session.run(["y"], inputs)[0]}
        for name in seen:
            seen[name] = max(seen[name], int(inputs[name].max()))
        return result

    finding = found(program, run)

    assert finding.rows == "shared", finding.reason
    assert seen["ids"] > 10
    assert seen["types"] == 1


def test_a_size_from_the_inputs_is_noticed_while_it_is_small() -> None:
    """Values of a hundred as the shape of an output would need all memory."""
    seen: list[float] = []
    _, run = opened([node("ConstantOfShape", ["x"], ["y"])], INT64, [5])
    spec = TensorSpec("x", (5,), np.dtype(np.int64))
    program = Program.of([spec], [TensorSpec("y", (5,), np.dtype(np.float32))])

    def watched(inputs: Tensors) -> Tensors:
        seen.append(inputs["x"].max())
        outputs: Tensors = run(inputs)
        return outputs

    assert not found(program, watched).keeps_shapes
    assert max(seen) <= 2


def test_results_without_a_number_tell_nothing() -> None:
    """The logarithm of a negative number is none: then positive ones are tried."""
    finding = found(*opened([node("Log", ["x"], ["l"]), node("CumSum", ["l", "zero64"], ["y"])]))
    assert finding.output == "y"
    nodes = [node("Sub", ["x", "x"], ["z"]), node("Div", ["z", "z"], ["y"])]

    assert found(*opened(nodes)).reason == "unknown: an output has no finite numbers"


def test_a_mask_is_tried_with_values_that_give_numbers() -> None:
    """A mask of 57 makes all scores infinite: then nothing would be compared."""
    CONSTANTS["one"], CONSTANTS["hidden"] = np.array(1.0, np.float32), np.array(-3e38, np.float32)
    nodes = [
        node("Cast", ["x"], ["mask"], to=FLOAT),
        node("Sub", ["one", "mask"], ["inverse"]),
        node("Mul", ["inverse", "hidden"], ["bias"]),
        node("Softmax", ["bias"], ["y"], axis=1),
    ]

    assert found(*opened(nodes, INT64)).rows == "shared"


def test_large_values_that_are_rejected_are_replaced_by_smaller_ones() -> None:
    """Numbers that are cast to ids of a small table."""
    CONSTANTS["six"] = np.arange(6, dtype=np.float32)
    nodes = [
        node("Cast", ["x"], ["ids"], to=INT64),
        node("Gather", ["six", "ids"], ["n"]),
        node("CumSum", ["n", "zero64"], ["y"]),
    ]

    assert found(*opened(nodes)).output == "y"
    assert found(*opened([nodes[0], node("Gather", ["six", "ids"], ["y"])])).rows == "shared"
