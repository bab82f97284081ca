"""Tests of `qaic-sched run`."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import helper

from qaic_sched.cli import main
from qaic_sched.cli.ctrl_c import CtrlC
from qaic_sched.cli.run import FileJob
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.cli.command_line import cards, config_of, means, save_rows, start, two_models
from tests.models import (
    linear,
    linear_inputs,
    linear_model,
    save_model,
    tensor,
    unbatched_model,
)

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path


def run(config: Path, source: Path, *options: object) -> int:
    """Run the command and return its exit status."""
    return main(["run", str(config), "--input", str(source), *map(str, options)])


def test_outputs_are_in_row_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Outputs are in row order, and the table and the rate are printed."""
    target = tmp_path / "out.npz"
    assert run(cards(tmp_path), save_rows(tmp_path, 10), "--output", target) == 0
    with np.load(target) as outputs:
        assert outputs["mean"][:, 0].tolist() == means(10)
    heading, *_, last = capsys.readouterr().out.splitlines()
    assert heading.split()[:2] == ["device", "state"]
    assert last.startswith("10 rows in ")
    assert last.endswith(" rows/s")


def test_rows_of_one_batch_are_written_too(tmp_path: Path) -> None:
    """A file smaller than a batch is one request."""
    target = tmp_path / "out.npz"
    assert run(cards(tmp_path), save_rows(tmp_path, 3), "--output", target) == 0
    with np.load(target) as outputs:
        assert outputs["mean"][:, 0].tolist() == means(3)


def test_json_is_the_metrics_with_the_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--json` prints the metrics together with rows, seconds and rows per second."""
    assert run(cards(tmp_path), save_rows(tmp_path, 10), "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rows"] == 10
    assert result["rows_per_s"] == pytest.approx(10 / result["seconds"])
    assert result["requests"]["done"] == 3
    assert sum(device["samples"] for device in result["devices"].values()) == 10


def test_rows_are_never_rejected(tmp_path: Path) -> None:
    """Rows wait for room in the queue even if the configuration says `reject`."""
    config = cards(tmp_path)
    queue = {"max_samples": 1, "when_full": "reject"}
    config = config_of(tmp_path, model="cards.sim.yaml", queue=queue)
    assert run(config, save_rows(tmp_path, 50)) == 0


def test_a_model_without_batch_axis_runs_once(tmp_path: Path) -> None:
    """If requests cannot share an inference, the whole file is one request."""
    pytest.importorskip("onnxruntime")
    unbatched_model(tmp_path / "model.onnx")
    config = config_of(tmp_path, model="model.onnx", backend="cpu", devices=1)
    x, w = np.ones((2, 3), np.float32), np.arange(3, dtype=np.float32)
    np.savez(tmp_path / "in.npz", x=x, w=w)
    assert run(config, tmp_path / "in.npz", "--output", tmp_path / "out.npz") == 0
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_array_equal(outputs["y"], x * w)


def test_the_cpu_computes_every_row(tmp_path: Path) -> None:
    """A CPU model returns the right result for each row, including a padded last batch."""
    pytest.importorskip("onnxruntime")
    linear_model(tmp_path / "model.onnx", 4)
    config = config_of(tmp_path, model="model.onnx", backend="cpu", devices=1)
    inputs = linear_inputs(11)
    np.savez(tmp_path / "in.npz", **inputs)
    assert run(config, tmp_path / "in.npz", "--output", tmp_path / "out.npz") == 0
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_array_equal(outputs["y"], linear(**inputs))


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"dat": np.zeros((2, 3))}, "did you mean 'data'"),
        ({}, "'data': missing"),
        ({"data": np.zeros((2, 5))}, r"shape (2, 5)"),
        ({"data": np.zeros((0, 3))}, "no rows"),
    ],
)
def test_wrong_inputs_are_status_2_and_name_the_file(
    tmp_path: Path, arrays: dict[str, Any], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Inputs that do not fit the program are one sentence with file, input and problem."""
    np.savez(tmp_path / "in.npz", **arrays)
    assert run(cards(tmp_path), tmp_path / "in.npz") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert f"{tmp_path / 'in.npz'}: input " in line
    assert problem in line


def test_different_row_counts_are_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Inputs with different numbers of rows are rejected."""
    pytest.importorskip("onnxruntime")
    linear_model(tmp_path / "model.onnx", 4)
    config = config_of(tmp_path, model="model.onnx", backend="cpu", devices=1)
    np.savez(tmp_path / "in.npz", a=linear_inputs(5)["a"], b=linear_inputs(6)["b"])
    assert run(config, tmp_path / "in.npz") == 2
    assert "6 rows, but input 'a' has 5" in capsys.readouterr().err


def test_an_unwritable_output_is_reported_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing runs if its outputs cannot be written."""
    target = tmp_path / "none" / "out.npz"
    assert run(cards(tmp_path), save_rows(tmp_path, 4), "--output", target) == 2
    captured = capsys.readouterr()
    assert "no such directory" in captured.err
    assert captured.out == ""


def test_a_failed_run_is_status_1_with_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row that fails on every attempt ends the run; the table is still printed."""
    config = cards(tmp_path, faults=[{"kind": "error", "probability": 1.0}])
    target = tmp_path / "out.npz"
    assert run(config, save_rows(tmp_path, 10), "--output", target) == 1
    captured = capsys.readouterr()
    assert "the first 0 of 10 rows" in captured.out
    assert "qaic-sched: sim device" in captured.err
    assert not target.exists()


def test_ctrl_c_finishes_the_rows_in_flight(tmp_path: Path) -> None:
    """After Ctrl-C no more rows are submitted, and those in flight are completed in order."""
    cards(tmp_path)
    ctrl_c = CtrlC()

    async def interrupted() -> tuple[FileJob, int]:
        inputs = {"data": np.repeat(np.arange(400, dtype=np.float32)[:, None], 3, axis=1)}
        async with Scheduler(str(tmp_path / "cards.sim.yaml")) as scheduler:
            job = FileJob(scheduler.program, inputs, keeps_outputs=True)
            asyncio.get_running_loop().call_later(0.0105, setattr, ctrl_c, "is_pressed", True)
            await job.run(scheduler, ctrl_c)
            return job, scheduler.get_metrics()["requests"]["done"]

    job, requests_done = run_virtual(interrupted)
    assert 0 < job.rows_completed < job.rows
    assert requests_done * 4 == job.rows_completed
    assert job.completed_outputs()["mean"][:, 0].tolist() == means(job.rows_completed)


def wait_for_log(path: Path) -> None:
    """Wait until the event log has grown, which means that rows are running."""
    give_up_at = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size > 10_000):
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def begun_run(folder: Path, **keys: Any) -> subprocess.Popen[str]:
    """Start a run of 200,000 rows and wait until inferences are in flight."""
    log = folder / "events.jsonl"
    config = config_of(folder, model="cards.sim.yaml", event_log=str(log), **keys)
    source, target = save_rows(folder, 200_000), folder / "out.npz"
    process = start("run", config, "--input", source, "--output", target)
    wait_for_log(log)
    return process


@pytest.mark.slow
def test_ctrl_c_drains_and_writes_the_completed_rows(tmp_path: Path) -> None:
    """The first SIGINT ends the run with status 130, the table and the completed outputs."""
    cards(tmp_path)
    process = begun_run(tmp_path)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.count("\n") == 1
    assert "press again to stop at once" in stderr
    with np.load(tmp_path / "out.npz") as outputs:
        completed = outputs["mean"][:, 0].tolist()
    assert 0 < len(completed) < 200_000
    assert completed == means(len(completed))
    assert f"the first {len(completed)} of 200000 rows" in stdout


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    """The second SIGINT ends the process even with long inferences in flight."""
    cards(tmp_path, service_time_s=100.0)
    process = begun_run(tmp_path, num_activations=16, set_size=64)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "press again to stop at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "")
    assert not (tmp_path / "out.npz").exists()


def test_model_selects_one_of_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--model` selects the model that runs the rows; the table lists all models."""
    target = tmp_path / "out.npz"
    source = save_rows(tmp_path, 10)
    assert run(two_models(tmp_path), source, "--model", "b", "--output", target) == 0
    with np.load(target) as outputs:
        assert outputs["mean"][:, 0].tolist() == means(10)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    samples = {line[0]: line[4] for line in lines if line[1] == "total"}
    assert samples == {"a": "0", "b": "10", "all": "10"}


@pytest.mark.parametrize(
    ("options", "error"),
    [((), "model: missing, and this"), (("--model", "c"), "model: there is no 'c'")],
)
def test_of_several_models_one_must_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], error: str
) -> None:
    """With several models, a missing or unknown `--model` is an error with status 2."""
    assert run(two_models(tmp_path), save_rows(tmp_path, 10), *options) == 2
    assert error in capsys.readouterr().err


def mixing_model(path: Path, operator: str, output: list[Any], **attributes: Any) -> str:
    """Write a model of four rows `x` [4, 2] that depend on each other."""
    nodes = [helper.make_node(operator, ["x"], ["y"], **attributes)]
    return save_model(path, nodes, [tensor("x", [4, 2])], [tensor("y", output)])


def test_a_file_is_cut_into_inferences_that_are_possible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rest that no inference can take is refused before anything runs."""
    mixing_model(tmp_path / "model.onnx", "Softmax", [4, 2], axis=0)
    config = config_of(tmp_path, model="model.onnx", backend="cpu")
    target = tmp_path / "out.npz"
    np.savez(tmp_path / "in.npz", x=np.zeros((8, 2), np.float32))
    assert run(config, tmp_path / "in.npz", "--output", target) == 0
    with np.load(target) as outputs:
        np.testing.assert_allclose(outputs["y"], np.full((8, 2), 0.25))
    np.savez(tmp_path / "in.npz", x=np.zeros((9, 2), np.float32))
    assert run(config, tmp_path / "in.npz") == 2
    assert "input 'x': 1 rows; wanted 4" in capsys.readouterr().err


def test_a_file_is_one_request_if_its_outputs_cannot_be_joined(tmp_path: Path) -> None:
    """The distinct values of all rows are not those of each batch one after the other."""
    nodes = [helper.make_node("Unique", ["x"], ["y"])]
    save_model(tmp_path / "model.onnx", nodes, [tensor("x", ["N", 2])], [tensor("y", ["M"])])
    config = config_of(tmp_path, model="model.onnx", backend="cpu", onnx_define_symbol={"N": 2})
    target = tmp_path / "out.npz"
    np.savez(tmp_path / "in.npz", x=np.arange(10, dtype=np.float32).reshape(5, 2) // 4)
    assert run(config, tmp_path / "in.npz", "--output", target) == 0
    with np.load(target) as outputs:
        assert outputs["y"].tolist() == [0.0, 1.0, 2.0]
