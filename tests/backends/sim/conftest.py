"""The simulated cards of the tests in this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.backends.sim.sim_cards import maker

if TYPE_CHECKING:
    from pathlib import Path

    from tests.backends.sim.sim_cards import Make


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a backend of a small card, with some keys of the file changed."""
    return maker(tmp_path)
