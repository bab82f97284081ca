"""Chooses the backend of a configuration: finds its model and picks the kind of device."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qaic_sched.backends.aic.sdk import has_card
from qaic_sched.backends.compiling.container import find, kind_of
from qaic_sched.errors import ConfigError

if TYPE_CHECKING:
    from qaic_sched.backends.base import Backend
    from qaic_sched.backends.compiling.compile import Compiler
    from qaic_sched.config.keys import Config

__all__ = [
    "PACKAGE_SCHEME",
    "SIMULATED",
    "backend_for",
    "choose_kind",
    "compiler_for",
    "find_model",
]

logger = logging.getLogger("qaic_sched")

PACKAGE_SCHEME = "pkg://"
SIMULATED = (".sim.yaml", ".sim.yml")


def backend_for(config: Config) -> Backend:
    """Make the backend of `config.model`; cheap, loads nothing.

    `ConfigError` if the model does not exist, or the backend cannot run it.
    """
    path = find_model(config.model)
    kind = choose_kind(config.backend, path)
    if kind == "aic":
        from qaic_sched.backends.aic import AicBackend

        return AicBackend(path, config.options)
    if kind == "sim":
        from qaic_sched.backends.sim import SimBackend

        return SimBackend(path, config.options)
    from qaic_sched.backends.cpu import CpuBackend

    return CpuBackend(path, config.options)


def compiler_for(kind: Literal["cpu", "aic"]) -> Compiler:
    """The compiler for this kind of device."""
    if kind == "aic":
        from qaic_sched.backends.aic.compiler import AIC_COMPILER

        return AIC_COMPILER
    from qaic_sched.backends.cpu.compiler import CPU_COMPILER

    return CPU_COMPILER


def choose_kind(backend: str, path: str) -> str:
    """Resolve the option `backend` to `aic`, `cpu` or `sim` for the model at `path`."""
    is_simulated = path.lower().endswith(SIMULATED)
    if is_simulated and backend == "auto":
        return "sim"
    if is_simulated and backend != "sim":
        raise ConfigError(
            f"backend: {backend} cannot run {path}, which describes simulated cards: use sim"
        )
    if backend == "sim" and not is_simulated:
        raise ConfigError(f"backend: sim needs a model that ends in {SIMULATED[0]}, not {path}")
    compiled_for = kind_of(path)
    if backend == "auto":
        return _choose_automatically(path, compiled_for)
    if compiled_for not in (None, backend):
        raise ConfigError(f"backend: {backend} cannot run {path}, compiled for {compiled_for}")
    return backend


def _choose_automatically(path: str, compiled_for: str | None) -> str:
    """Choose what the model is compiled for, else a card if the host has one, else the CPU."""
    if compiled_for is not None:
        kind, reason = compiled_for, "it is compiled for that"
    elif has_card():
        kind, reason = "aic", "this host has cards"
    else:
        kind, reason = "cpu", "this host has no card, or no SDK for it"
    logger.info("backend: auto means %s for %s: %s", kind, path, reason)
    return kind


def find_model(model: str) -> str:
    """Resolve `model` to the path of its file; `ConfigError` if there is not exactly one.

    `model` is a path, the folder or a glob of a compiled model, or `pkg://package/path/in/it.onnx`.
    """
    if model.startswith(PACKAGE_SCHEME):
        return str(find_in_package(model))
    return find(model)


def find_in_package(model: str) -> Path:
    """Find a file in an installed package, without importing the package."""
    package, _, inside = model.removeprefix(PACKAGE_SCHEME).partition("/")
    if not package.isidentifier() or not inside:
        raise ConfigError(f"model: got {model}; wanted the form pkg://package/path/in/it.onnx")
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ConfigError(
            f"model: {model} needs the package {package}, which is not installed: "
            f"pip install {package}"
        )
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, inside)
        if path.is_file():
            return path
    raise ConfigError(
        f"model: the installed package {package} has no file {inside}; another version may "
        f"have it: pip install --upgrade {package}"
    )
