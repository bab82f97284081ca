"""Compiled programs as files: finding them, their kind of device, and the format for the CPU.

Rules of this file:
- A program for the CPU is an ONNX model behind a note of ours. The note is a field that readers of
  the ONNX format skip, so the file is still a model: ONNX Runtime loads it from its path, and it
  need not be held in memory.
- Any other `*.bin` file is taken for a program for cards, in the vendor's format.
"""

from __future__ import annotations

import hashlib
import shutil
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import msgspec
from msgspec import Struct

from qaic_sched.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "PROGRAM",
    "CpuNote",
    "check_cpu_program",
    "find",
    "kind_of",
    "sha256_of",
    "write_cpu_program",
]

PROGRAM = "programqpc.bin"
"""The name of a compiled program, which is that of the vendor's compiler."""
PROGRAM_NAMES = (PROGRAM, "qpc.bin")

TAG = b"\xc2\xa9\x07"
"""Tag of field 15000, which the ONNX format does not define: a length and as many bytes follow."""
LENGTH_BYTES = 4
MARK = b"qaic_sched program for the CPU\n"
CHUNK = 2**20


class CpuNote(Struct, frozen=True):
    """The note in front of the model: its size, its digest and the sizes of its symbols."""

    num_bytes: int
    sha256: str
    onnx_define_symbol: dict[str, int]


def find(path: str) -> str:
    """Resolve a file, a folder with a compiled program, or a glob with one match to a file.

    `ConfigError` if there is no such file, or several.
    """
    if Path(path).is_dir():
        names = [name for name in PROGRAM_NAMES if Path(path, name).is_file()]
        wanted = " or ".join(PROGRAM_NAMES)
        return str(Path(path, _only(names, f"the folder {path} has no {wanted}", path)))
    if has_magic(path) and not Path(path).exists():
        return find(_only(sorted(glob(path)), f"nothing matches {path}", path))
    if not Path(path).is_file():
        raise ConfigError(f"model: there is no file {path}")
    return path


def _only(found: Sequence[str], none: str, path: str) -> str:
    if not found:
        raise ConfigError(f"model: {none}")
    if len(found) > 1:
        raise ConfigError(f"model: {path} can mean {', '.join(found)}: name one of them")
    return found[0]


def kind_of(path: str) -> Literal["cpu", "aic"] | None:
    """The kind of device of the compiled program in a file; None if it is not a compiled program.

    Reads only the beginning of the file; the backend checks that it is complete.
    """
    try:
        with open(path, "rb") as file:
            if _length_of_note(file) is not None:
                return "cpu"
    except OSError:
        return None
    return "aic" if path.lower().endswith(".bin") else None


def write_cpu_program(path: Path, model: Path, symbols: Mapping[str, int]) -> None:
    """Write the ONNX file `model`, with the sizes of its symbols, as a program for the CPU."""
    with model.open("rb") as source, path.open("wb") as target:
        note = CpuNote(model.stat().st_size, sha256_of(source), dict(symbols))
        content = MARK + msgspec.json.encode(note)
        # A protobuf length: seven bits per byte, the highest bit set in all but the last.
        shifted = [len(content) >> 7 * index & 127 for index in range(LENGTH_BYTES)]
        length = bytes([*(bits | 128 for bits in shifted[:-1]), shifted[-1]])
        target.write(TAG + length + content)
        source.seek(0)
        shutil.copyfileobj(source, target, CHUNK)


def check_cpu_program(path: str) -> CpuNote:
    """Check a program for the CPU and return its note; `ConfigError` if it is damaged."""
    try:
        with open(path, "rb") as file:
            length = _length_of_note(file)
            if length is None:
                raise ConfigError(
                    f"model {path}: not a program for the CPU: one for cards needs `backend: aic`, "
                    f"a damaged one must be compiled again"
                )
            note = msgspec.json.decode(file.read(length), type=CpuNote)
            missing = note.num_bytes - (Path(path).stat().st_size - file.tell())
            if missing > 0:
                raise _damaged(path, f"is truncated, {missing} bytes are missing")
            if missing < 0 or sha256_of(file) != note.sha256:
                raise _damaged(path, "is damaged")
    except OSError as error:
        raise ConfigError(f"model {path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise _damaged(path, "is truncated or damaged at its beginning") from error
    return note


def _damaged(path: str, problem: str) -> ConfigError:
    return ConfigError(f"model {path}: {problem}: compile it again")


def _length_of_note(file: BinaryIO) -> int | None:
    """The length of the note, with the file positioned at it; None if there is no mark."""
    start = file.read(len(TAG) + LENGTH_BYTES + len(MARK))
    length = start[len(TAG) : len(TAG) + LENGTH_BYTES]
    if start != TAG + length + MARK:
        return None
    return sum((bits & 127) << 7 * index for index, bits in enumerate(length)) - len(MARK)


def sha256_of(file: BinaryIO) -> str:
    """The SHA-256 of the rest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
