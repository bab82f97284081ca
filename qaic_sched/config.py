"""Typed configuration from YAML files and keyword options; every error names the key.

Rules of this file:
- What a key means stands beside its field, once: errors and the table of `qaic-sched check` read it
  from there.
- A source (a file, or keyword options) is brought into the shape of `Config` by itself, so that
  an error can name it; then keywords are laid over the file, section by section, key by key.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta, Struct, field

from qaic_sched.errors import ConfigError
from qaic_sched.vendor_options import COMPILER_KEYS
from qaic_sched.yaml_file import read_yaml

__all__ = [
    "SECTIONS",
    "BatchingConfig",
    "Config",
    "HealthConfig",
    "HedgingConfig",
    "ModelOptions",
    "QueueConfig",
    "RetryConfig",
    "ServiceConfig",
    "load_config",
    "make_config",
    "meanings_of",
]

logger = logging.getLogger("qaic_sched")

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
Delay = Annotated[float, Meta(gt=0)]
Factor = Annotated[float, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
DeviceIds = Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1)]


def _is(meaning: str) -> Meta:
    return Meta(description=meaning)


class QueueConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`queue`: the bound of what may be queued, and what happens to a request beyond it."""

    max_samples: Annotated[Positive, _is("most samples that may be queued")] = 65536
    max_bytes: Annotated[Positive | None, _is("most bytes queued; null: no bound")] = None
    when_full: Annotated[
        Literal["wait", "reject"],
        _is("what a request beyond the bound does: wait for room, or reject at once"),
    ] = "wait"


class BatchingConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`batching`: how long a partial batch waits for company while an activation is free."""

    max_queue_delay_s: Annotated[
        Seconds,
        _is("longest a partial batch waits for company while an activation is free, in seconds"),
    ] = 0.0


class RetryConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`retry`: how often work is tried that a device failed."""

    max_attempts: Annotated[Positive, _is("attempts in all, elsewhere where possible")] = 2
    max_extra: Annotated[
        Share, _is("most retries of failed inferences, as a share of all, beyond a first few")
    ] = 0.2


class HedgingConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`hedging`: what a late activation holds is repeated elsewhere, and the first answer wins."""

    enabled: Annotated[bool, _is("whether late inferences are hedged")] = True
    after: Annotated[
        Factor, _is("an inference is late after so many mean service times, 10 ms at least")
    ] = 3.0
    max_extra: Annotated[Share, _is("most hedges, as a share of all inferences")] = 0.01


class HealthConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`health`: when a device is taken for broken."""

    dispatch_timeout_s: Annotated[
        Literal["auto"] | Delay,
        _is("when an inference counts as stuck, in seconds; auto: from measured times"),
    ] = "auto"


class ServiceConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`service`: read by `serve` only."""

    model_name: Annotated[str | None, _is("what the model is called over HTTP and gRPC")] = None
    http_port: Annotated[Port | None, _is("where HTTP listens; null: it does not")] = None
    grpc_port: Annotated[Port | None, _is("where gRPC listens; null: it does not")] = None


class ModelOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What a backend is told about a model: the keys of the vendor's Session that we know."""

    aic_num_cores: Annotated[Positive | None, _is("cores of one activation")] = None
    convert_to_fp16: Annotated[bool, _is("whether all floating point runs as fp16")] = False
    onnx_define_symbol: Annotated[
        dict[str, Positive], _is("values of the model's symbolic dimensions, by name")
    ] = field(default_factory=dict)
    compile: Annotated[bool, _is("compile an ONNX model; false: run it as it is, on the CPU")] = (
        True
    )
    output_dir: Annotated[str | None, _is("folder where the compiler leaves its binaries")] = None
    oversubscription_name: Annotated[
        str | None, _is("group of the vendor's sessions that share cores; accepted, not used")
    ] = None
    compiler: dict[str, Any] = field(default_factory=dict)
    """Keys for the vendor's compiler, as they came, names with `_`."""


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that a Session or a Scheduler is made from."""

    model: Annotated[
        str, Meta(min_length=1), _is("the model: a file, or pkg://package/path/in/it.onnx")
    ]
    backend: Annotated[
        Literal["auto", "aic", "cpu", "sim"],
        _is("what runs the model: aic, cpu, sim, or auto: a card if one is ready, else the CPU"),
    ] = "auto"
    devices: Annotated[
        Literal["all"] | Positive | DeviceIds,
        _is("devices to use: all, how many, or a list of device ids"),
    ] = "all"
    num_activations: Annotated[Positive, _is("activations of the program per device")] = 1
    set_size: Annotated[
        Positive, _is("inferences that an activation may hold, the running one included")
    ] = 2
    enable_metrics: Annotated[bool, _is("latency metrics of a Session")] = False
    enable_profiling: Annotated[bool, _is("profiles of a Session's runs, with metrics")] = False
    event_log: Annotated[str | None, _is("file for what happened, as JSON lines")] = None
    options: ModelOptions = field(default_factory=ModelOptions)
    queue: QueueConfig = field(default_factory=QueueConfig)
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    retry: RetryConfig = field(default_factory=RetryConfig)
    hedging: HedgingConfig = field(default_factory=HedgingConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    service: ServiceConfig = field(default_factory=ServiceConfig)


SECTIONS: dict[str, type[Struct]] = {
    "queue": QueueConfig,
    "batching": BatchingConfig,
    "retry": RetryConfig,
    "hedging": HedgingConfig,
    "health": HealthConfig,
    "service": ServiceConfig,
}
_LATER_SECTIONS = {"tenants"}
_MODEL_KEYS = {name for name in ModelOptions.__struct_fields__ if name != "compiler"}
_TOP_KEYS = set(Config.__struct_fields__) - {"options", *SECTIONS} | _MODEL_KEYS | {"dev_id"}


def make_config(
    model_path: str | Path, *, options_path: str | Path | None = None, **options: object
) -> Config:
    """The configuration of one model: the options file's keys, and the keywords that win over it.

    A `model` in the file does not count here. Raises `ConfigError`, which names file and key.
    """
    if "model" in options:
        raise ConfigError("options: model: the model is already given as model_path")
    layers = [] if options_path is None else [_read_layer(Path(options_path))]
    return _build([*layers, _layer({**options, "model": model_path}, "options")])


def load_config(path: str | Path, **overrides: object) -> Config:
    """The configuration of a file with `model:`, and the keywords that win over it.

    A relative `model` in the file is found beside the file. Raises `ConfigError`.
    """
    layers = [_read_layer(Path(path)), _layer(overrides, "options")]
    if not any("model" in layer for layer in layers):
        raise ConfigError(f"{path}: model: missing ({_MEANINGS['model']})")
    return _build(layers)


def meanings_of(struct: type[Struct], prefix: str = "") -> dict[str, str]:
    """Key as a user writes it -> the meaning that stands beside the field."""
    hints = get_type_hints(struct, include_extras=True)
    return {
        prefix + name: hint.__metadata__[-1].description
        for name, hint in hints.items()
        if hasattr(hint, "__metadata__")
    }


_MEANINGS = {
    **meanings_of(Config),
    **meanings_of(ModelOptions),
    **{
        k: v
        for name, struct in SECTIONS.items()
        for k, v in meanings_of(struct, f"{name}.").items()
    },
}


def _build(layers: Iterable[dict[str, Any]]) -> Config:
    """Lay the sources over each other, the last on top, and check what spans several keys."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merged(merged, layer)
    config = msgspec.convert(merged, Config)
    if config.enable_metrics and config.enable_profiling:
        raise ConfigError("enable_metrics and enable_profiling exclude each other: set one of them")
    if isinstance(config.devices, list) and len(set(config.devices)) < len(config.devices):
        raise ConfigError(f"devices: a device id comes twice in {config.devices}")
    unknown = [key for key in config.options.compiler if key not in COMPILER_KEYS]
    if unknown:
        named = ", ".join(key + _hint(key, _TOP_KEYS, 0.8) for key in unknown)
        logger.warning("options not known here, passed to the compiler as they are: %s", named)
    return config


def _merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(base[key], value)
        for key, value in top.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **top, **both}


def _read_layer(path: Path) -> dict[str, Any]:
    raw = read_yaml(path)
    if raw is not None and not isinstance(raw, Mapping):
        raise ConfigError(f"{path}: keys with values were expected, not a {type(raw).__name__}")
    layer = _layer(raw or {}, str(path))
    if "model" in layer and not layer["model"].startswith("pkg://"):
        layer["model"] = str(path.parent / layer["model"])
    return layer


def _layer(raw: Mapping[Any, object], origin: str) -> dict[str, Any]:
    """One source in the shape of `Config`, each of its values checked."""
    keys = _spelled(raw, origin)
    model_options: dict[str, Any] = {"compiler": {}}
    layer: dict[str, Any] = {"options": model_options}
    for key, value in keys.items():
        if key in SECTIONS:
            layer[key] = _section(key, value, origin)
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


def _section(section: str, value: object, origin: str) -> dict[str, Any]:
    known = SECTIONS[section]
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
    if key in _LATER_SECTIONS:
        raise ConfigError(f"{origin}: {key}: this version does not have that section yet")
    if isinstance(value, (Mapping, Struct)) and key not in COMPILER_KEYS:
        hint = _hint(key, {*SECTIONS, *_TOP_KEYS}, 0.6)
        raise ConfigError(f"{origin}: {key}: unknown section{hint}")


def _hint(key: str, known: Iterable[str], ratio: float) -> str:
    near = difflib.get_close_matches(key, sorted(known), 1, ratio)
    return f" (did you mean {near[0]}?)" if near else ""


def _check_types(layer: dict[str, Any], origin: str) -> None:
    try:
        msgspec.convert({"model": "-", **layer}, Config)
    except msgspec.ValidationError as error:
        # e.g. "Expected `int`, got `str` - at `$.queue.max_samples`"
        problem, _, place = str(error).partition(" - at ")
        key = place.partition("$.")[2].rstrip("`").removeprefix("options.")
        meaning = _MEANINGS[key.partition("[")[0]]
        problem = problem[0].lower() + problem[1:]
        raise ConfigError(f"{origin}: {key}: {problem} ({meaning})") from error
