"""The folder of a compiled program: foreign files, interruptions and the lock."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
from pathlib import Path

import pytest

from qaic_sched.backends.compiling.compile import compile_model
from qaic_sched.backends.compiling.container import check_cpu_program
from qaic_sched.backends.compiling.folder import FolderError, making
from qaic_sched.backends.cpu.compiler import CPU_COMPILER
from qaic_sched.config.keys import ModelOptions
from tests.models import linear_model


@pytest.fixture
def model(tmp_path: Path) -> str:
    """The path of a model whose batch axis is the symbol N."""
    return linear_model(tmp_path / "model.onnx")


def options_of(output_dir: Path | None = None, batch: int = 4) -> ModelOptions:
    """Options that set N to `batch`."""
    where = None if output_dir is None else str(output_dir)
    return ModelOptions(onnx_define_symbol={"N": batch}, output_dir=where)


def compiled(model: str, options: ModelOptions) -> Path:
    """Compile for the CPU, or reuse an earlier result; the path of the program."""
    return Path(asyncio.run(compile_model(model, CPU_COMPILER, options)))


def names_in(folder: Path) -> list[str]:
    """The names in a folder, without the lock."""
    return sorted({path.name for path in folder.iterdir()} - {".lock"})


@pytest.mark.parametrize("name", ["programqpc.bin", "notes.txt", "compiled.json"])
def test_foreign_files_are_never_touched(model: str, tmp_path: Path, name: str) -> None:
    """A folder with files that are not ours is refused and left unchanged."""
    foreign = tmp_path / "out" / name
    foreign.parent.mkdir()
    foreign.write_text("{}")
    with pytest.raises(FolderError, match=rf"holds files .*\({name}\): empty it, or name another"):
        compiled(model, options_of(tmp_path / "out"))
    assert names_in(tmp_path / "out") == [name]
    assert foreign.read_text() == "{}"


def test_a_foreign_file_next_to_a_result_prevents_its_replacement(
    model: str, tmp_path: Path
) -> None:
    """A result next to a foreign file can be reused, but not replaced."""
    compiled(model, options_of(tmp_path / "out"))
    (tmp_path / "out" / "notes.txt").touch()
    compiled(model, options_of(tmp_path / "out"))
    with pytest.raises(FolderError, match=r"\(notes\.txt\)"):
        compiled(model, options_of(tmp_path / "out", batch=2))
    assert names_in(tmp_path / "out") == ["compiled.json", "notes.txt", "programqpc.bin"]


def test_a_folder_that_cannot_be_made_is_named(model: str, tmp_path: Path) -> None:
    """The error has the folder, the error of the system and a remedy."""
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match=r"file/out cannot be used \(Not a dir.*name another"):
        compiled(model, options_of(tmp_path / "file" / "out"))


def test_a_user_without_a_home_is_told_to_name_a_folder(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user without a home directory has no cache: the error asks for `output_dir`."""

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(FolderError, match="output_dir: add one, because this user has no home"):
        compiled(model, options_of())


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("has_earlier", [False, True])
def test_an_interrupted_compile_never_looks_finished(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int, has_earlier: bool
) -> None:
    """A compile interrupted before either of its last two steps leaves no valid result."""
    out = tmp_path / "out"
    if has_earlier:
        compiled(model, options_of(out, batch=2))
    replace, steps = Path.replace, iter(range(10))

    def interrupted(path: Path, target: Path) -> Path:
        if next(steps) == last:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compiled(model, options_of(out))
    if has_earlier:  # the earlier program is still there, complete
        assert check_cpu_program(str(out / "programqpc.bin")).onnx_define_symbol == {"N": 2}
    else:
        assert not (out / "programqpc.bin").exists()
    program = compiled(model, options_of(out))
    assert check_cpu_program(str(program)).onnx_define_symbol == {"N": 4}


def test_a_compile_that_waited_reuses_what_was_made_meanwhile(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A second compile logs that it waits for the lock, then reuses the program."""
    elsewhere = compiled(model, options_of(tmp_path / "elsewhere")).parent

    async def main() -> str:
        async with making(tmp_path / "out"):
            waiting = asyncio.create_task(
                compile_model(model, CPU_COMPILER, options_of(tmp_path / "out"))
            )
            while not caplog.records:  # noqa: ASYNC110 the log has no event
                await asyncio.sleep(0)
            for name in names_in(elsewhere):
                shutil.copy(elsewhere / name, tmp_path / "out" / name)
        return await waiting

    with caplog.at_level(logging.INFO, logger="qaic_sched"):
        assert asyncio.run(main()) == str(tmp_path / "out" / "programqpc.bin")
    [record] = caplog.records
    assert record.getMessage().startswith("waiting for another process that compiles into")


def test_what_an_interrupted_compile_left_behind_is_removed(model: str, tmp_path: Path) -> None:
    """A killed process leaves its work folder, which the next compile removes."""
    left = tmp_path / "out" / ".compiling-abc" / "made"
    left.mkdir(parents=True)
    (left / "programqpc.bin").write_bytes(b"half")
    compiled(model, options_of(tmp_path / "out"))
    assert names_in(tmp_path / "out") == ["compiled.json", "programqpc.bin"]


def test_compiling_needs_no_file_locks(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Systems without `fcntl`, such as Windows, compile without a lock."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert compiled(model, options_of(tmp_path / "out")).is_file()
