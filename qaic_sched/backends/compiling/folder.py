"""The folder that a compile leaves its result in: reused, locked and replaced, never half done.

Rules of this file:
- A result counts only if `compiled.json` has the digest of its program. That record is written
  first and the program is moved in last, so that whatever is interrupted between them does not
  count, and yet every file is known to be ours.
- What is being made stands in a folder of its own inside, and is moved out by renaming.
- All of it happens under a lock that the system takes back from a process that dies.
- No file that the record does not name is ever touched.
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

__all__ = ["FolderError", "Recipe", "Record", "digest_of", "finished", "install", "making"]

logger = logging.getLogger("qaic_sched")

RECORD = "compiled.json"
LOCK = ".lock"
MAKING = ".compiling-"
POLL_S = 0.05
"""Between two looks at a lock that another process holds: waiting for one cannot be cancelled."""


class FolderError(ConfigError):
    """The operator's fault: the folder cannot be used for what is compiled."""


class Recipe(Struct, frozen=True):
    """What a program is made of; another recipe is another program.

    `files` are those that the options name and those that the model keeps weights in.
    """

    kind: str
    model_sha256: str
    options: dict[str, Any]
    files: dict[str, str] = {}


class Record(Struct, frozen=True):
    """`compiled.json`: how the result beside it came about, and which files belong to it."""

    model: str
    recipe: Recipe
    compiler: str
    program: str
    sha256: str
    files: list[str]


def finished(folder: Path, recipe: Recipe, compiler: str | None) -> str | None:
    """The path of the program in `folder` that is made by this recipe and whole; None if none is.

    A compiler that is not known may have been any.
    """
    record = _read_record(folder)
    if record is None or record.recipe != recipe or compiler not in (None, record.compiler):
        return None
    program = folder / record.program
    if not program.is_file() or digest_of(program) != record.sha256:
        return None
    return str(program)


def digest_of(path: str | Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return sha256_of(file)


@asynccontextmanager
async def making(folder: Path) -> AsyncIterator[Path]:
    """Wait until nobody else compiles into `folder`, and give a new folder inside to work in.

    What the system does not let us do, then or meanwhile, is a `FolderError`.
    """
    with _system_errors(folder), _opened_lock(folder) as lock:
        if not _is_taken(lock):
            logger.info("waiting for another process that compiles into %s", folder)
            while not _is_taken(lock):  # noqa: ASYNC110 no process sends another an event
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
    """A new folder; those of compiles that were interrupted are removed, for the lock is ours."""
    for left_behind in folder.glob(f"{MAKING}*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=MAKING, dir=folder))


def install(folder: Path, made: Path, record: Record) -> str:
    """Put what was made into `folder`, in place of an earlier result; the path of the program.

    To be called inside `making`. `record.files` are the names in `made`. `FolderError` where
    `folder` holds files of somebody else.
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
    """The files of an earlier result; `FolderError` names those of somebody else."""
    record = _read_record(folder)
    names = {path.name for path in folder.iterdir() if not path.name.startswith(MAKING)}
    ours = names & {*(record.files if record else ()), LOCK}
    foreign = names - ours - ({RECORD} if record else set())
    if foreign:
        raise FolderError(
            f"output_dir: {folder} holds files that no compile of ours has left there "
            f"({', '.join(sorted(foreign))}): empty it, or name another folder"
        )
    return sorted(ours - {LOCK})


def _read_record(folder: Path) -> Record | None:
    try:
        return msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError):
        return None


def _write_record(folder: Path, made: Path, record: Record) -> None:
    draft = made.parent / RECORD
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(record)))
    draft.replace(folder / RECORD)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is_taken(lock: BinaryIO) -> bool:
    """Take the lock if it is free; whether it is ours now."""
    try:
        import fcntl
    except ImportError:
        return True  # Windows has no such lock: two may compile at once there
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _system_errors(folder: Path) -> Iterator[None]:
    """Say which folder it was that the system did not let us use."""
    try:
        yield
    except OSError as error:
        raise FolderError(
            f"output_dir: {folder} cannot be used ({error.strerror}): name another folder"
        ) from error
