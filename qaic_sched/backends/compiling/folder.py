"""The folder of a compiled program: reused, locked and replaced, never left half done.

Rules of this file:
- A result is valid only if `compiled.json` has the digest of its program. That record is written
  first and the program is moved in last: an interrupted installation is never valid, yet the record
  already names every file as ours.
- Results are made in a work folder inside the folder, and moved out by renaming.
- Every change happens under a lock, which the system releases if its process dies.
- Files that the record does not name are never touched.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import anyio
import msgspec
from msgspec import Struct

from qaic_sched.backends.compiling.container import sha256_of
from qaic_sched.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["CompileRecord", "FolderError", "Recipe", "digest_of", "finished", "install", "making"]

logger = logging.getLogger("qaic_sched")

RECORD = "compiled.json"
LOCK = ".lock"
MAKING = ".compiling-"
POLL_S = 0.05
"""Interval of polling a lock of another process, because waiting for one cannot be cancelled."""


class FolderError(ConfigError):
    """The operator's fault: the folder cannot hold a compiled program."""


class Recipe(Struct, frozen=True):
    """Everything that determines a program; another recipe makes another program.

    `files` maps the files that the options name, and those with the model's weights, to digests.
    """

    kind: str
    model_sha256: str
    options: dict[str, Any]
    files: dict[str, str] = {}


class CompileRecord(Struct, frozen=True):
    """`compiled.json`: how the program in the folder was made, and which files belong to it."""

    model: str
    recipe: Recipe
    compiler: str
    program: str
    sha256: str
    files: list[str]


def finished(folder: Path, recipe: Recipe, compiler: str | None) -> str | None:
    """The path of the complete program that this recipe made in `folder`; None if there is none.

    If `compiler` is None, the program may have been made by any.
    """
    record = _read_record(folder)
    if record is None or record.recipe != recipe or compiler not in (None, record.compiler):
        return None
    program = folder / record.program
    if not program.is_file() or digest_of(program) != record.sha256:
        return None
    return str(program)


def digest_of(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return sha256_of(file)


@asynccontextmanager
async def making(folder: Path) -> AsyncIterator[Path]:
    """Lock `folder` and yield a new work folder inside it; remove that at the end.

    Waits while another process compiles into `folder`. Errors of the system, inside the context
    too, become `FolderError`.
    """
    with _system_errors(folder), _opened_lock(folder) as lock:
        if not _is_taken(lock):
            logger.info("waiting for another process that compiles into %s", folder)
            while not _is_taken(lock):  # noqa: ASYNC110 other processes send no events
                await anyio.sleep(POLL_S)
        work = _work_folder(folder)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _opened_lock(folder: Path) -> BinaryIO:
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / LOCK).open("ab")


def _work_folder(folder: Path) -> Path:
    """A new work folder; removes those of interrupted compiles, which is safe under the lock."""
    for left_behind in folder.glob(f"{MAKING}*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=MAKING, dir=folder))


def install(folder: Path, made: Path, record: CompileRecord) -> str:
    """Move the result in `made` into `folder`, replacing an earlier one; the program's path.

    Call it inside `making`. `record.files` are the names in `made`. `FolderError` if `folder` holds
    files that are not ours.
    """
    earlier = owned(folder)
    files = sorted({*record.files, *earlier})
    _write_record(folder, made, msgspec.structs.replace(record, files=files))
    for name in earlier:
        if name != record.program:
            _remove(folder / name)
    for name in record.files:
        if name != record.program:
            (made / name).rename(folder / name)
    (made / record.program).replace(folder / record.program)
    return str(folder / record.program)


def owned(folder: Path) -> list[str]:
    """The files of an earlier result; `FolderError` names files that are not ours."""
    record = _read_record(folder)
    names = {path.name for path in folder.iterdir() if not path.name.startswith(MAKING)}
    ours = names & {*(record.files if record else ()), LOCK}
    foreign = names - ours - ({RECORD} if record else set())
    if foreign:
        raise FolderError(
            f"output_dir: {folder} holds files that qaic_sched did not make "
            f"({', '.join(sorted(foreign))}): empty it, or name another folder"
        )
    return sorted(ours - {LOCK})


def _read_record(folder: Path) -> CompileRecord | None:
    try:
        return msgspec.json.decode((folder / RECORD).read_bytes(), type=CompileRecord)
    except (OSError, msgspec.MsgspecError):
        return None


def _write_record(folder: Path, made: Path, record: CompileRecord) -> None:
    draft = made.parent / RECORD
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(record)))
    draft.replace(folder / RECORD)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is_taken(lock: BinaryIO) -> bool:
    """Take the lock if it is free; return whether it is ours now."""
    try:
        import fcntl
    except ImportError:
        return True  # Windows has no such lock: there, two processes may compile at once
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _system_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the system into a `FolderError` that names the folder."""
    try:
        yield
    except OSError as error:
        raise FolderError(
            f"output_dir: {folder} cannot be used ({error.strerror}): name another folder"
        ) from error
