"""The configurations of several models that one scheduler runs: `models:`, by name.

Rules of this file:
- The keys beside `models` are of all models; a model's own mapping lays its keys over them, and
  keywords over a file win over both.
- What belongs to the host or to the scheduler as a whole stands beside `models` only.
- A model without a name has the name "": so one model and several are the same to who opens them.
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
    layer_beside,
    layer_of,
    load_config,
    make_config,
    merged_config,
    read_keys,
    warn_of_unknown,
)
from qaic_sched.errors import ConfigError

__all__ = ["UNNAMED", "load_configs", "make_configs"]

UNNAMED = ""
"""The name of a model that has none, which is then the only one."""

_OF_ALL = ("backend", "devices", "event_log", "service")


def make_configs(
    models: str | Path | Mapping[str, object],
    /,
    *,
    options_path: str | Path | None = None,
    **options: object,
) -> dict[str, Config]:
    """Name -> configuration, of one model or of a mapping of them; `ConfigError` names the key.

    In the mapping is a path or a mapping of the model's own keys, `model` among them, or what
    `load_configs` has made. The options are as for `make_config`, and those of a model that says
    nothing else.
    """
    if not isinstance(models, Mapping):
        return {UNNAMED: make_config(models, options_path=options_path, **options)}
    ready = {str(name): each for name, each in models.items() if isinstance(each, Config)}
    if ready and len(ready) == len(models) and not options:
        return ready
    if "model" in options:
        raise ConfigError("options: model: the models are already given by name")
    below = [] if options_path is None else [_of_file(read_keys(Path(options_path)), options_path)]
    return _Source().configs(models, [*below, layer_of(options, "options")], {})


def load_configs(path: str | Path, **overrides: object) -> dict[str, Config]:
    """Name -> configuration, of a file with `model:` or `models:`, and keywords that win over it.

    A relative `model` is found beside the file. Raises `ConfigError`, which names file and key.
    """
    keys = dict(read_keys(Path(path)))
    if "models" not in keys:
        return {UNNAMED: load_config(path, **overrides)}
    models = keys.pop("models")
    if "model" in keys:
        raise ConfigError(f"{path}: model and models are both given: give one of them")
    if "model" in overrides:
        raise ConfigError(f"options: model: {path} has several, by name")
    if not isinstance(models, Mapping):
        raise ConfigError(f"{path}: models: names with models were expected, not {models!r}")
    source = _Source(f"{path}: ", Path(path).parent)
    return source.configs(models, [_of_file(keys, path)], layer_of(overrides, "options"))


def _of_file(keys: Mapping[Any, object], path: str | Path) -> dict[str, Any]:
    return layer_of(keys, str(path))


@dataclass(frozen=True)
class _Source:
    """Where a mapping of models stands: what errors begin with, and where models are found."""

    prefix: str = ""
    folder: Path = field(default_factory=Path)

    def configs(
        self, models: Mapping[Any, object], below: list[dict[str, Any]], above: dict[str, Any]
    ) -> dict[str, Config]:
        """The models' configurations, with what is of all of them below and above their own."""
        if not models:
            raise ConfigError(f"{self.prefix}models: one model at least is needed")
        configs = {}
        for name, value in models.items():
            config = merged_config([*below, self._own(name, value), above])
            configs[name] = _with_own_log(config, name)
        warn_of_unknown(configs.values())
        return configs

    def _own(self, name: object, value: object) -> dict[str, Any]:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"{self.prefix}models: a model's name is text, not {name!r}")
        where = f"{self.prefix}models.{name}"
        keys = {"model": value} if isinstance(value, (str, os.PathLike)) else value
        if not isinstance(keys, Mapping):
            raise ConfigError(f"{where}: a model, or its keys were expected, not {value!r}")
        try:
            layer = layer_beside(keys, where, self.folder)
        except ConfigError as error:
            problem = str(error).removeprefix(f"{where}: ")
            raise ConfigError(f"{where}.{problem}") from error
        if "model" not in layer:
            raise ConfigError(f"{where}.model: missing: the file, or pkg:// path, of the model")
        for key in _OF_ALL:
            if key in layer:
                raise ConfigError(f"{where}.{key}: it is of all models: it stands beside `models`")
        return layer


def _with_own_log(config: Config, name: str) -> Config:
    """The same, with the model's name in that of its event log: a log is of one core."""
    path = Path(config.event_log or "")
    if not path.name:
        return config
    own = path.with_name(f"{path.stem}.{quote(name, safe='')}{path.suffix}")
    return msgspec.structs.replace(config, event_log=str(own))
