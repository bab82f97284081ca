"""`qaic-sched load` reads its configuration file once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qaic_sched.cli import main
from qaic_sched.config import layers
from qaic_sched.config.yaml_file import read_yaml
from tests.cli.command_line import cards

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("more", [["--rate", "100"], ["--sweep", "set_size=1,2", "--rate", "100"]])
def test_a_configuration_is_read_once(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load test reads and parses its configuration once, in virtual time and in a sweep."""
    pytest.importorskip("scipy")
    reads: list[Path] = []

    def read_and_count(path: Path) -> object:
        reads.append(path)
        return read_yaml(path)

    monkeypatch.setattr(layers, "read_yaml", read_and_count)
    config = cards(tmp_path)
    assert main(["load", str(config), "--virtual", "--duration", "10", *more]) in (0, 1)
    assert reads == [config]
