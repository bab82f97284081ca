"""Typed configuration from YAML files and keyword options; every error names the key.

Rules of this file:
- Which keys there are, and what each means, is `config_keys`.
- A source (a file, or keyword options) is brought into the shape of `Config` by itself, so that
  an error can name it; then keywords are laid over the file, section by section, key by key.
"""

from __future__ import annotations

import difflib
import logging
import os
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
    "layer_beside",
    "layer_of",
    "live_options",
    "load_config",
    "make_config",
    "merged_config",
    "read_keys",
    "warn_of_unknown",
]

logger = logging.getLogger("qaic_sched")

LIVE_KEYS = (
    *("num_activations", "set_size", "devices"),
    *("queue", "batching", "retry", "hedging", "health", "tenants"),
)
"""What may change while a scheduler runs."""
_MODEL_KEYS = {name for name in ModelOptions.__struct_fields__ if name != "compiler"}
_TOP_KEYS = (
    set(Config.__struct_fields__) - {"options", "tenants", *SECTIONS} | _MODEL_KEYS | {"dev_id"}
)


def make_config(
    model_path: str | Path, *, options_path: str | Path | None = None, **options: object
) -> Config:
    """The configuration of one model: the options file's keys, and the keywords that win over it.

    A `model` in the file does not count here. Raises `ConfigError`, which names file and key.
    """
    if "model" in options:
        raise ConfigError("options: model: the model is already given as model_path")
    layers = [] if options_path is None else [_read_layer(Path(options_path))]
    return _build([*layers, layer_of({**options, "model": model_path}, "options")])


def load_config(path: str | Path, **overrides: object) -> Config:
    """The configuration of a file with `model:`, and the keywords that win over it.

    A relative `model` in the file is found beside the file. Raises `ConfigError`.
    """
    layers = [_read_layer(Path(path)), layer_of(overrides, "options")]
    if not any("model" in layer for layer in layers):
        raise ConfigError(f"{path}: model: missing ({_MEANINGS['model']})")
    return _build(layers)


def changed_config(config: Config, options: Mapping[str, object]) -> Config:
    """The configuration of a running scheduler with some options changed, key by key in sections.

    `tenants` is changed as a whole: who is not named any more is as all others again.
    `ConfigError` names a key that is wrong, or that cannot change while it runs.
    """
    for key in _spelled(options, "options"):
        if key not in (*LIVE_KEYS, "dev_id"):
            hint = _hint(key, LIVE_KEYS, 0.6)
            may = ", ".join(LIVE_KEYS)
            raise ConfigError(f"{key}: cannot be changed while it runs{hint}; what can: {may}")
    layer = layer_of(options, "options")
    given = {key: layer[key] for key in LIVE_KEYS if key in layer}
    for key in given.keys() & SECTIONS.keys():
        given[key] = {**msgspec.structs.asdict(getattr(config, key)), **given[key]}
    new = msgspec.convert({"model": config.model, **given}, Config)
    _check_devices(new)
    _check_shares(new)
    return msgspec.structs.replace(config, **{key: getattr(new, key) for key in given})


def live_options(config: Config) -> dict[str, Any]:
    """All that a configuration says of what may change while a scheduler runs."""
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
    warn_of_unknown([config])
    return config


def merged_config(layers: Iterable[dict[str, Any]]) -> Config:
    """Lay the sources over each other, the last on top, and check what spans several keys."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merged(merged, layer)
    config = msgspec.convert(merged, Config)
    if config.enable_metrics and config.enable_profiling:
        raise ConfigError("enable_metrics and enable_profiling exclude each other: set one of them")
    _check_devices(config)
    _check_shares(config)
    return config


def _check_shares(config: Config) -> None:
    shares = sum(tenant.share for tenant in config.tenants.values())
    if shares > 1:
        raise ConfigError(f"tenants: the shares add up to {shares:g}: 1 is all there is to give")


def warn_of_unknown(configs: Iterable[Config]) -> None:
    """Name the keys that only the compiler may know, each once."""
    keys = dict.fromkeys(key for config in configs for key in config.options.compiler)
    unknown = [key for key in keys if key not in COMPILER_KEYS]
    if unknown:
        named = ", ".join(key + _hint(key, _TOP_KEYS, 0.8) for key in unknown)
        logger.warning("options not known here, passed to the compiler as they are: %s", named)


def _check_devices(config: Config) -> None:
    if isinstance(config.devices, list) and len(set(config.devices)) < len(config.devices):
        raise ConfigError(f"devices: a device id comes twice in {config.devices}")


def _merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(base[key], value)
        for key, value in top.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **top, **both}


def _read_layer(path: Path) -> dict[str, Any]:
    return layer_beside(read_keys(path), str(path), path.parent)


def read_keys(path: Path) -> Mapping[Any, object]:
    """The keys of a file as they stand there; `ConfigError` if it has none but something else."""
    raw = read_yaml(path)
    if raw is not None and not isinstance(raw, Mapping):
        raise ConfigError(f"{path}: keys with values were expected, not a {type(raw).__name__}")
    return raw or {}


def layer_beside(raw: Mapping[Any, object], origin: str, folder: Path) -> dict[str, Any]:
    """The same as `layer_of`, with a relative `model` found in the folder."""
    layer = layer_of(raw, origin)
    if "model" in layer and not layer["model"].startswith("pkg://"):
        layer["model"] = str(folder / layer["model"])
    return layer


def layer_of(raw: Mapping[Any, object], origin: str) -> dict[str, Any]:
    """One source in the shape of `Config`, each of its values checked."""
    keys = _spelled(raw, origin)
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
            _refuse_unknown_section(key, value, origin)
            model_options["compiler"][key] = value
    if layer.get("backend") == "qaic":  # the vendor's own name of it
        layer["backend"] = "aic"
    _check_types(layer, origin)
    return layer


def _spelled(raw: Mapping[Any, object], origin: str) -> dict[str, Any]:
    """The same keys in our spelling: `_` for `-`, and without the vendor's misspelling."""
    keys: dict[str, Any] = {}
    for key, value in raw.items():
        if not isinstance(key, str):
            raise ConfigError(f"{origin}: {key!r}: a key is text")
        name = key.replace("-", "_")
        name = "num_activations" if name == "num_activation" else name
        if name in keys:
            raise ConfigError(f"{origin}: {name}: given twice, in two spellings")
        keys[name] = value
    return keys


def _tenants(value: object, origin: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{origin}: tenants: names with weights were expected, not {value!r}")
    names = value or {}
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{origin}: tenants: {name!r}: a tenant's name is text")
    tenants = {}
    for name, each in names.items():
        tenants[name] = keys = _section(f"tenants.{name}", each, TenantConfig, origin)
        _check(keys, TenantConfig, f"tenants.{name}.", origin)
    return tenants


def _section(section: str, value: object, known: type[Struct], origin: str) -> dict[str, Any]:
    if isinstance(value, known):
        return msgspec.structs.asdict(value)
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{origin}: {section}: a section of keys was expected, not {value!r}")
    keys = _spelled(value or {}, f"{origin}: {section}")
    for key in keys:
        if key not in known.__struct_fields__:
            hint = _hint(key, known.__struct_fields__, 0.6)
            raise ConfigError(f"{origin}: {section}.{key}: unknown key{hint}")
    return keys


def _one_device(value: object, has_devices: bool, origin: str) -> list[object]:
    if has_devices:
        raise ConfigError(f"{origin}: dev_id and devices are both given: give one of them")
    one = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(one) != 1 or type(one[0]) is not int or one[0] < 0:
        raise ConfigError(f"{origin}: dev_id: one device id was expected, not {value!r}")
    return one


def _symbols(value: object, origin: str) -> object:
    """A mapping of ONNX symbols, from one or from the vendor's list of (name, value) pairs."""
    if isinstance(value, Mapping):
        return dict(value)
    pairs: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    for pair in pairs:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str)):
            wanted = "a mapping or a list of (name, value) pairs was expected"
            raise ConfigError(f"{origin}: onnx_define_symbol: {wanted}, not {value!r}")
    return dict(pairs)


def _refuse_unknown_section(key: str, value: object, origin: str) -> None:
    if key == "models":
        place = "a Scheduler's first argument, or a key of its configuration file"
        raise ConfigError(f"{origin}: models: one model is run here; several are {place}")
    if isinstance(value, (Mapping, Struct)) and key not in COMPILER_KEYS:
        hint = _hint(key, {*SECTIONS, *_TOP_KEYS, "models", "tenants"}, 0.6)
        raise ConfigError(f"{origin}: {key}: unknown section{hint}")


def _hint(key: str, known: Iterable[str], ratio: float) -> str:
    near = difflib.get_close_matches(key, sorted(known), 1, ratio)
    return f" (did you mean {near[0]}?)" if near else ""


def _check_types(layer: dict[str, Any], origin: str) -> None:
    _check({"model": "-", **layer}, Config, "", origin)


def _check(values: dict[str, Any], kind: type[Struct], prefix: str, origin: str) -> None:
    """Check the types of a mapping's values; its keys stand behind `prefix` in the source."""
    try:
        msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        # e.g. "Expected `int`, got `str` - at `$.queue.max_samples`"
        problem, _, place = str(error).partition(" - at ")
        key = place.partition("$.")[2].rstrip("`").removeprefix("options.")
        name = key.partition("[")[0]
        meaning = _MEANINGS[f"tenants.NAME.{name}" if prefix else name]
        problem = problem[0].lower() + problem[1:]
        raise ConfigError(f"{origin}: {prefix}{key}: {problem} ({meaning})") from error
