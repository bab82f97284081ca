"""Packages that only load tests need."""

from __future__ import annotations

import math

import pytest

from qaic_sched.errors import ConfigError
from qaic_sched.extras import require


def test_a_module_that_is_there_is_imported() -> None:
    """By its full name."""
    assert require("scipy.special", "load").bdtr(0, 1, 0.25) == 0.75
    assert require("math", "load") is math


def test_a_missing_package_is_one_sentence_with_the_command() -> None:
    """It names the package, not the module inside it."""
    with pytest.raises(ConfigError) as caught:
        require("no_such_package.part", "mlperf")

    assert str(caught.value) == (
        "this needs no_such_package, which is not installed: pip install 'qaic-sched[mlperf]'"
    )
