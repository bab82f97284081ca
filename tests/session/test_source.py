"""Sources of sessions: one backend for the devices of a host, and their shares."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from qaic_sched.config.layers import make_config
from qaic_sched.errors import ConfigError
from qaic_sched.session import Session
from qaic_sched.session import session as session_module
from tests.models import linear_model
from tests.session.scripted_device import ScriptedBackend, rows, session_threads

if TYPE_CHECKING:
    from pathlib import Path


class RecordingBackend(ScriptedBackend):
    """Records the selections, and checks that loads do not overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.selected: list[Any] = []
        self.num_loading = 0

    async def select(self, devices: Any) -> list[int]:
        self.selected.append(devices)
        return await super().select(devices)

    async def load(self, device_id: int, num_activations: int, set_size: int) -> Any:
        self.num_loading += 1
        assert self.num_loading == 1
        loaded = self.executables
        self.executables = []  # those of other devices may still be open
        executable = await super().load(device_id, num_activations, set_size)
        self.executables = [*loaded, *self.executables]
        self.num_loading -= 1
        return executable


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> RecordingBackend:
    """The backend that the sessions share."""
    made = [RecordingBackend()]
    monkeypatch.setattr(session_module, "backend_for", lambda config: made.pop())
    return made[0]


def test_there_is_a_session_for_each_device(backend: RecordingBackend) -> None:
    """The sessions share one backend, which selects all devices and loads one after the other."""
    config = make_config("scripted", devices=[2, 0], num_activations=3)
    sessions = Session.for_each_device(config)
    assert [each.backend_options["dev_id"] for each in sessions] == [2, 0]
    assert session_threads() == []
    with ThreadPoolExecutor(2) as threads:
        outputs = list(threads.map(lambda session: session.run(rows(5)), sessions))
    assert [each["y"].tolist() for each in outputs] == [[5], [5]]
    assert backend.selected == [[2, 0]]
    assert sorted(backend.loads) == [(0, 3, 2), (2, 3, 2)]
    for session in sessions:
        session.reset()


def test_another_device_is_selected_alone(backend: RecordingBackend) -> None:
    """A live change to a device outside the shared ones selects it alone; the way back restores."""
    first, _ = Session.for_each_device(make_config("scripted", devices=2))
    first.update_backend_options(dev_id=3)
    first.setup()
    assert backend.selected == [2, [3]]
    first.update_backend_options(dev_id=1)
    first.setup()
    assert backend.selected == [2, [3], [0, 1]]
    first.reset()


def test_devices_that_do_not_exist_are_refused(backend: RecordingBackend) -> None:
    """`for_each_device` raises at once, not in the first run."""
    with pytest.raises(ConfigError, match="devices: got 9"):
        Session.for_each_device(make_config("scripted", devices=9))
    assert backend.loads == []


def test_cpu_devices_get_their_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices get half of the cores each; a session made alone gets all."""
    pinned: list[list[int]] = []
    monkeypatch.setattr("qaic_sched.backends.cpu.backend.usable_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr("qaic_sched.backends.cpu.executable.pin_to", pinned.append)
    model = linear_model(tmp_path / "m.onnx", batch=2)
    for session in Session.for_each_device(make_config(model, devices=2)):
        with session:
            session.setup()
    with Session.of(make_config(model, dev_id=1)) as alone:
        alone.setup()
    assert pinned == [[0, 1], [2, 3], [0, 1, 2, 3]]
