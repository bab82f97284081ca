"""Findings of trials: what they mean for a program, and how they are remembered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qaic_sched.backends.row_finding import RowFinding, apply, recall, remember
from qaic_sched.program import Program, Rows, TensorSpec

SPEC = TensorSpec("x", (4, 2), np.dtype(np.float32))
PROGRAM = Program.of([SPEC], [SPEC])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def own(*, may_pad: bool = False, takes_any: bool = True, keeps_shapes: bool = True) -> RowFinding:
    """A finding of rows that depend on each other."""
    return RowFinding(
        rows="own", may_pad=may_pad, takes_any=takes_any, keeps_shapes=keeps_shapes, reason="why"
    )


@pytest.mark.parametrize(
    ("finding", "takes_any", "rows"),
    [
        (own(may_pad=True), True, Rows.ANY),
        (own(may_pad=True, takes_any=False), True, Rows.PADDED),
        (own(may_pad=True), False, Rows.PADDED),
        (own(), False, Rows.EXACT),
        (own(may_pad=True, keeps_shapes=False), False, Rows.EXACT),
        (RowFinding(rows="shared", may_pad=True, reason="why"), True, Rows.SHARED),
    ],
)
def test_a_finding_decides_how_rows_are_used(
    finding: RowFinding, takes_any: bool, rows: Rows
) -> None:
    """Any number of rows where the runtime can, else padding where it is harmless."""
    program = apply(PROGRAM, finding, takes_any=takes_any)
    assert (program.rows, program.reason) == (rows, "why")
    assert program.keeps_shapes == finding.keeps_shapes


def test_the_user_can_only_forbid_sharing() -> None:
    """Whether padding is harmless is what was found."""
    shared = RowFinding(rows="shared", may_pad=True, reason="why")
    program = apply(PROGRAM, shared, wish="own")
    assert (program.rows, program.reason) == (Rows.PADDED, "batching.rows: own")


def test_a_finding_is_remembered_by_its_key(cache: Path) -> None:
    """Equal keys have one file; a finding that may change has none."""
    remember(["a", {"N": 4}], own())
    assert recall(["a", {"N": 4}]) == own()
    assert recall(["a", {"N": 5}]) is None
    remember("b", RowFinding(rows="own", may_pad=False, is_final=False, reason="too slow"))
    assert recall("b") is None
    assert len(list(cache.rglob("rows/*"))) == 1


@pytest.mark.parametrize("content", [b"", b"{", b'{"rows": "maybe"}', b"\xff\xfe", b"[1, 2]"])
def test_a_damaged_or_foreign_file_is_ignored(cache: Path, content: bytes) -> None:
    """The next finding replaces it."""
    remember("a", own())
    (file,) = cache.rglob("rows/*")
    file.write_bytes(content)
    assert recall("a") is None
    remember("a", own())
    assert recall("a") == own()


def test_a_folder_that_cannot_be_used_is_no_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is remembered then."""
    (cache / "qaic_sched").write_text("a file")
    remember("a", own())
    assert recall("a") is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", _no_home)
    remember("a", own())
    assert recall("a") is None


def _no_home() -> Path:
    raise RuntimeError("no home")
