"""What tests have: a cache of compiled models that is not the user's; and, if asked for, cards."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.backends.aic.aic_cards import until
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
def cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, control.Device]]:
    """Two ready devices of the stand-in, which is where the SDK would be; by id."""
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
    """The path of a QPC with one batch size, 8."""
    return write_qpc(tmp_path / "qpc")
