"""Sessions on scripted devices and simulated cards, and a check that no thread is left."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

from qaic_sched.session import Session
from qaic_sched.session import session as session_module
from tests.session.scripted_device import (
    ScriptedBackend,
    session_threads,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIM = """
inputs: {data: {shape: [4, 2], dtype: float32}}
outputs: {mean: {shape: [4, 3], dtype: float32}}
batch_sizes: [1, 2, 4]
service_time_s: SERVICE
devices: 2
cores: 4
"""


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    until(lambda: not session_threads())


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Session, ScriptedBackend]]:
    """Make a session on a scripted device: `on_device(backend, **options)`."""

    def make(
        backend: ScriptedBackend | None = None, **options: Any
    ) -> tuple[Session, ScriptedBackend]:
        chosen = backend or ScriptedBackend()
        monkeypatch.setattr(session_module, "backend_for", lambda config: chosen)
        return Session("scripted", **options), chosen

    return make


@pytest.fixture
def write_sim(tmp_path: Path) -> Callable[[float], str]:
    """Write the file of a simulated card with this `service_time_s`."""

    def write(service_time_s: float) -> str:
        path = tmp_path / "card.sim.yaml"
        path.write_text(SIM.replace("SERVICE", str(service_time_s)))
        return str(path)

    return write
