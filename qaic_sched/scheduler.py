"""The async front end: what a caller may ask for, and when. The shell does the rest."""

from __future__ import annotations

import asyncio
from enum import Enum
from math import inf, isnan, prod
from operator import index
from typing import TYPE_CHECKING, Any

from qaic_sched.backends.choose import backend_for
from qaic_sched.clock import clock_of
from qaic_sched.config import load_config, make_config
from qaic_sched.core.events import DeviceOpened, DrainStarted
from qaic_sched.core.model import Policy, Request, Statistics
from qaic_sched.core.state import SchedulerState
from qaic_sched.errors import InputError, SchedulerClosedError
from qaic_sched.event_log import EventLog
from qaic_sched.mapping import map_requests
from qaic_sched.metrics import SchedulerMetrics, format_device_table
from qaic_sched.pool import Pool
from qaic_sched.request import ScheduledRequest
from qaic_sched.shell import Shell
from qaic_sched.tensors import validate

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray
    from typing_extensions import Self

    from qaic_sched.config import Config
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

    `devices` is "all", a count or a list of device ids; the options are those of `Session` and the
    sections of the configuration, nested the same way: `queue={"max_samples": 4096}`. Open it with
    `async with`, which drains at the end, or cancels if left with an exception. A bad option or
    model raises `ConfigError`, here or when it opens.
    """

    def __init__(
        self, model_path: str, *, devices: str | int | Sequence[int] = "all", **options: Any
    ) -> None:
        if devices != "all":
            options["devices"] = devices
        self._prepare(make_config(model_path, **options))

    @classmethod
    def from_config(cls, path: str | Path, **overrides: Any) -> Self:
        """Make a scheduler from a configuration file; keywords win over what the file says."""
        scheduler = cls.__new__(cls)
        scheduler._prepare(load_config(path, **overrides))
        return scheduler

    def _prepare(self, config: Config) -> None:
        self.config = config
        self._phase = _Phase.NEW
        self._backend = backend_for(config)
        self._shell: Shell | None = None
        self._num_requests = 0
        self._bytes_per_sample = 0
        self._closing = asyncio.Lock()

    # Opening and closing

    async def __aenter__(self) -> Self:
        if self._phase is not _Phase.NEW:
            raise SchedulerClosedError("a scheduler opens once: make a new one")
        self._phase = _Phase.OPENING
        try:
            self._shell = await self._open()
        except BaseException:
            self._phase = _Phase.CLOSED
            raise
        self._phase = _Phase.OPEN
        return self

    async def _open(self) -> Shell:
        config, backend = self.config, self._backend
        clock = clock_of(asyncio.get_running_loop())
        program = await backend.describe()
        self._bytes_per_sample = _bytes_per_sample(program)
        device_ids = await backend.select(config.devices)
        core = SchedulerState(_policy_of(config, program))
        log = None if config.event_log is None else EventLog(config.event_log)
        pool = Pool(backend, program)
        try:
            await pool.open(device_ids, config.num_activations, config.set_size)
        except BaseException:
            if log is not None:
                log.close()
            raise
        if log is not None:
            log.start(config.model, core.policy)
        shell = Shell(core, program, pool, SchedulerMetrics(clock()), clock, log)
        for device_id, executable in pool.executables.items():
            shell.metrics.add_device(device_id, executable.num_activations)
            shell.post(DeviceOpened(device_id, executable.num_activations, config.set_size))
        return shell

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
        shell = self._opened()
        if self._phase is _Phase.OPEN:
            self._phase = _Phase.DRAINING
            shell.post(DrainStarted())
        if self._phase is _Phase.DRAINING:
            await shell.idle.wait()

    async def aclose(self) -> None:
        """Cancel what is not resolved yet and give the devices back; idempotent.

        Cancelled callers get `SchedulerClosedError`, at once.
        """
        async with self._closing:
            was, self._phase = self._phase, _Phase.CLOSED
            if self._shell is not None and was is not _Phase.CLOSED:
                await self._shell.aclose()

    # Requests

    async def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        *,
        priority: int = 0,
        timeout_s: float | None = None,
        tenant: str | None = None,
    ) -> Tensors:
        """Run any number of samples and return the outputs, rows in the order of the inputs'.

        Higher `priority` is served first; `timeout_s` covers the whole stay. Raises `InputError`,
        `QueueFullError`, `DeadlineExceededError`, `DeviceError` or `SchedulerClosedError`.
        """
        return await self.submit(inputs, priority=priority, timeout_s=timeout_s, tenant=tenant)

    def submit(
        self,
        inputs: Mapping[str, NDArray[Any]],
        *,
        priority: int = 0,
        timeout_s: float | None = None,
        tenant: str | None = None,
    ) -> ScheduledRequest:
        """Hand a request in without waiting; what is returned may be awaited or cancelled.

        Raises what is wrong with the call itself (`InputError`, `SchedulerClosedError`) at once;
        all else comes out of awaiting. The inputs must not change until then.
        """
        shell = self._shell
        if shell is None or self._phase is not _Phase.OPEN:
            raise SchedulerClosedError(f"the scheduler is {self._phase.value}")
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
            samples * self._bytes_per_sample,
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
        priority: int = 0,
        timeout_s: float | None = None,
        tenant: str | None = None,
    ) -> AsyncIterator[Tensors]:
        """Run every inputs of a stream, keeping the devices busy but bounded in flight.

        Yields outputs in the order of the stream, or as they come if not `ordered`. The first
        error, of a request or of the stream, is raised in its place and the rest is cancelled.
        """

        def submit(inputs: Mapping[str, NDArray[Any]]) -> ScheduledRequest:
            return self.submit(inputs, priority=priority, timeout_s=timeout_s, tenant=tenant)

        return map_requests(submit, stream, self.samples_to_keep_busy, ordered=ordered)

    # Telling

    def get_metrics(self) -> dict[str, Any]:
        """Counts and latencies since opening, for the whole host and per device; seconds."""
        shell = self._opened()
        devices = shell.statistics().devices
        is_closed = self._phase is _Phase.CLOSED
        states = {each: "closed" if is_closed else its.state for each, its in devices.items()}
        return shell.metrics.snapshot(shell.clock(), states)

    def print_metrics(self) -> None:
        """Print the per-device table of `get_metrics`."""
        print(format_device_table(self.get_metrics()))

    def statistics(self) -> Statistics:
        """What waits, is queued and is in flight at this moment."""
        return self._opened().statistics()

    @property
    def program(self) -> Program:
        """What the model takes and gives; known once the scheduler is open."""
        return self._opened().program

    @property
    def samples_to_keep_busy(self) -> int:
        """Samples in flight that fill every slot of every device twice: the bound of `map`."""
        shell = self._opened()
        slots = sum(each.num_activations for each in shell.pool.executables.values())
        return 2 * slots * self.config.set_size * shell.program.max_batch_size

    def __repr__(self) -> str:
        return f"<Scheduler {self.config.model}: {self._phase.value}>"

    def _opened(self) -> Shell:
        if self._shell is None:
            raise SchedulerClosedError(f"the scheduler is {self._phase.value}")
        return self._shell


def _policy_of(config: Config, program: Program) -> Policy:
    timeout_s = config.health.dispatch_timeout_s
    return Policy(
        batch_sizes=program.batch_sizes or (1,),
        max_samples=config.queue.max_samples,
        max_bytes=config.queue.max_bytes,
        waits_when_full=config.queue.when_full == "wait",
        max_queue_delay_s=config.batching.max_queue_delay_s,
        max_attempts=config.retry.max_attempts,
        retry_max_extra=config.retry.max_extra,
        hedge_after=config.hedging.after if config.hedging.enabled else None,
        hedge_max_extra=config.hedging.max_extra,
        dispatch_timeout_s=None if timeout_s == "auto" else timeout_s,
    )


def _bytes_per_sample(program: Program) -> int:
    total = sum(spec.dtype.itemsize * prod(spec.shape) for spec in program.inputs)
    return total // program.max_batch_size


def _seconds(timeout_s: float) -> float:
    seconds = float(timeout_s)
    if isnan(seconds):
        raise InputError("timeout_s is not a number")
    return seconds
