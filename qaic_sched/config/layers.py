"""Layers of configuration: files and keyword options, checked one by one and merged.

Rules of this file:
- The keys and their meanings are defined in `keys.py`.
- Each source (a file, or keyword options) becomes a layer in the shape of `Config` before the
  layers are merged, so that an error can name its source. Keywords override the file, section by
  section and key by key.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from qaic_sched.config.keys import SECTIONS, Config, ModelOptions, TenantConfig, meanings_of
from qaic_sched.config.vendor_options import COMPILER_KEYS
from qaic_sched.config.yaml_file import read_yaml
from qaic_sched.errors import ConfigError

__all__ = [
    "LIVE_KEYS",
    "changed_config",
    "config_of_file",
    "file_layer",
    "layer_of",
    "live_options",
    "make_config",
    "merged_config",
    "read_keys",
    "warn_about_unknown_options",
]

logger = logging.getLogger("qaic_sched")

LIVE_KEYS = (
    *("num_activations", "set_size", "devices"),
    *("queue", "batching", "retry", "hedging", "health", "tenants"),
)
"""The keys that can change while a scheduler runs."""
_MODEL_KEYS = {name for name in ModelOptions.__struct_fields__ if name != "compiler"}
_TOP_KEYS = (
    set(Config.__struct_fields__) - {"options", "tenants", *SECTIONS} | _MODEL_KEYS | {"dev_id"}
)


def make_config(
    model_path: str | Path, *, options_path: str | Path | None = None, **options: object
) -> Config:
    """Make the configuration of one model from an options file and keywords that override it.

    A `model` key in the file is ignored. Raises `ConfigError`, which names the file and the key.
    """
    if "model" in options:
        raise ConfigError("options: model: already given as model_path: remove one of them")
    layers = [] if options_path is None else [_file_layer_at(Path(options_path))]
    return _build([*layers, layer_of({**options, "model": model_path}, "options")])


def config_of_file(
    path: Path, keys: Mapping[Any, object], overrides: Mapping[str, object]
) -> Config:
    """Make the configuration of a file from the keys that `read_keys` found in it.

    A relative `model` in the file is relative to the file's folder. `overrides` override the file.
    Raises `ConfigError`.
    """
    layers = [file_layer(keys, str(path), path.parent), layer_of(overrides, "options")]
    if not any("model" in layer for layer in layers):
        raise ConfigError(f"{path}: model: missing ({_MEANINGS['model']})")
    return _build(layers)


def changed_config(config: Config, options: Mapping[str, object]) -> Config:
    """Change some options of a running scheduler's configuration; sections change key by key.

    `tenants` is replaced as a whole: a tenant missing from it returns to the defaults. Raises
    `ConfigError` on a key that is wrong or cannot change while the scheduler runs.
    """
    for key in _normalized(options, "options"):
        if key not in (*LIVE_KEYS, "dev_id"):
            hint = _hint(key, LIVE_KEYS, 0.6)
            live = ", ".join(LIVE_KEYS)
            raise ConfigError(
                f"{key}: cannot be changed while the scheduler runs{hint}; live keys: {live}"
            )
    layer = layer_of(options, "options")
    given = {key: layer[key] for key in LIVE_KEYS if key in layer}
    for key in given.keys() & SECTIONS.keys():
        given[key] = {**msgspec.structs.asdict(getattr(config, key)), **given[key]}
    new = msgspec.convert({"model": config.model, **given}, Config)
    if "batching" in given and new.batching.rows != config.batching.rows:
        raise ConfigError("batching.rows: cannot be changed while the scheduler runs")
    _check_devices(new)
    _check_shares(new)
    return msgspec.structs.replace(config, **{key: getattr(new, key) for key in given})


def live_options(config: Config) -> dict[str, Any]:
    """Return the options of a configuration that can change while a scheduler runs."""
    return {key: getattr(config, key) for key in LIVE_KEYS}


_MEANINGS = {
    **meanings_of(Config),
    **meanings_of(ModelOptions),
    **{
        k: v
        for name, struct in SECTIONS.items()
        for k, v in meanings_of(struct, f"{name}.").items()
    },
    **meanings_of(TenantConfig, "tenants.NAME."),
}


def _build(layers: Iterable[dict[str, Any]]) -> Config:
    config = merged_config(layers)
    warn_about_unknown_options([config])
    return config


def merged_config(layers: Iterable[dict[str, Any]]) -> Config:
    """Merge layers, later ones on top, and check what involves several keys."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merged(merged, layer)
    config = msgspec.convert(merged, Config)
    if config.enable_metrics and config.enable_profiling:
        raise ConfigError("enable_metrics and enable_profiling exclude each other: set only one")
    _check_devices(config)
    _check_shares(config)
    return config


def _check_shares(config: Config) -> None:
    shares = sum(tenant.share for tenant in config.tenants.values())
    if shares > 1:
        raise ConfigError(f"tenants: the shares add up to {shares:g}: lower them to at most 1")


def warn_about_unknown_options(configs: Iterable[Config]) -> None:
    """Log one warning that names each compiler option missing from the vendor's documents."""
    keys = dict.fromkeys(key for config in configs for key in config.options.compiler)
    unknown = [key for key in keys if key not in COMPILER_KEYS]
    if unknown:
        named = ", ".join(key + _hint(key, _TOP_KEYS, 0.8) for key in unknown)
        logger.warning("unknown options, passed to the compiler unchanged: %s", named)


def _check_devices(config: Config) -> None:
    if isinstance(config.devices, list) and len(set(config.devices)) < len(config.devices):
        raise ConfigError(f"devices: duplicate device ids in {config.devices}")


def _merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(base[key], value)
        for key, value in top.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **top, **both}


def _file_layer_at(path: Path) -> dict[str, Any]:
    return file_layer(read_keys(path), str(path), path.parent)


def read_keys(path: Path) -> Mapping[Any, object]:
    """Read the top-level keys of a YAML file. Raises `ConfigError` if it is not a mapping."""
    raw = read_yaml(path)
    if raw is not None and not isinstance(raw, Mapping):
        raise ConfigError(f"{path}: expected a mapping of keys to values, got {raw!r}")
    return raw or {}


def file_layer(raw: Mapping[Any, object], origin: str, folder: Path) -> dict[str, Any]:
    """Make a layer as `layer_of` does, and resolve a relative `model` against a folder."""
    layer = layer_of(raw, origin)
    if "model" in layer and not layer["model"].startswith("pkg://"):
        layer["model"] = str(folder / layer["model"])
    return layer


def layer_of(raw: Mapping[Any, object], origin: str) -> dict[str, Any]:
    """Bring one source into the shape of `Config` and check its values.

    `origin` names the source in errors. Raises `ConfigError`.
    """
    keys = _normalized(raw, origin)
    model_options: dict[str, Any] = {"compiler": {}}
    layer: dict[str, Any] = {"options": model_options}
    for key, value in keys.items():
        if key in SECTIONS:
            layer[key] = _section(key, value, SECTIONS[key], origin)
        elif key == "tenants":
            layer[key] = _tenants(value, origin)
        elif key == "dev_id":
            layer["devices"] = _one_device(value, "devices" in keys, origin)
        elif key == "onnx_define_symbol":
            model_options[key] = _symbols(value, origin)
        elif key in _TOP_KEYS:
            holder = model_options if key in _MODEL_KEYS else layer
            holder[key] = os.fspath(value) if isinstance(value, os.PathLike) else value
        else:
            _reject_unknown_section(key, value, origin)
            model_options["compiler"][key] = value
    if layer.get("backend") == "qaic":  # the vendor's name for it
        layer["backend"] = "aic"
    _check_types(layer, origin)
    return layer


def _normalized(raw: Mapping[Any, object], origin: str) -> dict[str, Any]:
    """Normalize the spelling of keys: `_` for `-`, and the vendor's `num_activation`."""
    keys: dict[str, Any] = {}
    for key, value in raw.items():
        if not isinstance(key, str):
            raise ConfigError(f"{origin}: {key!r}: a key must be text: put it in quotes")
        name = key.replace("-", "_")
        name = "num_activations" if name == "num_activation" else name
        if name in keys:
            raise ConfigError(f"{origin}: {name}: given twice, in two spellings: remove one")
        keys[name] = value
    return keys


def _tenants(value: object, origin: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{origin}: tenants: expected a section per tenant name, got {value!r}")
    names = value or {}
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{origin}: tenants: {name!r}: a tenant's name must be text")
    tenants = {}
    for name, each in names.items():
        tenants[name] = keys = _section(f"tenants.{name}", each, TenantConfig, origin)
        _check(keys, TenantConfig, f"tenants.{name}.", origin)
    return tenants


def _section(section: str, value: object, known: type[Struct], origin: str) -> dict[str, Any]:
    if isinstance(value, known):
        return msgspec.structs.asdict(value)
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{origin}: {section}: expected a section of keys, got {value!r}")
    keys = _normalized(value or {}, f"{origin}: {section}")
    for key in keys:
        if key not in known.__struct_fields__:
            hint = _hint(key, known.__struct_fields__, 0.6)
            all_keys = ", ".join(known.__struct_fields__)
            raise ConfigError(f"{origin}: {section}.{key}: unknown key{hint}; keys: {all_keys}")
    return keys


def _one_device(value: object, has_devices: bool, origin: str) -> list[object]:
    if has_devices:
        raise ConfigError(f"{origin}: dev_id and devices are both given: remove one of them")
    one = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(one) != 1 or type(one[0]) is not int or one[0] < 0:
        raise ConfigError(f"{origin}: dev_id: expected one device id, got {value!r}")
    return one


def _symbols(value: object, origin: str) -> object:
    """Return ONNX symbols as a mapping; the vendor also takes a list of (name, value) pairs."""
    if isinstance(value, Mapping):
        return dict(value)
    pairs: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    for pair in pairs:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str)):
            expected = "expected a mapping or a list of (name, value) pairs"
            raise ConfigError(f"{origin}: onnx_define_symbol: {expected}, got {value!r}")
    return dict(pairs)


def _reject_unknown_section(key: str, value: object, origin: str) -> None:
    if key == "models":
        raise ConfigError(
            f"{origin}: models: only one model is possible here: give several as the first "
            "argument of Scheduler, or at the top of its configuration file"
        )
    if isinstance(value, (Mapping, Struct)) and key not in COMPILER_KEYS:
        hint = _hint(key, {*SECTIONS, *_TOP_KEYS, "models", "tenants"}, 0.6)
        sections = ", ".join([*SECTIONS, "tenants"])
        raise ConfigError(f"{origin}: {key}: unknown section{hint}; sections: {sections}")


def _hint(key: str, known: Iterable[str], ratio: float) -> str:
    near = difflib.get_close_matches(key, sorted(known), 1, ratio)
    return f" (did you mean {near[0]}?)" if near else ""


def _check_types(layer: dict[str, Any], origin: str) -> None:
    _check({"model": "-", **layer}, Config, "", origin)


def _check(values: dict[str, Any], kind: type[Struct], prefix: str, origin: str) -> None:
    """Check a mapping of values against a struct; `prefix` precedes its keys in errors."""
    try:
        msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        # e.g. "Expected `int`, got `str` - at `$.queue.max_samples`"
        problem, _, place = str(error).partition(" - at ")
        place = place.partition("$.")[2].rstrip("`")
        if problem.startswith("Expected ") and ", got " not in problem:  # a value out of bounds
            problem += f", got {_value_at(values, place)!r}"
        key = place.removeprefix("options.")
        name = key.partition("[")[0]
        meaning = _MEANINGS[f"tenants.NAME.{name}" if prefix else name]
        problem = problem[0].lower() + problem[1:]
        raise ConfigError(f"{origin}: {prefix}{key}: {problem} ({meaning})") from error


def _value_at(values: Any, place: str) -> object:
    """Follow a path like `queue.max_samples` or `devices[1]`; `[...]` stands for any key."""
    for step in re.findall(r"\w+", place):
        values = values[int(step)] if isinstance(values, (list, tuple)) else values[step]
    return values
