"""Fixtures of all tests: a cache for compiled models, event logs that are checked, and cards."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.backends.aic.aic_cards import until
from tests.hosts import check_log
from tests.standin import control
from tests.standin.qpc import write_qpc

if TYPE_CHECKING:
    from collections.abc import Iterator

STANDIN = Path(control.__file__).parent
MODULES = ("qaicrt", "QAicApi_pb2")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def checked_log(tmp_path: Path) -> Iterator[str]:
    """The path for an event log; afterwards it is replayed to check the core's invariants."""
    path = tmp_path / "checked.jsonl"
    yield str(path)
    check_log(path)


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, control.Device]]:
    """Two ready devices of the stand-in for the SDK, by id."""
    monkeypatch.syspath_prepend(str(STANDIN))
    monkeypatch.delenv("QAIC_VISIBLE_DEVICES", raising=False)
    control.reset()
    yield control.devices
    control.reset()
    gc.collect()
    for module in MODULES:
        sys.modules.pop(module, None)
    until(lambda: not [each.name for each in threading.enumerate() if "qaic-aic" in each.name])


@pytest.fixture
def qpc(tmp_path: Path, cards: Any) -> str:
    """The path of a QPC with the batch size 8."""
    return write_qpc(tmp_path / "qpc")
