"""Imports packages that only some features need, where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from qaic_sched.errors import ConfigError

__all__ = ["require"]


def require(module: str, extra: str, *, needed_by: str = "this") -> Any:
    """Import and return a module of an optional extra.

    If it is not installed, raises `ConfigError` with the pip command; `needed_by` is the subject
    of the sentence.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(
            f"{needed_by} needs {package}, which is not installed: "
            f"pip install 'qaic-sched[{extra}]'"
        ) from error
