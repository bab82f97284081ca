"""Compiled programs as files: finding them, their kind, and checking those for the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from qaic_sched.backends.compiling.container import (
    CpuNote,
    check_cpu_program,
    find,
    kind_of,
    write_cpu_program,
)
from qaic_sched.errors import ConfigError
from tests.models import linear, linear_inputs, linear_model


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program for the CPU."""
    model = linear_model(tmp_path / "model.onnx", batch=2)
    path = tmp_path / "programqpc.bin"
    write_cpu_program(path, Path(model), {"N": 2})
    return path


def test_a_program_for_the_cpu_is_an_onnx_model_too(program: Path) -> None:
    """ONNX and ONNX Runtime skip the note, and the model computes the same."""
    session = onnxruntime.InferenceSession(str(program), providers=["CPUExecutionProvider"])
    inputs = linear_inputs(2)
    np.testing.assert_array_equal(session.run(["y"], inputs)[0], linear(**inputs))
    onnx.checker.check_model(onnx.load(str(program)))


def test_the_note_describes_the_model(program: Path) -> None:
    """The note has the sizes of the symbols, and the size of the model."""
    size = (program.parent / "model.onnx").stat().st_size
    note = check_cpu_program(str(program))
    assert note == CpuNote(size, note.sha256, {"N": 2})
    assert len(note.sha256) == 64


def test_a_note_may_be_long(tmp_path: Path) -> None:
    """A note may have thousands of symbols, with any names."""
    symbols = {f"größe_{number}": number + 1 for number in range(5000)}
    model = linear_model(tmp_path / "model.onnx", batch=2)
    write_cpu_program(tmp_path / "p.bin", Path(model), symbols)
    assert check_cpu_program(str(tmp_path / "p.bin")).onnx_define_symbol == symbols
    onnxruntime.InferenceSession(str(tmp_path / "p.bin"), providers=["CPUExecutionProvider"])


def test_every_truncation_is_noticed(program: Path) -> None:
    """A program that is cut off anywhere is refused in one sentence."""
    whole = program.read_bytes()
    for size in range(len(whole)):
        program.write_bytes(whole[:size])
        with pytest.raises(ConfigError, match=r"compile it again|must be compiled again"):
            check_cpu_program(str(program))
    program.write_bytes(whole[:-1])
    with pytest.raises(ConfigError, match="is truncated, 1 bytes are missing"):
        check_cpu_program(str(program))


@pytest.mark.parametrize("damage", [lambda data: data + b"x", lambda data: data[:-1] + b"\0"])
def test_damage_is_noticed(program: Path, damage: object) -> None:
    """An additional byte or a changed byte is noticed."""
    assert callable(damage)
    program.write_bytes(damage(program.read_bytes()))
    with pytest.raises(ConfigError, match="is damaged: compile it again"):
        check_cpu_program(str(program))


def test_the_kinds_are_distinguished(program: Path, tmp_path: Path) -> None:
    """Our mark means the CPU, any other `.bin` cards, and anything else no program."""
    card = tmp_path / "qpc.BIN"
    card.write_bytes(b"a card's")
    renamed = program.rename(tmp_path / "renamed")
    assert kind_of(str(renamed)) == "cpu"
    assert kind_of(str(card)) == "aic"
    assert kind_of(str(tmp_path / "model.onnx")) is None
    assert kind_of(str(tmp_path / "none.bin")) is None
    with pytest.raises(
        ConfigError, match="not a program for the CPU: one for cards needs `backend"
    ):
        check_cpu_program(str(card))


def test_a_program_that_is_gone_is_named(tmp_path: Path) -> None:
    """A file that cannot be read is a `ConfigError`."""
    with pytest.raises(ConfigError, match=r"none\.bin: cannot be read: No such file"):
        check_cpu_program(str(tmp_path / "none.bin"))


@pytest.mark.parametrize("name", ["programqpc.bin", "qpc.bin"])
def test_find_takes_a_file_a_folder_or_a_glob(tmp_path: Path, name: str) -> None:
    """A compiled model may be named by file, folder or glob."""
    path = tmp_path / "my_qpc" / name
    path.parent.mkdir()
    path.touch()
    for meant in (path, path.parent, tmp_path / "*_qpc" / "*.bin", tmp_path / "*_qpc"):
        assert find(str(meant)) == str(path)


def test_find_takes_a_file_with_a_star_in_its_name(tmp_path: Path) -> None:
    """An existing file is not taken for a glob."""
    (tmp_path / "a[1].onnx").touch()
    assert find(str(tmp_path / "a[1].onnx")) == str(tmp_path / "a[1].onnx")


@pytest.mark.parametrize(
    ("meant", "problem"),
    [
        ("none.onnx", r"model: there is no file .*none\.onnx"),
        ("*.none", r"model: nothing matches .*\*\.none"),
        ("*.bin", r"can mean .*a\.bin, .*b\.bin: name one of them"),
        ("empty", r"the folder .*empty has no programqpc\.bin or qpc\.bin"),
        ("both", r"both can mean programqpc\.bin, qpc\.bin: name one of them"),
    ],
)
def test_none_or_several_are_named(tmp_path: Path, meant: str, problem: str) -> None:
    """If there is not exactly one file, the error lists what there is."""
    for name in ("a.bin", "b.bin", "both/programqpc.bin", "both/qpc.bin", "empty/other.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=problem):
        find(str(tmp_path / meant))
