"""Configurations of the models that one scheduler runs: a single `model`, or `models` by name.

Rules of this file:
- Keys next to `models` apply to all models; a model's own keys override them. Keyword options
  override both when they are given for a file.
- Keys of the host or of the whole scheduler are allowed next to `models` only.
- A single model has the name "", so that callers handle one model and several alike.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from qaic_sched.config.keys import Config
from qaic_sched.config.layers import (
    config_of_file,
    file_layer,
    layer_of,
    make_config,
    merged_config,
    read_keys,
    warn_about_unknown_options,
)
from qaic_sched.errors import ConfigError

__all__ = ["UNNAMED", "load_configs", "make_configs"]

UNNAMED = ""
"""The name of a single model, which has none in the configuration."""

_SHARED_KEYS = ("backend", "devices", "event_log", "service")


def make_configs(
    models: str | Path | Mapping[str, object],
    /,
    *,
    options_path: str | Path | None = None,
    **options: object,
) -> dict[str, Config]:
    """Make the configurations of one model, or of a mapping of models, by name.

    The values of the mapping are paths, mappings of a model's own keys including `model`, or
    configurations from `load_configs`. The options are those of `make_config`; a model's own keys
    override them. Raises `ConfigError`, which names the key.
    """
    if not isinstance(models, Mapping):
        return {UNNAMED: make_config(models, options_path=options_path, **options)}
    ready = {str(name): each for name, each in models.items() if isinstance(each, Config)}
    if ready and len(ready) == len(models) and not options:
        return ready
    if "model" in options:
        raise ConfigError("options: model: the models are already given by name: remove it")
    below = [layer_of(options, "options")]
    if options_path is not None:
        below.insert(0, layer_of(read_keys(Path(options_path)), str(options_path)))
    return _Source().configs(models, below, {})


def load_configs(path: str | Path, **overrides: object) -> dict[str, Config]:
    """Load the configurations of a file with `model` or `models`, by name; keywords override it.

    A relative `model` is relative to the file's folder. The file is read once. Raises
    `ConfigError`, which names the file and the key.
    """
    path = Path(path)
    keys = dict(read_keys(path))
    if "models" not in keys:
        return {UNNAMED: config_of_file(path, keys, overrides)}
    models = keys.pop("models")
    if "model" in keys:
        raise ConfigError(f"{path}: model and models are both given: remove one of them")
    if "model" in overrides:
        raise ConfigError(f"options: model: {path} has several models: remove the option")
    if not isinstance(models, Mapping):
        raise ConfigError(f"{path}: models: expected a mapping of names to models, got {models!r}")
    source = _Source(f"{path}: ", path.parent)
    return source.configs(models, [layer_of(keys, str(path))], layer_of(overrides, "options"))


@dataclass(frozen=True)
class _Source:
    """The source of a mapping of models: the prefix of errors, and the folder of relative paths."""

    prefix: str = ""
    folder: Path = field(default_factory=Path)

    def configs(
        self, models: Mapping[Any, object], below: list[dict[str, Any]], above: dict[str, Any]
    ) -> dict[str, Config]:
        """Make each model's configuration from its own keys, between the layers of all models."""
        if not models:
            raise ConfigError(f"{self.prefix}models: empty: name at least one model")
        configs = {}
        for name, value in models.items():
            config = merged_config([*below, self._own(name, value), above])
            configs[name] = _with_own_log(config, name)
        warn_about_unknown_options(configs.values())
        return configs

    def _own(self, name: object, value: object) -> dict[str, Any]:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"{self.prefix}models: a model's name must be text, got {name!r}")
        where = f"{self.prefix}models.{name}"
        keys = {"model": value} if isinstance(value, (str, os.PathLike)) else value
        if not isinstance(keys, Mapping):
            raise ConfigError(f"{where}: expected a model or its keys, got {value!r}")
        try:
            layer = file_layer(keys, where, self.folder)
        except ConfigError as error:
            problem = str(error).removeprefix(f"{where}: ")
            raise ConfigError(f"{where}.{problem}") from error
        if "model" not in layer:
            raise ConfigError(f"{where}.model: missing (model file, or pkg://package/path)")
        for key in _SHARED_KEYS:
            if key in layer:
                raise ConfigError(f"{where}.{key}: applies to all models: move it next to `models`")
        return layer


def _with_own_log(config: Config, name: str) -> Config:
    """Put the model's name into the path of its event log: each core needs a log of its own."""
    path = Path(config.event_log or "")
    if not path.name:
        return config
    own = path.with_name(f"{path.stem}.{quote(name, safe='')}{path.suffix}")
    return msgspec.structs.replace(config, event_log=str(own))
