"""Opens one model: makes a shell with loaded devices from a configuration."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qaic_sched.clock import clock_of
from qaic_sched.core.events import DeviceOpened
from qaic_sched.core.model import Policy, Tenant
from qaic_sched.core.state import SchedulerState
from qaic_sched.errors import ConfigError, InputError
from qaic_sched.metrics.records import SchedulerMetrics
from qaic_sched.scheduler.arguments import tenant_of
from qaic_sched.scheduler.event_log import EventLog
from qaic_sched.scheduler.pool import Pool
from qaic_sched.scheduler.shell import Shell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qaic_sched.backends.base import Backend
    from qaic_sched.config.keys import Config
    from qaic_sched.program import Program

__all__ = ["open_shell", "policy_of"]


async def open_shell(
    config: Config, backend: Backend, program: Program, device_ids: Sequence[int]
) -> Shell:
    """Load one model on the devices and report them to a new core."""
    clock = clock_of(asyncio.get_running_loop())
    core = SchedulerState(policy_of(config, program))
    log = None if config.event_log is None else EventLog(config.event_log)
    pool = Pool(backend, program)
    try:
        if log is not None:
            log.start(config.model, core.policy)
        await pool.open(device_ids, config.num_activations, config.set_size)
    except BaseException:
        if log is not None:
            log.close()
        raise
    shell = Shell(core, program, pool, SchedulerMetrics(clock()), clock, log)
    for device_id, executable in pool.executables.items():
        shell.metrics.add_device(device_id, executable.num_activations)
        shell.post(DeviceOpened(device_id, executable.num_activations, config.set_size))
    return shell


def policy_of(config: Config, program: Program) -> Policy:
    """Return the parameters of the core's decisions; `ConfigError` for an impossible tenant."""
    for name in config.tenants:
        try:
            tenant_of(name)
        except InputError as error:
            raise ConfigError(f"tenants: {error}") from None
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
        tenants={name: Tenant(its.weight, its.share) for name, its in config.tenants.items()},
    )
