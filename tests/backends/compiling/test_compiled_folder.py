"""Tests of the folder of a compiled model: refused, interrupted, and never half done."""

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
    """Options that fix N to `batch`."""
    where = None if output_dir is None else str(output_dir)
    return ModelOptions(onnx_define_symbol={"N": batch}, output_dir=where)


def compiled(model: str, options: ModelOptions) -> Path:
    """The program for the CPU, of a compile or of an earlier one."""
    return Path(asyncio.run(compile_model(model, CPU_COMPILER, options)))


def names_in(folder: Path) -> list[str]:
    """What is in a folder, but for the lock."""
    return sorted({path.name for path in folder.iterdir()} - {".lock"})


@pytest.mark.parametrize("name", ["programqpc.bin", "notes.txt", "compiled.json"])
def test_foreign_files_are_never_touched(model: str, tmp_path: Path, name: str) -> None:
    """A folder with files that no compile of ours has left is refused, and stays as it was."""
    foreign = tmp_path / "out" / name
    foreign.parent.mkdir()
    foreign.write_text("{}")
    with pytest.raises(FolderError, match=rf"holds files .*\({name}\): empty it, or name another"):
        compiled(model, options_of(tmp_path / "out"))
    assert names_in(tmp_path / "out") == [name]
    assert foreign.read_text() == "{}"


def test_a_foreign_file_beside_our_result_is_not_touched_either(model: str, tmp_path: Path) -> None:
    """What somebody put beside a result can be reused with it, but not be replaced."""
    compiled(model, options_of(tmp_path / "out"))
    (tmp_path / "out" / "notes.txt").touch()
    compiled(model, options_of(tmp_path / "out"))
    with pytest.raises(FolderError, match=r"\(notes\.txt\)"):
        compiled(model, options_of(tmp_path / "out", batch=2))
    assert names_in(tmp_path / "out") == ["compiled.json", "notes.txt", "programqpc.bin"]


def test_a_folder_that_cannot_be_made_is_named(model: str, tmp_path: Path) -> None:
    """What the system says comes with the folder and what mends it."""
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match=r"file/out cannot be used \(Not a dir.*name another"):
        compiled(model, options_of(tmp_path / "file" / "out"))


def test_a_user_without_a_home_is_told_to_name_a_folder(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no cache at all, the option that helps is named."""

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(FolderError, match="output_dir: add one, for this user has no home"):
        compiled(model, options_of())


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("has_earlier", [False, True])
def test_an_interruption_never_looks_finished(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int, has_earlier: bool
) -> None:
    """Interrupted before its last or last but one step, a compile counts for nothing."""
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
    if has_earlier:  # the program that is there is the earlier one, and it is whole
        assert check_cpu_program(str(out / "programqpc.bin")).onnx_define_symbol == {"N": 2}
    else:
        assert not (out / "programqpc.bin").exists()
    program = compiled(model, options_of(out))
    assert check_cpu_program(str(program)).onnx_define_symbol == {"N": 4}


def test_who_waits_for_the_lock_reuses_what_was_made_meanwhile(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A second compile waits, says so, and finds its program made when it comes to its turn."""
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
    """A process that was killed leaves its folder of work; the next compile takes it away."""
    left = tmp_path / "out" / ".compiling-abc" / "made"
    left.mkdir(parents=True)
    (left / "programqpc.bin").write_bytes(b"half")
    compiled(model, options_of(tmp_path / "out"))
    assert names_in(tmp_path / "out") == ["compiled.json", "programqpc.bin"]


def test_where_the_system_has_no_such_lock_it_is_done_without(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows compiles too."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert compiled(model, options_of(tmp_path / "out")).is_file()
