"""Tests of tables and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from qaic_sched.cli.output import format_table, print_json

if TYPE_CHECKING:
    import pytest


def test_a_table_is_aligned_by_column() -> None:
    """Each column is as wide as its widest cell, aligned as its heading specifies."""
    table = format_table({"id": ">", "name": "<"}, [("1", "a"), ("10", "long"), ("7", "")])
    assert table.splitlines() == ["id  name", " 1  a", "10  long", " 7"]


def test_json_accepts_ids_as_keys_and_any_value(capsys: pytest.CaptureFixture[str]) -> None:
    """Device ids as keys, and values of types unknown to JSON, become text."""
    print_json({3: {"path": Path("a/b"), "rate": 1.5}})
    assert json.loads(capsys.readouterr().out) == {"3": {"path": "a/b", "rate": 1.5}}
