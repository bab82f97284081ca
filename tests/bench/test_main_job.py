"""The main job: choice of files, tokens, the check of every answer, and the configurations."""

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
    """Make a model that reads the first 4 and last 3 bytes of a file, in blocks of 8."""
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
    """Write files of a few lines of Python with these names."""
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
    """Tokens are the stripped first and last bytes, with padding between them."""
    path = tmp_path / "file"
    path.write_bytes(content)
    row = model.tokens_of(path)
    assert row is not None
    assert row.dtype == np.int32
    assert row.tolist() == tokens


def test_files_without_enough_content_are_skipped(model: ContentModel, tmp_path: Path) -> None:
    """Nearly empty files, folders and missing paths have no tokens and are skipped."""
    for name, content in {"empty": b"", "blank": b"      x", "file": b"content"}.items():
        (tmp_path / name).write_bytes(content)
    names = ["empty", "blank", "model", "none", "file"]
    assert [path.name for path, _ in model.read(tmp_path / name for name in names)] == ["file"]


def test_an_unreadable_file_is_skipped(
    model: ContentModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cannot be opened has no tokens."""

    def deny(*_: object) -> None:
        raise PermissionError

    path = tmp_path / "file"
    path.write_bytes(b"content")
    monkeypatch.setattr(Path, "open", deny)
    assert model.tokens_of(path) is None


def test_suffixes_alternate(tmp_path: Path) -> None:
    """Every suffix appears once before any appears twice, in a fixed order."""
    fill(tmp_path, "a.py", "sub/b.py", "sub/c.py", "d.TXT", "e.txt", "Makefile")
    found = find_files([tmp_path])
    assert [path.suffix.lower() for path in found] == ["", ".py", ".txt", ".py", ".txt", ".py"]
    assert found == find_files([tmp_path])


def test_generated_and_hidden_files_are_skipped(tmp_path: Path) -> None:
    """Caches, hidden folders and installed packages are skipped."""
    fill(tmp_path, ".git/a", "__pycache__/b.pyc", "lib/site-packages/c.py", ".ignore", "lib/d.py")
    assert {path.name for path in find_files([tmp_path])} == {".ignore", "d.py"}


@pytest.mark.slow
def test_labels_are_those_of_the_magika_package() -> None:
    """Thirty files of many kinds get the labels that Magika's own code returns."""
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
    """A row is equal if no probability differs by more than 1e-5 and the type is the same."""
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
    """The job prints the types, the table of devices and, last, the number of equal answers."""
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
    """A wrong answer is status 1, and the number of equal answers is printed."""
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
    """If the process may use one core only, the job reports it and runs one device."""
    monkeypatch.setattr(main_job, "usable_cores", lambda: [0])
    fill(tmp_path, "a.py")
    status = main(["--path", str(tmp_path)])
    output = capsys.readouterr().out
    assert status == 0
    assert "this process may use one core only" in output
    assert [line.split()[0] for line in output.splitlines() if "ready" in line] == ["0"]


def test_a_folder_without_files_is_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without files there is nothing to check, which is reported with status 2."""
    status = main(["--path", str(tmp_path)])
    assert status == 2
    assert f"no file under {tmp_path}" in capsys.readouterr().out


def test_an_invalid_configuration_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `ConfigError` is printed without a traceback, with status 2."""
    monkeypatch.setattr(main_job, "CONFIG", tmp_path / "none.yaml")
    status = main(["--path", str(tmp_path)])
    assert status == 2
    assert "none.yaml: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--files", "0"], ["--path", "no/such/folder"]])
def test_wrong_arguments_are_rejected(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong argument is named, with status 2."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert f"error: {arguments[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["magika", "least_latency", "simulated_host", "eight_cards"])
def test_the_example_configurations_work(name: str) -> None:
    """Each file in `configs/` opens unchanged and answers a request of nine samples."""

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
