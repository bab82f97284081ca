"""Finding the vendor's binding, and the errors without it."""

from __future__ import annotations

import importlib
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qaic_sched.backends.aic import sdk as aic_sdk
from qaic_sched.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The empty folder of an SDK; imports are undone afterwards."""
    monkeypatch.setattr(aic_sdk, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for module in (aic_sdk.RUNTIME, aic_sdk.DESCRIPTIONS):
        sys.modules.pop(module, None)


def install(sdk: Path, runtime: str = "WHO = 1", descriptions: str = "WHO = 2") -> None:
    """Write modules where the SDK installs them."""
    for folder, name, source in (
        (sdk / "lib" / platform.machine(), "qaicrt", runtime),
        (sdk / "python", "QAicApi_pb2", descriptions),
    ):
        folder.mkdir(parents=True)
        (folder / f"{name}.py").write_text(source)
    importlib.invalidate_caches()


def test_the_folders_of_the_sdk_are_searched(sdk: Path) -> None:
    """Both modules are found where the SDK installs them, and imported on request only."""
    install(sdk)
    assert aic_sdk.is_installed()
    assert "qaicrt" not in sys.modules
    for _ in range(2):
        modules = aic_sdk.import_sdk()
        assert (modules.runtime.WHO, modules.api.WHO) == (1, 2)
    assert sys.path.count(str(sdk / "python")) == 1


def test_no_sdk_is_one_sentence(sdk: Path) -> None:
    """The error says what is missing, where it was looked for and how to fix it."""
    assert not aic_sdk.is_installed()
    folder = sdk / "lib" / platform.machine()
    with pytest.raises(ConfigError, match="backend: aic needs qaicrt") as caught:
        aic_sdk.import_sdk()
    assert f"not on sys.path and not in {folder}: install the Cloud AI" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_binding_for_another_python(sdk: Path) -> None:
    """The error mentions a binding for another version of Python."""
    install(sdk)
    folder = sdk / "lib" / platform.machine()
    (folder / "qaicrt.py").rename(folder / "qaicrt.cpython-38-x86_64-linux-gnu.so")
    assert not aic_sdk.is_installed()
    with pytest.raises(ConfigError, match="there it is for another version of Python"):
        aic_sdk.import_sdk()


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import google.protobuf_that_is_not_there", r"QAicApi_pb2: .*: pip install protobuf$"),
        (
            "raise ImportError('libQAic.so: no such file')",
            r"libQAic\.so.*reinstall the Cloud AI Platform SDK$",
        ),
    ],
)
def test_a_binding_that_cannot_be_imported(sdk: Path, source: str, problem: str) -> None:
    """The error of the import is passed on, with the remedy."""
    install(sdk, descriptions=source)
    with pytest.raises(ConfigError, match=problem):
        aic_sdk.import_sdk()


def test_a_card_is_a_node_and_an_sdk(sdk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card needs a device node and the SDK; no device is queried."""
    monkeypatch.setattr(aic_sdk, "DEVICE_NODES", ((str(sdk / "dev"), "accel*"),))
    assert not aic_sdk.has_card()
    install(sdk)
    assert not aic_sdk.has_card()
    (sdk / "dev").mkdir()
    (sdk / "dev" / "accel0").touch()
    assert aic_sdk.has_card()
    assert "qaicrt" not in sys.modules
