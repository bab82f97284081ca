"""Opens one model: makes a shell with loaded devices from a configuration."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from qaic_sched.clock import clock_of
from qaic_sched.core.events import DeviceOpened
from qaic_sched.core.model import Policy, Tenant
from qaic_sched.core.state import SchedulerState
from qaic_sched.errors import ConfigError, DeviceError, InputError
from qaic_sched.metrics.records import SchedulerMetrics
from qaic_sched.program import Rows
from qaic_sched.scheduler.arguments import tenant_of
from qaic_sched.scheduler.event_log import EventLog
from qaic_sched.scheduler.pool import Pool
from qaic_sched.scheduler.shell import Shell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qaic_sched.backends.base import Backend, RowsWish
    from qaic_sched.config.keys import Config
    from qaic_sched.program import Program

__all__ = ["open_shell", "policy_of"]

logger = logging.getLogger("qaic_sched")


async def open_shell(
    config: Config, backend: Backend, program: Program, device_ids: Sequence[int]
) -> Shell:
    """Load one model on the devices and report them to a new core.

    `program` is what the backend describes. How requests use its batch axis is decided here: before
    anything is loaded where that can be, else with the first device that is.
    """
    clock = clock_of(asyncio.get_running_loop())
    wish = config.batching.rows
    log = None if config.event_log is None else EventLog(config.event_log)
    pool = Pool(backend, program)
    try:
        settled = await backend.settle_rows(wish)
        await pool.open(device_ids, config.num_activations, config.set_size)
        if settled is None:
            settled = await _settle_on(pool, backend, wish)
        program = settled or program
        core = SchedulerState(policy_of(config, program))
        if log is not None:
            log.start(config.model, core.policy)
    except BaseException:
        await pool.aclose()
        if log is not None:
            log.close()
        raise
    if wish == "auto" and program.is_batched and not program.shares_rows:
        logger.warning(
            "model %s: one request per inference (of %s rows), because %s; `batching.rows: shared` "
            "overrides this, `batching.rows: own` confirms it",
            config.model,
            program.row_counts,
            program.reason,
        )
    shell = Shell(core, program, pool, SchedulerMetrics(clock()), clock, log)
    for device_id, executable in pool.executables.items():
        shell.metrics.add_device(device_id, executable.num_activations)
        shell.post(DeviceOpened(device_id, executable.num_activations, config.set_size))
    return shell


async def _settle_on(pool: Pool, backend: Backend, wish: RowsWish) -> Program | None:
    """Decide how requests use the batch axis on the first device that works."""
    problem: DeviceError | None = None
    for executable in pool.executables.values():
        try:
            return await backend.settle_rows(wish, executable)
        except DeviceError as error:
            logger.warning("the rows could not be tried on a device: %s", error)
            problem = error
    assert problem is not None
    raise problem


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
        shares_rows=program.shares_rows or not program.is_batched,
        takes_any_size=program.is_batched and program.rows is Rows.ANY,
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
