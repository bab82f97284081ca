"""Several models on the same devices: the parts of a scheduler that concern all its models.

Rules of this file:
- Each model has its own core, shell and activations. Models share devices and cores, but no queue:
  overloading one model delays no other.
- What one model has learned about a device, that it is lost, slow or back, the others know at once
  (`device_news`).
- All models run on all devices. Before any is loaded, their demands together are checked against
  the cores of each device.
- A single model, with or without a name, is the case of one model.
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
from qaic_sched.errors import ConfigError, InputError, shown
from qaic_sched.metrics.records import SchedulerMetrics
from qaic_sched.scheduler.api import DeviceTotals, Totals

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
    "merged_totals",
    "metrics_of",
    "name_of",
    "publish_demand",
    "share_devices",
    "totals_of",
]

_BY_SEVERITY = [state.value for state in DeviceState]


def name_of(names: Collection[str], model: object) -> str:
    """Return the name of the model that a caller means; None is the only model.

    Raises `InputError` for an unknown name, and for None if there are several models.
    """
    known = ", ".join(names)
    if model is None:
        if len(names) > 1:
            raise InputError(f"model: missing, and this scheduler runs several: {known}")
        return next(iter(names))
    if not isinstance(model, str):
        raise InputError(f"model: there is no {shown(model)}, only {known or 'one without a name'}")
    if model in names:
        return model
    if known == UNNAMED:
        raise InputError(f"model: {model!r} asked for, but the only model here has no name")
    near = get_close_matches(model, names, 1, 0.0)[0]
    raise InputError(f"model: there is no {model!r} (did you mean {near}?), only {known}")


def backends_for(configs: Mapping[str, Config]) -> dict[str, Backend]:
    """Make the backend of each model, which loads nothing yet; `ConfigError` names the model."""
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
    """Return the ids of the devices for all models, and publish each model's demand to the others.

    Raises `ConfigError` if the models mean different devices, or do not fit on them together.
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
    """Return a model's demand of each device, as configured."""
    return CoreDemand(config.num_activations, config.options.aic_num_cores)


def publish_demand(backends: Mapping[str, Backend], name: str, demand: CoreDemand) -> None:
    """Have the backends of all other models expect this demand of a model from now on."""
    for other, backend in backends.items():
        if other != name:
            backend.expect_other(name, demand)


def check_kinds(backends: Mapping[str, Backend]) -> None:
    """Raise `ConfigError` unless all models run on one kind of device."""
    if len({backend.kind for backend in backends.values()}) > 1:
        kinds = ", ".join(f"{name} on {backend.kind}" for name, backend in backends.items())
        raise ConfigError(
            f"backend: models of one scheduler run on one kind of device, not {kinds}"
        )


async def _cores_of(backend: Backend, device_ids: Sequence[int]) -> list[int]:
    """Return the number of cores of each device; CPU devices divide those of the host."""
    return [each.cores for each in await backend.find() if each.device_id in device_ids]


async def close_all(shells: Iterable[Shell]) -> None:
    """Close all models at once, even while being cancelled."""
    with anyio.CancelScope(shield=True):
        await asyncio.gather(*(shell.aclose() for shell in shells))


# Reading the counters


def metrics_of(shell: Shell, now: float, *, is_closed: bool) -> dict[str, Any]:
    """Return the `get_metrics` of one model."""
    states = _states(shell.statistics(), is_closed)
    return {**shell.metrics.snapshot(now, states), "batch_axis": shell.program.rows_report}


def merged_metrics(shells: Mapping[str, Shell], now: float, *, is_closed: bool) -> dict[str, Any]:
    """Return the `get_metrics` of several models: the whole, and each in `models`."""
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
    """Add up the gauges of several models; a device shows the worst state that any model sees."""
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


def totals_of(shell: Shell) -> Totals:
    """Return the running totals of one model, without handling what was posted."""
    devices = {each: DeviceTotals(*its) for each, its in shell.metrics.totals().items()}
    return Totals(shell.core.statistics().queued_samples, devices)


def merged_totals(several: Iterable[Totals]) -> Totals:
    """Add up the running totals of several models."""
    queued_samples = 0
    devices: dict[int, DeviceTotals] = {}
    for totals in several:
        queued_samples += totals.queued_samples
        for device_id, its in totals.devices.items():
            inferences, busy_s = devices.get(device_id, (0, 0.0))
            devices[device_id] = DeviceTotals(inferences + its.inferences, busy_s + its.busy_s)
    return Totals(queued_samples, devices)
