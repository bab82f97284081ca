"""What a trial of a program has found out about its rows, and how it is remembered.

Rules of this file:
- A finding is a JSON file in the user's cache, named by all that it depends on. A file that is
  damaged or foreign counts as absent, and a folder that cannot be written is no error.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from qaic_sched.program import Rows

if TYPE_CHECKING:
    from qaic_sched.program import Program

__all__ = ["RowFinding", "apply", "recall", "remember"]

VERSION = 1
"""Of the trial: another one may find something else."""


class RowFinding(Struct, frozen=True, kw_only=True):
    """The result of a trial."""

    rows: Literal["shared", "own"]
    """Whether rows of several requests may share an inference, or each request needs its own."""
    may_pad: bool
    """Whether an inference that is filled up with copies of a row gives the other rows the same."""
    takes_any: bool = True
    """Whether other numbers of rows can run, as far as that was tried."""
    keeps_shapes: bool = True
    """Whether every output had the shape that the program promises."""
    is_final: bool = True
    """Whether another trial would find the same; not if this one ran out of time."""
    reason: str
    """One sentence for the operator."""
    output: str | None = None
    """The output with the largest difference."""
    difference: float | None = None
    """That difference, relative to the largest value of the row."""


def apply(
    program: Program, finding: RowFinding, *, takes_any: bool = False, wish: str = "auto"
) -> Program:
    """Let a batched program use its rows as a trial has found.

    `takes_any` says that the runtime can run any number of rows. With the wish "own", the user has
    decided that requests share no inference.
    """
    if finding.rows == "shared" and wish != "own":
        return program.using(Rows.SHARED, finding.reason)
    if takes_any and finding.takes_any:
        rows = Rows.ANY
    else:
        rows = Rows.PADDED if finding.may_pad and finding.keeps_shapes else Rows.EXACT
    reason = "batching.rows: own" if wish == "own" else finding.reason
    return program.using(rows, reason, keeps_shapes=finding.keeps_shapes)


def recall(key: object) -> RowFinding | None:
    """Return what was remembered for a key, which is plain values; None if there is nothing."""
    try:
        return msgspec.json.decode(_file_of(key).read_bytes(), type=RowFinding)
    except (OSError, RuntimeError, msgspec.MsgspecError):
        return None


def remember(key: object, finding: RowFinding) -> None:
    """Remember a finding for a key, unless another trial might find something else."""
    if not finding.is_final:
        return
    try:
        file = _file_of(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(finding)))
        draft.replace(file)
    except (OSError, RuntimeError):
        pass


def _file_of(key: object) -> Path:
    """The file for a key; `RuntimeError` if the user has no home directory."""
    text = json.dumps([VERSION, key], sort_keys=True)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "qaic_sched", "rows", hashlib.sha256(text.encode()).hexdigest() + ".json")
