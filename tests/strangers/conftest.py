"""Skips what takes minutes, or needs packages of its own, unless the run is meant to have it."""

from __future__ import annotations

import os

import pytest

IS_FULL_RUN = bool(os.environ.get("STRANGERS"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `strangers` unless STRANGERS is set: 1, or a folder of packages."""
    if IS_FULL_RUN:
        return
    reason = "runs for minutes: `make test-long`, or STRANGERS=1, runs it"
    for item in items:
        if item.get_closest_marker("strangers"):
            item.add_marker(pytest.mark.skip(reason=reason))
