"""Finds and imports the vendor's Python binding; nothing else imports it.

The binding is not on PyPI. It comes with the Cloud AI Platform SDK, in folders that are not on
`sys.path`; like the vendor's examples, this module appends them.
"""

from __future__ import annotations

import importlib
import platform
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from qaic_sched.errors import ConfigError

__all__ = ["Sdk", "has_card", "import_sdk", "is_installed"]

ROOT = Path("/opt/qti-aic/dev")
"""The folder of the development files in the Platform SDK."""
DEVICE_NODES = (("/dev/accel", "accel*"), ("/dev", "qaic_aic100_*"))
"""Device nodes, one per device: of the Linux kernel's driver, and of the vendor's older one."""
RUNTIME = "qaicrt"
DESCRIPTIONS = "QAicApi_pb2"


class Sdk(NamedTuple):
    """The two modules of the binding."""

    runtime: Any
    """`qaicrt`: devices and inferences."""
    api: Any
    """`QAicApi_pb2`: the format in which a QPC describes its inputs and outputs."""


def import_sdk() -> Sdk:
    """Import the binding; `ConfigError` says what is missing and where it was looked for.

    Blocks for as long as loading the vendor's libraries takes.
    """
    return Sdk(_import(RUNTIME), _import(DESCRIPTIONS))


def is_installed() -> bool:
    """Whether the binding is installed for this version of Python; imports nothing."""
    return all(_is_there(module) for module in (RUNTIME, DESCRIPTIONS))


def has_card() -> bool:
    """Whether the binding is installed and a device node exists; cheap, queries no device."""
    return is_installed() and any(
        next(Path(folder).glob(pattern), None) for folder, pattern in DEVICE_NODES
    )


def _folder(module: str) -> Path:
    return ROOT / "python" if module == DESCRIPTIONS else ROOT / "lib" / platform.machine()


def _is_there(module: str) -> bool:
    return PathFinder.find_spec(module, [*sys.path, str(_folder(module))]) is not None


def _import(module: str) -> Any:
    folder = _folder(module)
    if not _is_there(module):
        is_foreign = next(folder.glob(f"{module}*"), None) is not None
        other = " (there it is for another version of Python)" if is_foreign else ""
        raise ConfigError(
            f"backend: aic needs {module} of the vendor's Python binding, which is not on sys.path"
            f" and not in {folder}{other}: install the Cloud AI Platform SDK for Python "
            f"{platform.python_version()}, or use backend: cpu"
        )
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        return importlib.import_module(module)
    except ImportError as error:
        mend = "reinstall the Cloud AI Platform SDK"
        if (error.name or "").startswith("google"):
            mend = "pip install protobuf"
        raise ConfigError(f"backend: aic cannot import {module}: {error}: {mend}") from error
