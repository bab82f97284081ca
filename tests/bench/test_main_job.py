"""The main job: which files it takes, how they become rows, and that its answers are checked.

And that the configurations beside it work.
"""

from __future__ import annotations

import asyncio
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from bench import main_job
from bench.main_job import ContentModel, count_equal, find_files, main, name_files
from qaic_sched.backends.choose import find_model
from qaic_sched.scheduler.front import Scheduler

MODEL = "pkg://magika/models/standard_v3_3/model.onnx"

PAD = 256


@pytest.fixture
def model(tmp_path: Path) -> ContentModel:
    """A model that sees 4 bytes from the beginning and 3 from the end, in blocks of 8."""
    config = {
        "target_labels_space": ["a", "b"],
        "beg_size": 4,
        "end_size": 3,
        "block_size": 8,
        "padding_token": PAD,
        "min_file_size_for_dl": 2,
    }
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.min.json").write_text(json.dumps(config))
    return ContentModel(str(folder / "model.onnx"))


def fill(folder: Path, *names: str) -> None:
    """Make files of a few lines of Python with these names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"import os\n\n\ndef main() -> None:\n    print({name!r})\n" * 3)


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        (b"0123456789", [*b"0123", *b"789"]),
        (b" \n 01234567 ", [*b"0123", *b"567"]),
        (b"\tab\n", [*b"ab\n", PAD, *b"\tab"]),
        (b"ab", [*b"ab", PAD, PAD, PAD, *b"ab"]),
        (b"abcdef" + b" " * 9, [*b"abcd", PAD, PAD, PAD]),
    ],
)
def test_a_file_is_its_first_and_last_bytes(
    model: ContentModel, tmp_path: Path, content: bytes, tokens: list[int]
) -> None:
    """Space is stripped within a block, before the beginning and after the end; then padding."""
    path = tmp_path / "file"
    path.write_bytes(content)
    row = model.tokens_of(path)
    assert row is not None
    assert row.dtype == np.int32
    assert row.tolist() == tokens


def test_what_the_model_is_not_asked_about(model: ContentModel, tmp_path: Path) -> None:
    """Nearly empty files, folders and what is not there have no tokens and are passed over."""
    for name, content in {"empty": b"", "blank": b"      x", "file": b"content"}.items():
        (tmp_path / name).write_bytes(content)
    names = ["empty", "blank", "model", "none", "file"]
    assert [path.name for path, _ in model.read(tmp_path / name for name in names)] == ["file"]


def test_an_unreadable_file_is_passed_over(
    model: ContentModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that may not be opened does not end the job."""

    def refuse(*_: object) -> None:
        raise PermissionError

    path = tmp_path / "file"
    path.write_bytes(b"content")
    monkeypatch.setattr(Path, "open", refuse)
    assert model.tokens_of(path) is None


def test_kinds_take_turns(tmp_path: Path) -> None:
    """Each suffix comes before any comes twice, and the order is the same every time."""
    fill(tmp_path, "a.py", "sub/b.py", "sub/c.py", "d.TXT", "e.txt", "Makefile")
    found = find_files([tmp_path])
    assert [path.suffix.lower() for path in found] == ["", ".py", ".txt", ".py", ".txt", ".py"]
    assert found == find_files([tmp_path])


def test_what_is_made_or_hidden_is_left_out(tmp_path: Path) -> None:
    """Only files that somebody wrote there: no caches, no hidden folders, no installed packages."""
    fill(tmp_path, ".git/a", "__pycache__/b.pyc", "lib/site-packages/c.py", ".ignore", "lib/d.py")
    assert {path.name for path in find_files([tmp_path])} == {".ignore", "d.py"}


@pytest.mark.slow
def test_labels_are_those_of_the_magika_package() -> None:
    """Thirty files of many kinds get, one by one, the label that Magika's own code gives them."""
    from magika import Magika

    model = ContentModel(find_model(MODEL))
    files = list(islice(model.read(find_files(main_job._roots())), 30))

    async def run() -> list[str]:
        async with Scheduler(MODEL, backend="cpu", onnx_define_symbol={"unk__214": 8}) as scheduler:
            _, _, scores = await name_files(scheduler, files, lambda _: None)
        return [model.labels[best] for best in scores.argmax(axis=1)]

    expected = Magika().identify_paths([path for path, _ in files])
    assert asyncio.run(run()) == [str(result.prediction.dl.label) for result in expected]


def test_equal_means_close_and_the_same_type() -> None:
    """A row counts if no probability differs by over 1e-5, nor the type named."""
    reference = np.array([[0.9, 0.1], [0.9, 0.1], [0.500001, 0.5], [0.9, 0.1]], np.float32)
    scores = reference.copy()
    scores[0] += np.float32(1e-6)
    scores[1, 1] += np.float32(1e-3)
    scores[2] = scores[2, ::-1]
    scores[3, 0] = np.nan
    assert count_equal(scores, reference) == 1


def test_the_main_job_names_files_and_checks_every_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints the types, the table of devices and, last, how many answers were equal."""
    fill(tmp_path, *(f"{index}.py" for index in range(12)), "notes.txt")
    status = main(["--files", "11", "--path", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert any(line.split()[:2] == ["python", "11"] for line in lines)
    assert any(line.split()[:1] == ["total"] for line in lines)
    assert lines[-1] == "11 of 11 answers equal onnxruntime"


def test_a_wrong_answer_fails_the_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 1, and the count says how many are right."""
    real = main_job.reference_scores

    def with_one_wrong(*arguments: object) -> main_job.Scores:
        scores = real(*arguments)  # type: ignore[arg-type]
        scores[1] = 0
        return scores

    monkeypatch.setattr(main_job, "reference_scores", with_one_wrong)
    fill(tmp_path, "a.py", "b.py", "c.py")
    status = main(["--path", str(tmp_path)])
    assert status == 1
    assert capsys.readouterr().out.endswith("2 of 3 answers equal onnxruntime\n")


def test_one_core_means_one_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the process may use one core only, the job says so and takes one device."""
    monkeypatch.setattr(main_job, "usable_cores", lambda: [0])
    fill(tmp_path, "a.py")
    status = main(["--path", str(tmp_path)])
    output = capsys.readouterr().out
    assert status == 0
    assert "this machine has one core to use" in output
    assert [line.split()[0] for line in output.splitlines() if "ready" in line] == ["0"]


def test_a_folder_without_files_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing to check, which is said, with status 2."""
    status = main(["--path", str(tmp_path)])
    assert status == 2
    assert f"no file under {tmp_path}" in capsys.readouterr().out


def test_a_configuration_that_cannot_work_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the scheduler refuses is printed without a traceback, with status 2."""
    monkeypatch.setattr(main_job, "CONFIG", tmp_path / "none.yaml")
    status = main(["--path", str(tmp_path)])
    assert status == 2
    assert "none.yaml: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--files", "0"], ["--path", "no/such/folder"]])
def test_bad_arguments_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad argument is named, with status 2."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert f"error: {arguments[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["magika", "least_latency", "simulated_host", "eight_cards"])
def test_the_configurations_that_come_along_work(name: str) -> None:
    """Each opens without a change and answers a request of nine rows."""

    async def run() -> dict[str, int]:
        config = main_job.CHECKOUT / "configs" / f"{name}.yaml"
        overrides = {"devices": 1} if name == "magika" else {}
        async with Scheduler.from_config(config, **overrides) as scheduler:
            inputs = {
                spec.name: np.zeros((9, *spec.shape[1:]), spec.dtype)
                for spec in scheduler.program.inputs
            }
            outputs = await scheduler.run(inputs)
        return {name: len(rows) for name, rows in outputs.items()}

    assert set(asyncio.run(run()).values()) == {9}
