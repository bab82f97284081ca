"""The rows of models on the CPU: tried once, before anything is loaded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import helper

from qaic_sched.backends.cpu import row_trial
from qaic_sched.backends.row_trial import try_rows
from qaic_sched.program import Program, Rows
from tests.backends.cpu.cpu_device import backend, close, infer, load
from tests.models import linear_model, save_model, tensor

if TYPE_CHECKING:
    from qaic_sched.backends.base import RowsWish


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the programs' first outputs, one for each trial."""
    seen: list[str] = []

    def counted(program: Program, *rest: Any, **options: Any) -> Any:
        seen.append(program.outputs[0].name)
        return try_rows(program, *rest, **options)

    monkeypatch.setattr(row_trial, "try_rows", counted)
    return seen


def softmax_model(path: Path, rows: int | str = "N") -> str:
    """A softmax over the rows of `x` [rows, 2]."""
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=0)]
    return save_model(path, nodes, [tensor("x", [rows, 2])], [tensor("y", [rows, 2])])


def settled(path: str, wish: RowsWish = "auto", **options: Any) -> Program:
    """The program after the decision."""
    return asyncio.run(backend(path, **options).settle_rows(wish))


def test_independent_rows_are_shared(model_file: Path) -> None:
    """The batch keeps its compiled size."""
    program = settled(linear_model(model_file), onnx_define_symbol={"N": 4})
    assert (program.rows, program.batch_sizes) == (Rows.SHARED, (4,))


@pytest.mark.parametrize("compile_", [True, False])
def test_mixed_rows_of_an_open_axis_run_in_any_number(model_file: Path, compile_: bool) -> None:
    """The model itself is loaded, whose batch axis has no size."""
    model = backend(softmax_model(model_file), onnx_define_symbol={"N": 4}, compile=compile_)
    program = asyncio.run(model.settle_rows("auto"))
    assert program.rows is Rows.ANY
    assert "'y' differs by" in program.reason
    executable = load(model)
    assert executable.program is program
    for rows in (1, 3, 9):
        outputs = infer(executable, {"x": np.zeros((rows, 2), np.float32)})
        np.testing.assert_allclose(outputs["y"], np.full((rows, 2), 1 / rows), rtol=1e-6)
    close(executable)


def test_mixed_rows_of_a_fixed_axis_run_as_they_are(model_file: Path) -> None:
    """Padding would change the result."""
    assert settled(softmax_model(model_file, 4)).rows is Rows.EXACT


def test_the_user_may_decide(model_file: Path, trials: list[str]) -> None:
    """Without a trial, but for whether padding is harmless."""
    symbol = {"onnx_define_symbol": {"N": 4}}
    assert settled(softmax_model(model_file), "shared", **symbol).rows is Rows.SHARED
    assert settled(linear_model(model_file), "own", **symbol).rows is Rows.ANY
    assert trials == []
    assert settled(linear_model(model_file, batch=4), "own").rows is Rows.PADDED
    assert trials == ["y"]


def test_the_user_may_say_that_equal_sizes_are_rows(model_file: Path) -> None:
    """Against the symbols, but not against the sizes."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    shape = [4, "words", 3]
    save_model(model_file, nodes, [tensor("x", shape)], [tensor("y", shape)])
    path, sizes = str(model_file), {"words": 2}
    assert not settled(path, "auto", onnx_define_symbol=sizes).is_batched
    assert settled(path, "shared", onnx_define_symbol=sizes).batch_sizes == (4,)
    nodes = [helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])]
    save_model(model_file, nodes, [tensor("x", [4, 3])], [tensor("y", [3, 4])])
    assert not settled(path, "shared").is_batched


def test_a_trial_runs_once_per_program(model_file: Path, trials: list[str], tmp_path: Path) -> None:
    """The next process reads what was found; another size or content is another program."""
    for rows in (4, 4, 5):
        settled(softmax_model(model_file), onnx_define_symbol={"N": rows})
    assert len(trials) == 2
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(model_file.read_bytes())
    settled(str(copy), onnx_define_symbol={"N": 4})
    assert len(trials) == 2
    linear_model(model_file)
    settled(str(model_file), onnx_define_symbol={"N": 4})
    assert len(trials) == 3


def test_one_row_of_a_fixed_size_needs_no_trial(model_file: Path, trials: list[str]) -> None:
    """Unless an output may have another size."""
    assert settled(softmax_model(model_file, 1)).rows is Rows.SHARED
    assert trials == []
    nodes = [helper.make_node("NonZero", ["x"], ["y"])]
    save_model(model_file, nodes, [tensor("x", [2])], [tensor("y", [1, "M"], 7)])
    assert not settled(str(model_file)).is_batched


def test_one_row_of_an_open_axis_is_tried_with_more(model_file: Path) -> None:
    """A request of two rows must not be taken for two requests."""
    program = settled(softmax_model(model_file), onnx_define_symbol={"N": 1})
    assert program.rows is Rows.ANY


def test_a_trial_that_hangs_is_given_up(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its result is unknown, and not remembered."""
    monkeypatch.setattr(row_trial, "OPEN_LIMIT_S", 0.0)
    program = settled(linear_model(model_file, batch=4))
    assert program.rows is Rows.EXACT
    assert program.reason == "unknown: the trial took longer than 0 s"


def test_a_model_that_cannot_be_opened_is_unknown(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Loading it will tell what is wrong."""

    def fail(*_: Any) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(row_trial, "open_model", fail)
    program = settled(linear_model(model_file, batch=4))
    assert program.reason == "unknown: it could not be opened for a trial: no memory"
    assert not list((tmp_path / "cache").rglob("rows/*"))
