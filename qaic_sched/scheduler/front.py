"""`Scheduler`: the asynchronous front end. It checks calls and leaves the work to the shell."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Any, SupportsFloat, SupportsIndex

from msgspec import to_builtins

from qaic_sched.config.layers import changed_config
from qaic_sched.config.models import UNNAMED, load_configs, make_configs
from qaic_sched.core.events import DrainStarted, PolicyChanged
from qaic_sched.core.model import Request, Statistics
from qaic_sched.errors import ConfigError, SchedulerClosedError
from qaic_sched.metrics.table import format_device_table
from qaic_sched.scheduler.arguments import check_stream, priority_of, tenant_of, timeout_of
from qaic_sched.scheduler.device_news import share_news
from qaic_sched.scheduler.live_change import Layout, LiveChange
from qaic_sched.scheduler.mapping import map_requests
from qaic_sched.scheduler.opening import open_shell, policy_of
from qaic_sched.scheduler.request import ScheduledRequest
from qaic_sched.scheduler.several import (
    backends_for,
    close_all,
    demand_of,
    merged_metrics,
    merged_statistics,
    merged_totals,
    metrics_of,
    name_of,
    publish_demand,
    share_devices,
    totals_of,
)
from qaic_sched.scheduler.shell import Shell
from qaic_sched.tensors import check_row_count, validate

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray
    from typing_extensions import Self

    from qaic_sched.config.keys import Config
    from qaic_sched.program import Program, Tensors
    from qaic_sched.scheduler.api import SupportsText, Totals

__all__ = ["Scheduler"]


class _Phase(Enum):
    NEW = "not open yet: use `async with`"
    OPENING = "not open yet: it is being opened"
    OPEN = "open"
    DRAINING = "draining and takes no new requests"
    CLOSED = "closed"


class Scheduler:
    """Queues requests, packs them into batches and runs them on many devices.

    Open it with `async with`: the end of the block drains it, an exception cancels what is
    outstanding. Call it on one event loop only.

    `model_path` is a path, or a mapping of several models: name to path, or to a mapping of that
    model's options with its path under `model`. Models share the devices and their cores, but no
    queue. `devices` is "all", the number of devices, or a list of device ids. `options` are those
    of `Session` and the sections of the configuration file as mappings, for example
    `queue={"max_samples": 4096}`.

    Raises `ConfigError` for an invalid option or model, here or when it is opened. Opening also
    raises `DeviceError` if a device fails to load the model and `NoDeviceError` if there is none.
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
        """The configuration of each model, by name; a single model without a name is ""."""
        self._phase = _Phase.NEW
        self._backends = backends_for(configs)
        self._shells: dict[str, Shell] = {}
        self._shell: Shell | None = None
        """The shell of the only model, once open; None if there are several."""
        self._num_requests = 0
        self._closing = asyncio.Lock()
        self._changing = asyncio.Lock()

    @classmethod
    def from_config(cls, path: str | Path, **overrides: Any) -> Self:
        """Make a scheduler from a configuration file, whose values `overrides` replace."""
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
        """Open the models one after the other; if one fails, close those already open."""
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
        share_news(list(shells.values()))
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
        """Refuse new requests and wait until every accepted request is resolved.

        Partial batches are sent at once, without waiting for `max_queue_delay_s`.
        """
        shells = self._opened().values()
        if self._phase is _Phase.OPEN:
            self._phase = _Phase.DRAINING
            for shell in shells:
                shell.post(DrainStarted())
        if self._phase is _Phase.DRAINING:
            for shell in shells:
                await shell.idle.wait()

    async def aclose(self) -> None:
        """Cancel unresolved requests and release the devices; idempotent.

        Callers that wait for a request get `SchedulerClosedError` at once.
        """
        async with self._closing:
            was, self._phase = self._phase, _Phase.CLOSED
            if was is not _Phase.CLOSED:
                await close_all(self._shells.values())

    async def update_backend_options(
        self, *, model: SupportsText | None = None, **options: Any
    ) -> None:
        """Change options while requests continue; return when the change is in effect.

        `num_activations`, `set_size`, `devices`, the keys of the sections `queue`, `batching`,
        `retry`, `hedging` and `health`, and `tenants` as a whole can change. Of several models,
        `model` names the one to change, and `devices` cannot change. No request fails because of
        it: added capacity takes requests as soon as it is loaded, and capacity being removed
        finishes what it holds first.

        Raises `ConfigError` for an option that is invalid or cannot change, `DeviceError` if a
        device fails to load, and `NoDeviceError` if no ready device would be left. After an error
        everything is as it was before the call.
        """
        shell = self._shell_of(model)
        if self._phase is _Phase.CLOSED:
            raise SchedulerClosedError(f"the scheduler is {self._phase.value}")
        # In a task, so that cancelling the caller leaves no change half done.
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
                raise ConfigError("devices: cannot change while several models share them")
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

    # Requests

    async def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        *,
        priority: SupportsIndex = 0,
        timeout_s: SupportsFloat | None = None,
        tenant: SupportsText | None = None,
        model: SupportsText | None = None,
    ) -> Tensors:
        """Run one request of one or more samples and return its outputs.

        `inputs` maps each input's name to an array of shape `(samples, ...)`; types are converted
        if that keeps their kind. The result maps each output's name to an array whose row `i`
        belongs to sample `i`. A model without a batch axis takes exactly the shapes of its inputs.

        Requests of higher `priority` are sent first; among equals, tenants share by their weights.
        `timeout_s` limits the seconds from this call to the outputs. `model` is required if there
        are several models.

        Raises `InputError` if the inputs do not fit the model, `QueueFullError` if the request is
        rejected, `DeadlineExceededError` after `timeout_s`, `DeviceError` if every attempt failed,
        `NoDeviceError` if no device works, and `SchedulerClosedError` if it is not open.
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
        tenant: SupportsText | None = None,
        model: SupportsText | None = None,
    ) -> ScheduledRequest:
        """Submit a request without waiting; the arguments are those of `run`.

        Returns a handle to await, cancel or explain. `InputError` and `SchedulerClosedError` are
        raised here, all other errors when the handle is awaited. Do not change the input arrays
        before the request is resolved.
        """
        if self._phase is not _Phase.OPEN:
            raise SchedulerClosedError(f"the scheduler is {self._phase.value}")
        shell = self._shell
        if shell is None or model is not None:
            shell = self._shell_of(model)
        if shell.error is not None:
            raise shell.error
        tensors, samples = validate(shell.program, inputs)
        if shell.limits_rows:
            check_row_count(shell.program, samples)
        now = shell.clock()
        seconds = None if timeout_s is None else timeout_of(timeout_s)
        core = Request(
            self._num_requests,
            samples,
            now,
            None if seconds is None else now + seconds,
            priority_of(priority),
            samples * shell.bytes_per_sample,
            None if tenant is None else tenant_of(tenant),
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
        tenant: SupportsText | None = None,
        model: SupportsText | None = None,
    ) -> AsyncIterator[Tensors]:
        """Run a stream of requests, keeping the devices busy, and yield their outputs.

        `stream` yields the `inputs` of `run`, and is read while fewer than `samples_to_keep_busy`
        samples, plus those of the largest request, are outstanding. Outputs come in its order, or,
        with `ordered=False`, as they complete. The first error is raised and cancels the rest.
        """

        shell = self._shell_of(model)
        check_stream(stream)
        level = priority_of(priority)
        seconds = None if timeout_s is None else timeout_of(timeout_s)
        name = None if tenant is None else tenant_of(tenant)

        def submit(inputs: Mapping[str, NDArray[Any]]) -> ScheduledRequest:
            return self.submit(inputs, priority=level, timeout_s=seconds, tenant=name, model=model)

        each, most = shell.program.samples_each, lambda: shell.samples_to_keep_busy
        return map_requests(submit, stream, most, ordered=ordered, samples_each=each)

    # Observation

    def get_metrics(self) -> dict[str, Any]:
        """Return counts and latencies since opening; all times are seconds.

        The keys are those of `Session.get_metrics` for all devices together, `requests`, and
        `devices` by device id. If models have names, `models` has the same keys for each.
        """
        shells = self._opened()
        is_closed = self._phase is _Phase.CLOSED
        now = next(iter(shells.values())).clock()
        if UNNAMED in shells:
            return metrics_of(shells[UNNAMED], now, is_closed=is_closed)
        return merged_metrics(shells, now, is_closed=is_closed)

    def print_metrics(self) -> None:
        """Print the metrics of each device as a table."""
        print(format_device_table(self.get_metrics()))

    def statistics(self, *, model: SupportsText | None = None) -> Statistics:
        """Return the number of requests in each state now, of one model or of all added up."""
        if model is None and self._shell is None:
            return merged_statistics(shell.statistics() for shell in self._opened().values())
        return self._shell_of(model).statistics()

    def totals(self, *, model: SupportsText | None = None) -> Totals:
        """Return running totals of each device, and the queue, of one model or of all added up.

        Unlike `statistics`, this does not handle what has arrived in this turn of the event loop.
        """
        if model is None and self._shell is None:
            return merged_totals(totals_of(shell) for shell in self._opened().values())
        return totals_of(self._shell_of(model))

    # Models

    @property
    def config(self) -> Config:
        """The configuration of the only model; for several models see `configs`."""
        return self.configs[name_of(self.configs, None)]

    def config_for_report(self, *, model: SupportsText | None = None) -> dict[str, Any]:
        """Return the configuration of one model as plain values, fit for JSON."""
        return {**to_builtins(self.configs[name_of(self.configs, model)])}

    @property
    def program(self) -> Program:
        """The inputs and outputs of the only model; known once the scheduler is open."""
        return self._shell_of(None).program

    @property
    def programs(self) -> dict[str, Program]:
        """The inputs and outputs of each model, by name; known once the scheduler is open."""
        return {name: shell.program for name, shell in self._opened().items()}

    def program_of(self, model: SupportsText | None) -> Program:
        """Return the inputs and outputs of one of several models."""
        return self._shell_of(model).program

    @property
    def samples_to_keep_busy(self) -> int:
        """The number of samples in flight that fills every slot of every device twice."""
        return self.samples_to_keep_busy_of(None)

    def samples_to_keep_busy_of(self, model: SupportsText | None) -> int:
        """Return the `samples_to_keep_busy` of one of several models."""
        return self._shell_of(model).samples_to_keep_busy

    def __repr__(self) -> str:
        models = [name or config.model for name, config in self.configs.items()]
        return f"<Scheduler {', '.join(models)}: {self._phase.value}>"

    def _shell_of(self, model: SupportsText | None) -> Shell:
        shells = self._opened()
        return shells[name_of(shells, model)]

    def _opened(self) -> dict[str, Shell]:
        if not self._shells:
            raise SchedulerClosedError(f"the scheduler is {self._phase.value}")
        return self._shells
