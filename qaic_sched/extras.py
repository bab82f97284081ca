"""Packages that only load tests need, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from qaic_sched.errors import ConfigError

__all__ = ["require"]


def require(module: str, extra: str) -> Any:
    """Import a module of an extra; `ConfigError` with the pip command where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(
            f"this needs {package}, which is not installed: pip install 'qaic-sched[{extra}]'"
        ) from error
