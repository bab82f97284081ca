"""Several models on the same devices: what one scheduler does for all of them together.

Rules of this file:
- Each model has a core, a shell and activations of its own. They share devices and cores, but no
  queue: what overloads one model delays no other, and each finds out by itself that a device is
  lost.
- All models run on all devices. They are held against the cores there before any is loaded.
- One model, with or without a name, is several of which there is one.
"""

from __future__ import annotations

import asyncio
from dataclasses import fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import anyio

from qaic_sched.backends.base import CoreDemand
from qaic_sched.backends.choose import backend_for
from qaic_sched.config.models import UNNAMED
from qaic_sched.core.health import DeviceState
from qaic_sched.core.model import DeviceStatistics, Statistics
from qaic_sched.errors import ConfigError, InputError
from qaic_sched.metrics.records import SchedulerMetrics

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from qaic_sched.backends.base import Backend
    from qaic_sched.config.keys import Config
    from qaic_sched.scheduler.shell import Shell

__all__ = [
    "backends_for",
    "check_kinds",
    "close_all",
    "demand_of",
    "merged_metrics",
    "merged_statistics",
    "metrics_of",
    "name_of",
    "publish_demand",
    "share_devices",
]

_BY_SEVERITY = [state.value for state in DeviceState]


def name_of(names: Collection[str], model: str | None) -> str:
    """The name of the model that a caller means; None is the only one. `InputError` if unclear."""
    known = ", ".join(names)
    if model is None:
        if len(names) > 1:
            raise InputError(f"model: missing, and this scheduler runs several: {known}")
        return next(iter(names))
    if isinstance(model, str) and model in names:
        return model
    if known == UNNAMED:
        raise InputError(f"model: {model!r} asked for, but the only model here has no name")
    near = get_close_matches(str(model), names, 1, 0.0)[0]
    raise InputError(f"model: there is no {model!r} (did you mean {near}?), only {known}")


def backends_for(configs: Mapping[str, Config]) -> dict[str, Backend]:
    """The backend of each model, not loaded yet; `ConfigError` names the model."""
    backends = {}
    for name, config in configs.items():
        try:
            backends[name] = backend_for(config)
        except ConfigError as error:
            if name == UNNAMED:
                raise
            raise ConfigError(f"models.{name}: {error}") from error
    check_kinds(backends)
    return backends


async def share_devices(
    configs: Mapping[str, Config], backends: Mapping[str, Backend]
) -> list[int]:
    """The ids of the devices that all models run on; each backend is told of the other models.

    `ConfigError` where the models do not mean the same devices, or do not fit on them together.
    """
    (first, backend), *others = backends.items()
    device_ids = await backend.select(configs[first].devices)
    if not others:
        return device_ids
    cores = await _cores_of(backend, device_ids)
    for name, other in others:
        own_ids = await other.select(configs[name].devices)
        if own_ids != device_ids:
            raise ConfigError(
                f"devices: {configs[name].devices} means {device_ids} to {first}, but {own_ids} to "
                f"{name}: models of one scheduler run on the same devices"
            )
        own_cores = await _cores_of(other, device_ids)
        if own_cores != cores:
            raise ConfigError(
                f"models.{name}: {other.model_path} describes devices of {own_cores} cores, "
                f"{backend.model_path} of {cores}: models that share devices must agree on them"
            )
    demands = {name: demand_of(config) for name, config in configs.items()}
    for name, demand in demands.items():
        publish_demand(backends, name, demand)
    await backend.check_room(device_ids, demands)
    return device_ids


def demand_of(config: Config) -> CoreDemand:
    """What a model takes of each device, as it is configured."""
    return CoreDemand(config.num_activations, config.options.aic_num_cores)


def publish_demand(backends: Mapping[str, Backend], name: str, demand: CoreDemand) -> None:
    """Tell the other models' backends what a model takes of each device from now on."""
    for other, backend in backends.items():
        if other != name:
            backend.others[name] = demand


def check_kinds(backends: Mapping[str, Backend]) -> None:
    """Raise `ConfigError` unless all models run on one kind of device."""
    if len({backend.kind for backend in backends.values()}) > 1:
        kinds = ", ".join(f"{name} on {backend.kind}" for name, backend in backends.items())
        raise ConfigError(
            f"backend: models of one scheduler run on one kind of device, not {kinds}"
        )


async def _cores_of(backend: Backend, device_ids: Sequence[int]) -> list[int]:
    """The cores of each of these devices, of which the CPU's are shares of one."""
    return [each.cores for each in await backend.find() if each.device_id in device_ids]


async def close_all(shells: Iterable[Shell]) -> None:
    """Close all models at once, also while being cancelled."""
    with anyio.CancelScope(shield=True):
        await asyncio.gather(*(shell.aclose() for shell in shells))


def metrics_of(shell: Shell, now: float, *, is_closed: bool) -> dict[str, Any]:
    """What `get_metrics` tells of one model."""
    return shell.metrics.snapshot(now, _states(shell.statistics(), is_closed))


def merged_metrics(shells: Mapping[str, Shell], now: float, *, is_closed: bool) -> dict[str, Any]:
    """What `get_metrics` tells of several: the whole, and in `models` the same of each."""
    whole = SchedulerMetrics(now)
    for shell in shells.values():
        whole.merge(shell.metrics, now)
    statistics = merged_statistics(shell.statistics() for shell in shells.values())
    return {
        **whole.snapshot(now, _states(statistics, is_closed)),
        "models": {
            name: metrics_of(shell, now, is_closed=is_closed) for name, shell in shells.items()
        },
    }


def _states(statistics: Statistics, is_closed: bool) -> dict[int, str]:
    return {
        device_id: "closed" if is_closed else device.state
        for device_id, device in statistics.devices.items()
    }


def merged_statistics(several: Iterable[Statistics]) -> Statistics:
    """The gauges of several models added up; a device is as well as the model that fares worst."""
    models = list(several)
    sums = {
        each.name: sum(getattr(statistics, each.name) for statistics in models)
        for each in fields(Statistics)
        if each.name != "devices"
    }
    on_device: dict[int, list[DeviceStatistics]] = {}
    for statistics in models:
        for device_id, device in statistics.devices.items():
            on_device.setdefault(device_id, []).append(device)
    return Statistics(**sums, devices={each: _merged(its) for each, its in on_device.items()})


def _merged(devices: Sequence[DeviceStatistics]) -> DeviceStatistics:
    return DeviceStatistics(
        max((each.state for each in devices), key=_BY_SEVERITY.index),
        sum(each.num_activations for each in devices),
        sum(each.in_flight for each in devices),
    )
