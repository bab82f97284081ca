"""The machine and the model file of tests on CPU devices, and a watch over their threads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.backends.cpu.cpu_device import cpu_threads

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """The path for the model of a test."""
    return tmp_path / "model.onnx"


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Any:
    """Check that no test leaves an activation behind, even after a failed or cancelled load."""
    yield
    for thread in cpu_threads():
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def seven_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host where this process may use cores 0 to 6."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)), raising=False)
