"""Every key of a configuration: its type, its default and its meaning, once.

Errors and the table of `qaic-sched check` read the meaning from beside the field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_type_hints

from msgspec import Meta, Struct, field

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
    "TenantConfig",
    "meanings_of",
]

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
Delay = Annotated[float, Meta(gt=0)]
Factor = Annotated[float, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Weight = Annotated[float, Meta(gt=0)]
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


class TenantConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`tenants.NAME`: what one tenant gets of the devices while others want them, too."""

    weight: Annotated[Weight, _is("its part of what is contended, relative to the others'")] = 1.0
    share: Annotated[Share, _is("part of all that is its own, if it wants it")] = 0.0


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
    tenants: dict[str, TenantConfig] = field(default_factory=dict)


SECTIONS: dict[str, type[Struct]] = {
    "queue": QueueConfig,
    "batching": BatchingConfig,
    "retry": RetryConfig,
    "hedging": HedgingConfig,
    "health": HealthConfig,
    "service": ServiceConfig,
}


def meanings_of(struct: type[Struct], prefix: str = "") -> dict[str, str]:
    """Key as a user writes it -> the meaning that stands beside the field."""
    hints = get_type_hints(struct, include_extras=True)
    return {
        prefix + name: hint.__metadata__[-1].description
        for name, hint in hints.items()
        if hasattr(hint, "__metadata__")
    }
