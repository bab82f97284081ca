"""Tests of `qaic-sched run`."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console

from qaic_sched.cli import main
from qaic_sched.cli.ctrl_c import CtrlC
from qaic_sched.cli.progress import progress_bar
from qaic_sched.cli.run import Job
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.cli.command_line import cards, config_of, means, save_rows, start, two_models
from tests.models import linear, linear_inputs, linear_model, unbatched_model

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path


def run(config: Path, source: Path, *options: object) -> int:
    """The exit status of the command."""
    return main(["run", str(config), "--input", str(source), *map(str, options)])


def test_outputs_are_in_row_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row is answered, in its place, and the table and the rate are printed."""
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
    """`--json` prints what `get_metrics` gives, and rows, seconds and rows/s beside it."""
    assert run(cards(tmp_path), save_rows(tmp_path, 10), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 10
    assert told["rows_per_s"] == pytest.approx(10 / told["seconds"])
    assert told["requests"]["done"] == 3
    assert sum(device["samples"] for device in told["devices"].values()) == 10


def test_a_file_is_never_rejected(tmp_path: Path) -> None:
    """Rows wait for room in the queue, though the configuration says `reject`."""
    config = cards(tmp_path)
    queue = {"max_samples": 1, "when_full": "reject"}
    config = config_of(tmp_path, model="cards.sim.yaml", queue=queue)
    assert run(config, save_rows(tmp_path, 50)) == 0


def test_a_model_without_batch_axis_runs_once(tmp_path: Path) -> None:
    """Where requests cannot share an inference, the file is one request."""
    pytest.importorskip("onnxruntime")
    unbatched_model(tmp_path / "model.onnx")
    config = config_of(tmp_path, model="model.onnx", backend="cpu", devices=1)
    x, w = np.ones((2, 3), np.float32), np.arange(3, dtype=np.float32)
    np.savez(tmp_path / "in.npz", x=x, w=w)
    assert run(config, tmp_path / "in.npz", "--output", tmp_path / "out.npz") == 0
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_array_equal(outputs["y"], x * w)


def test_the_cpu_computes_every_row(tmp_path: Path) -> None:
    """A real model on the CPU gives the right result for each row, the last batch padded."""
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
    """What does not fit the program is one sentence with file, input and what was wanted."""
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
    """Inputs whose arrays disagree on the number of rows are refused."""
    pytest.importorskip("onnxruntime")
    linear_model(tmp_path / "model.onnx", 4)
    config = config_of(tmp_path, model="model.onnx", backend="cpu", devices=1)
    np.savez(tmp_path / "in.npz", a=linear_inputs(5)["a"], b=linear_inputs(6)["b"])
    assert run(config, tmp_path / "in.npz") == 2
    assert "6 rows, but input 'a' has 5" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_told_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is run whose outputs have nowhere to go."""
    target = tmp_path / "none" / "out.npz"
    assert run(cards(tmp_path), save_rows(tmp_path, 4), "--output", target) == 2
    captured = capsys.readouterr()
    assert "there is no directory" in captured.err
    assert captured.out == ""


def test_a_failed_run_is_status_1_with_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row that fails everywhere ends the run; what the devices have done is still printed."""
    config = cards(tmp_path, faults=[{"kind": "error", "probability": 1.0}])
    target = tmp_path / "out.npz"
    assert run(config, save_rows(tmp_path, 10), "--output", target) == 1
    captured = capsys.readouterr()
    assert "the first 0 of 10 rows" in captured.out
    assert "qaic-sched: sim device" in captured.err
    assert not target.exists()


def test_a_press_ends_the_stream_and_keeps_what_was_begun(tmp_path: Path) -> None:
    """After Ctrl-C nothing new is submitted, and the rows in flight are finished, in order."""
    cards(tmp_path)
    ctrl_c = CtrlC()

    async def interrupted() -> tuple[Job, int]:
        inputs = {"data": np.repeat(np.arange(400, dtype=np.float32)[:, None], 3, axis=1)}
        async with Scheduler(str(tmp_path / "cards.sim.yaml")) as scheduler:
            job = Job(scheduler.program, inputs, keeps_outputs=True)
            asyncio.get_running_loop().call_later(0.0105, setattr, ctrl_c, "is_pressed", True)
            await job.run(scheduler, ctrl_c)
            return job, scheduler.get_metrics()["requests"]["done"]

    job, requests_done = run_virtual(interrupted)
    assert 0 < job.rows_done < job.rows
    assert requests_done * 4 == job.rows_done
    assert job.outputs_done()["mean"][:, 0].tolist() == means(job.rows_done)


def test_the_progress_bar_shows_rows_on_a_terminal_only() -> None:
    """A terminal is shown how many rows are completed, a file nothing at all."""

    def shown(is_terminal: bool) -> str:
        console = Console(file=StringIO(), force_terminal=is_terminal, width=60)

        async def half_way() -> None:
            async with progress_bar(console, 10, lambda: 5):
                await asyncio.sleep(0.25)

        run_virtual(half_way)
        assert isinstance(console.file, StringIO)
        return console.file.getvalue()

    assert "5/10" in shown(is_terminal=True)
    assert shown(is_terminal=False) == ""


def wait_for_log(path: Path) -> None:
    """Return once the event log has grown: then rows are running."""
    give_up_at = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size > 10_000):
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def begun_run(folder: Path, **keys: Any) -> subprocess.Popen[str]:
    """A run of 200,000 rows that has inferences in flight."""
    log = folder / "events.jsonl"
    config = config_of(folder, model="cards.sim.yaml", event_log=str(log), **keys)
    source, target = save_rows(folder, 200_000), folder / "out.npz"
    process = start("run", config, "--input", source, "--output", target)
    wait_for_log(log)
    return process


@pytest.mark.slow
def test_ctrl_c_drains_and_writes_the_rows_that_are_done(tmp_path: Path) -> None:
    """The first SIGINT ends the run with status 130, the table, and the first rows' outputs."""
    cards(tmp_path)
    process = begun_run(tmp_path)
    process.send_signal(signal.SIGINT)
    shown, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.count("\n") == 1
    assert "once more stops at once" in said
    with np.load(tmp_path / "out.npz") as outputs:
        done = outputs["mean"][:, 0].tolist()
    assert 0 < len(done) < 200_000
    assert done == means(len(done))
    assert f"the first {len(done)} of 200000 rows" in shown


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    """With inferences in flight that would last for minutes, the second SIGINT ends the process."""
    cards(tmp_path, service_time_s=100.0)
    process = begun_run(tmp_path, num_activations=16, set_size=64)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "once more stops at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    shown, said = process.communicate(timeout=60)
    assert (process.returncode, shown, said) == (130, "", "")
    assert not (tmp_path / "out.npz").exists()


def test_one_of_several_models_runs_the_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one that `--model` names; the table tells of all."""
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
    """Without a name, or with a wrong one, nothing is loaded and the status is 2."""
    assert run(two_models(tmp_path), save_rows(tmp_path, 10), *options) == 2
    assert error in capsys.readouterr().err
