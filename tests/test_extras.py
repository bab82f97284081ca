"""Importing packages of optional extras."""

from __future__ import annotations

import math

import pytest

from qaic_sched.errors import ConfigError
from qaic_sched.extras import require


def test_an_installed_module_is_imported() -> None:
    """A module is imported and returned, also one inside a package."""
    assert require("scipy.special", "load").bdtr(0, 1, 0.25) == 0.75
    assert require("math", "load") is math


def test_a_missing_package_is_one_sentence_with_the_command() -> None:
    """The error names the package, not the module inside it, and what needs it."""
    with pytest.raises(ConfigError) as caught:
        require("no_such_package.part", "mlperf")

    assert str(caught.value) == (
        "this needs no_such_package, which is not installed: pip install 'qaic-sched[mlperf]'"
    )
    with pytest.raises(ConfigError, match=r"^the server needs no_such_package, .*\[server\]'$"):
        require("no_such_package", "server", needed_by="the server")
