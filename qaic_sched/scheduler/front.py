"""The async front end: what a caller may ask for, and when. The shell does the rest."""

from __future__ import annotations

import asyncio
from enum import Enum
from math import inf, isnan
from operator import index
from typing import TYPE_CHECKING, Any, SupportsFloat, SupportsIndex

from qaic_sched.config.layers import changed_config
from qaic_sched.config.models import UNNAMED, load_configs, make_configs
from qaic_sched.core.events import DrainStarted, PolicyChanged
from qaic_sched.core.model import Request, Statistics
from qaic_sched.errors import ConfigError, InputError, SchedulerClosedError
from qaic_sched.metrics.table import format_device_table
from qaic_sched.scheduler.live_change import Layout, LiveChange
from qaic_sched.scheduler.mapping import map_requests
from qaic_sched.scheduler.opening import open_shell, policy_of, samples_to_keep_busy
from qaic_sched.scheduler.request import ScheduledRequest
from qaic_sched.scheduler.several import (
    backends_for,
    close_all,
    demand_of,
    merged_metrics,
    merged_statistics,
    metrics_of,
    name_of,
    publish_demand,
    share_devices,
)
from qaic_sched.scheduler.shell import Shell
from qaic_sched.tensors import validate

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray
    from typing_extensions import Self

    from qaic_sched.config.keys import Config
    from qaic_sched.program import Program, Tensors

__all__ = ["Scheduler"]


class _Phase(Enum):
    NEW = "not open yet: use `async with`"
    OPENING = "not open yet: it is being opened"
    OPEN = "open"
    DRAINING = "draining and takes nothing new"
    CLOSED = "closed"


class Scheduler:
    """Queues requests, batches them and runs them on many devices.

    A mapping instead of a `model_path` is of several models by name, each a path or a mapping of
    its own options, `model` among them; they share the devices and their cores, and no queue.
    `devices` is "all", a count or a list of device ids; the options are those of `Session` and the
    sections of the configuration, nested the same way: `queue={"max_samples": 4096}`. Open it with
    `async with`, which drains at the end, or cancels if left with an exception. A bad option or
    model raises `ConfigError`, here or when it opens.
    """

    def __init__(
        self,
        model_path: str | Path | Mapping[str, Any],
        *,
        devices: str | int | Sequence[int] = "all",
        **options: Any,
    ) -> None:
        if devices != "all":
            options["devices"] = devices
        self.configs = configs = make_configs(model_path, **options)
        """By the models' names; a model without one is the only one, named ""."""
        self._phase = _Phase.NEW
        self._backends = backends_for(configs)
        self._shells: dict[str, Shell] = {}
        self._shell: Shell | None = None
        """That of the only model, once open: the one that `run` means without a name."""
        self._num_requests = 0
        self._closing = asyncio.Lock()
        self._changing = asyncio.Lock()

    @classmethod
    def from_config(cls, path: str | Path, **overrides: Any) -> Self:
        """Make a scheduler from a configuration file; keywords win over what the file says."""
        return cls(load_configs(path, **overrides))

    # Opening and closing

    async def __aenter__(self) -> Self:
        if self._phase is not _Phase.NEW:
            raise SchedulerClosedError("a scheduler opens once: make a new one")
        self._phase = _Phase.OPENING
        try:
            self._shells = await self._open()
        except BaseException:
            self._phase = _Phase.CLOSED
            raise
        if len(self._shells) == 1:
            (self._shell,) = self._shells.values()
        self._phase = _Phase.OPEN
        return self

    async def _open(self) -> dict[str, Shell]:
        """Open every model, one after the other, or none."""
        programs = {name: await backend.describe() for name, backend in self._backends.items()}
        device_ids = await share_devices(self.configs, self._backends)
        shells: dict[str, Shell] = {}
        try:
            for name, config in self.configs.items():
                shells[name] = await open_shell(
                    config, self._backends[name], programs[name], device_ids
                )
        except BaseException:
            await close_all(shells.values())
            raise
        return shells

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                await self.drain()
        finally:
            await self.aclose()

    async def drain(self) -> None:
        """Refuse new requests and wait until every accepted one is resolved."""
        shells = self._opened().values()
        if self._phase is _Phase.OPEN:
            self._phase = _Phase.DRAINING
            for shell in shells:
                shell.post(DrainStarted())
        if self._phase is _Phase.DRAINING:
            for shell in shells:
                await shell.idle.wait()

    async def aclose(self) -> None:
        """Cancel what is not resolved yet and give the devices back; idempotent.

        Cancelled callers get `SchedulerClosedError`, at once.
        """
        async with self._closing:
            was, self._phase = self._phase, _Phase.CLOSED
            if was is not _Phase.CLOSED:
                await close_all(self._shells.values())

    async def update_backend_options(self, *, model: str | None = None, **options: Any) -> None:
        """Change options while requests go on; returns when the change is in effect.

        `num_activations`, `set_size`, `devices` and the sections `queue`, `batching`, `retry`,
        `hedging` and `health` may change, key by key, and `tenants` as a whole; of one model where
        there are several, and then not `devices`. No request fails for it: what is added takes work
        as soon as it is loaded, what is given back finishes what it holds. Raises `ConfigError`,
        `DeviceError` or `NoDeviceError`, and then all is as it was.
        """
        shell = self.shell_of(model)
        if self._phase is _Phase.CLOSED:
            raise SchedulerClosedError(f"the scheduler is {self._phase.value}")
        # A task of its own: a caller who no longer waits leaves no change half done.
        change = shell.start(self._change(name_of(self._shells, model), shell, options))
        try:
            await asyncio.shield(change)
        except asyncio.CancelledError:
            if not change.cancelled():
                raise
            raise SchedulerClosedError("the scheduler was closed during the change") from None

    async def _change(self, name: str, shell: Shell, options: dict[str, Any]) -> None:
        async with self._changing:
            was, backend = self.configs[name], self._backends[name]
            config = changed_config(was, options)
            policy = policy_of(config, shell.program)
            if config.devices != was.devices and len(self.configs) > 1:
                raise ConfigError("devices: several models run on the same devices, which stay")
            if "devices" in options or "dev_id" in options:
                device_ids = await backend.select(config.devices)
            else:
                device_ids = list(shell.pool.executables)
            wanted = Layout(device_ids, config.num_activations, config.set_size)
            publish_demand(self._backends, name, demand_of(config))
            try:
                await LiveChange(shell, wanted).apply()
            except BaseException:
                publish_demand(self._backends, name, demand_of(was))
                if config.devices != was.devices:
                    await backend.select(was.devices)
                raise
            if policy != shell.core.policy:
                shell.post(PolicyChanged(policy))
            self.configs = {**self.configs, name: config}
            shell.samples_to_keep_busy = samples_to_keep_busy(shell, config)

    # Requests

    async def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        *,
        priority: SupportsIndex = 0,
        timeout_s: SupportsFloat | None = None,
        tenant: str | None = None,
        model: str | None = None,
    ) -> Tensors:
        """Run any number of samples and return the outputs, rows in the order of the inputs'.

        Higher `priority` is served first; `timeout_s` covers the whole stay; of equals, those of
        the `tenant` that has had less for its weight go first; `model` is its name, to be given
        where there are several. Raises `InputError`,
        `QueueFullError`, `DeadlineExceededError`, `DeviceError` or `SchedulerClosedError`.
        """
        return await self.submit(
            inputs, priority=priority, timeout_s=timeout_s, tenant=tenant, model=model
        )

    def submit(
        self,
        inputs: Mapping[str, NDArray[Any]],
        *,
        priority: SupportsIndex = 0,
        timeout_s: SupportsFloat | None = None,
        tenant: str | None = None,
        model: str | None = None,
    ) -> ScheduledRequest:
        """Hand a request in without waiting; what is returned may be awaited or cancelled.

        Raises what is wrong with the call itself (`InputError`, `SchedulerClosedError`) at once;
        all else comes out of awaiting. The inputs must not change until then.
        """
        if self._phase is not _Phase.OPEN:
            raise SchedulerClosedError(f"the scheduler is {self._phase.value}")
        shell = self._shell
        if shell is None or model is not None:
            shell = self.shell_of(model)
        if shell.error is not None:
            raise shell.error
        tensors, samples = validate(shell.program, inputs)
        now = shell.clock()
        core = Request(
            self._num_requests,
            samples,
            now,
            None if timeout_s is None or timeout_s == inf else now + _seconds(timeout_s),
            index(priority),
            samples * shell.bytes_per_sample,
            tenant,
        )
        self._num_requests += 1
        request = ScheduledRequest(core, tensors, shell.cancel)
        shell.submit(request)
        return request

    def map(
        self,
        stream: Iterable[Mapping[str, NDArray[Any]]] | AsyncIterable[Mapping[str, NDArray[Any]]],
        *,
        ordered: bool = True,
        priority: SupportsIndex = 0,
        timeout_s: SupportsFloat | None = None,
        tenant: str | None = None,
        model: str | None = None,
    ) -> AsyncIterator[Tensors]:
        """Run every inputs of a stream, keeping the devices busy but bounded in flight.

        Yields outputs in the order of the stream, or as they come if not `ordered`. The first
        error, of a request or of the stream, is raised in its place and the rest is cancelled.
        """

        def submit(inputs: Mapping[str, NDArray[Any]]) -> ScheduledRequest:
            return self.submit(
                inputs, priority=priority, timeout_s=timeout_s, tenant=tenant, model=model
            )

        shell = self.shell_of(model)
        return map_requests(submit, stream, lambda: shell.samples_to_keep_busy, ordered=ordered)

    # Telling

    def get_metrics(self) -> dict[str, Any]:
        """Counts and latencies since opening, for the whole host and per device; seconds.

        Models with names have the same each, in `models`.
        """
        shells = self._opened()
        is_closed = self._phase is _Phase.CLOSED
        now = next(iter(shells.values())).clock()
        if UNNAMED in shells:
            return metrics_of(shells[UNNAMED], now, is_closed=is_closed)
        return merged_metrics(shells, now, is_closed=is_closed)

    def print_metrics(self) -> None:
        """Print the per-device table of `get_metrics`."""
        print(format_device_table(self.get_metrics()))

    def statistics(self, *, model: str | None = None) -> Statistics:
        """What waits, is queued and is in flight at this moment, for one model or for all."""
        if model is None and self._shell is None:
            return merged_statistics(shell.statistics() for shell in self._opened().values())
        return self.shell_of(model).statistics()

    @property
    def config(self) -> Config:
        """The configuration of the only model; of several, see `configs`."""
        return self.configs[name_of(self.configs, None)]

    @property
    def program(self) -> Program:
        """What the only model takes and gives; known once the scheduler is open."""
        return self.shell_of(None).program

    @property
    def programs(self) -> dict[str, Program]:
        """What each model takes and gives, by name; known once the scheduler is open."""
        return {name: shell.program for name, shell in self._opened().items()}

    @property
    def samples_to_keep_busy(self) -> int:
        """Samples in flight that fill every slot of every device twice.

        The bound of `map`, which does not count its largest request.
        """
        return self.samples_to_keep_busy_of(None)

    def samples_to_keep_busy_of(self, model: str | None) -> int:
        """The same for one of several models."""
        return self.shell_of(model).samples_to_keep_busy

    def shell_of(self, model: str | None) -> Shell:
        """What runs a model; None is the only one. `InputError` where there is none, or several."""
        shells = self._opened()
        return shells[name_of(shells, model)]

    def __repr__(self) -> str:
        models = [name or config.model for name, config in self.configs.items()]
        return f"<Scheduler {', '.join(models)}: {self._phase.value}>"

    def _opened(self) -> dict[str, Shell]:
        if not self._shells:
            raise SchedulerClosedError(f"the scheduler is {self._phase.value}")
        return self._shells


def _seconds(timeout_s: SupportsFloat) -> float:
    seconds = float(timeout_s)
    if isnan(seconds):
        raise InputError("timeout_s is not a number")
    return seconds
