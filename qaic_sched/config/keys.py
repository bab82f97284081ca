"""The keys of a configuration: type, default and meaning of each, in one place.

Error messages and the table of `qaic-sched check` show the meaning given with each field.
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


def _means(meaning: str) -> Meta:
    return Meta(description=meaning)


class QueueConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`queue`: the limits of the queue, and what happens to a request that exceeds them."""

    max_samples: Annotated[Positive, _means("maximum number of queued samples")] = 65536
    max_bytes: Annotated[
        Positive | None, _means("maximum size of all queued inputs, in bytes; null: no limit")
    ] = None
    when_full: Annotated[
        Literal["wait", "reject"],
        _means("what a request does when the queue is full: wait for room, or reject at once"),
    ] = "wait"


class BatchingConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`batching`: what may share an inference, and how long a partial batch waits for more."""

    rows: Annotated[
        Literal["auto", "shared", "own"],
        _means(
            "shared: an inference may hold rows of several requests; own: of one request only;"
            " auto: a trial decides"
        ),
    ] = "auto"

    max_queue_delay_s: Annotated[
        Seconds,
        _means("longest wait of a partial batch while an activation is free, in seconds; 0: none"),
    ] = 0.0


class RetryConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`retry`: how often samples are retried after a device error."""

    max_attempts: Annotated[
        Positive, _means("attempts before a request fails, the first included; 1: no retries")
    ] = 2
    max_extra: Annotated[
        Share, _means("limit of retries after failed inferences, as a fraction of all inferences")
    ] = 0.2


class HedgingConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`hedging`: late inferences are sent a second time, and the first answer wins."""

    enabled: Annotated[bool, _means("send late inferences a second time")] = True
    after: Annotated[
        Factor,
        _means("when an inference is late, in mean execution times; 10 ms at the earliest"),
    ] = 3.0
    max_extra: Annotated[Share, _means("limit of hedges, as a fraction of all inferences")] = 0.01


class HealthConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`health`: when a device counts as broken."""

    dispatch_timeout_s: Annotated[
        Literal["auto"] | Delay,
        _means(
            "when an inference counts as stuck, in seconds; auto: 50 mean execution times, at"
            " least 5 s"
        ),
    ] = "auto"


class TenantConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`tenants.NAME`: the capacity that one tenant receives while tenants compete."""

    weight: Annotated[
        Weight, _means("portion of the contended capacity, relative to the other tenants' weights")
    ] = 1.0
    share: Annotated[
        Share, _means("guaranteed fraction of the capacity, whatever the priority of others")
    ] = 0.0


class ServiceConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """`service`: reserved for a network service, which does not exist yet; nothing reads it."""

    model_name: Annotated[str | None, _means("name of the model over HTTP and gRPC")] = None
    http_port: Annotated[Port | None, _means("port of the HTTP server; null: off")] = None
    grpc_port: Annotated[Port | None, _means("port of the gRPC server; null: off")] = None


class ModelOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """The options of a model that its backend reads: keys of the vendor's Session."""

    aic_num_cores: Annotated[Positive | None, _means("cores per activation")] = None
    convert_to_fp16: Annotated[bool, _means("run all floating-point operations in fp16")] = False
    onnx_define_symbol: Annotated[
        dict[str, Positive], _means("values of the model's symbolic dimensions, by name")
    ] = field(default_factory=dict)
    compile: Annotated[
        bool, _means("compile an ONNX model; false: run it uncompiled, on the CPU only")
    ] = True
    output_dir: Annotated[
        str | None, _means("folder for compiled programs; null: the user's cache")
    ] = None
    oversubscription_name: Annotated[
        str | None, _means("group of sessions that share cores; accepted and ignored")
    ] = None
    compiler: dict[str, Any] = field(default_factory=dict)
    """Keys for the vendor's compiler, passed on unchanged; names use `_`."""


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The complete configuration of a Session, or of one model of a Scheduler."""

    model: Annotated[
        str, Meta(min_length=1), _means("model file, or pkg://package/path/to/model.onnx")
    ]
    backend: Annotated[
        Literal["auto", "aic", "cpu", "sim"],
        _means(
            "aic (cards), cpu, sim (simulated cards), or auto (a card if present, else the CPU)"
        ),
    ] = "auto"
    devices: Annotated[
        Literal["all"] | Positive | DeviceIds,
        _means("devices to use: all, a count, or a list of device ids"),
    ] = "all"
    num_activations: Annotated[Positive, _means("activations of the program per device")] = 1
    set_size: Annotated[
        Positive, _means("inferences that an activation may hold, including the running one")
    ] = 2
    enable_metrics: Annotated[
        bool, _means("accepted: a Session always records latencies; excludes enable_profiling")
    ] = False
    enable_profiling: Annotated[
        bool, _means("record a profile of every run of a Session; excludes enable_metrics")
    ] = False
    event_log: Annotated[
        str | None, _means("file for every event and decision, as JSON lines; null: none")
    ] = None
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
"""The sections with fixed keys, by name."""


def meanings_of(struct: type[Struct], prefix: str = "") -> dict[str, str]:
    """Key, with `prefix` before it -> its meaning, for every documented field of a struct."""
    hints = get_type_hints(struct, include_extras=True)
    return {
        prefix + name: hint.__metadata__[-1].description
        for name, hint in hints.items()
        if hasattr(hint, "__metadata__")
    }
