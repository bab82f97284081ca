"""What SIGHUP does to a command that runs long: it reads its configuration again."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from qaic_sched.cli.output import say
from qaic_sched.config.layers import LIVE_KEYS, live_options
from qaic_sched.config.models import load_configs
from qaic_sched.errors import ConfigError, SchedulerError

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

    from qaic_sched.config.keys import Config
    from qaic_sched.scheduler.front import Scheduler

__all__ = ["Hangup"]


class Hangup:
    """While entered, SIGHUP applies what may change live of the scheduler's configuration file.

    `overrides` win over the file, as they did when the scheduler was made. What is wrong with the
    file is said in one line and changes nothing. To be entered on an event loop in the main
    thread; where the loop knows no signals (Windows), nothing happens.
    """

    def __init__(self, scheduler: Scheduler, path: Path, **overrides: Any) -> None:
        self._scheduler = scheduler
        self._path = path
        self._overrides = overrides
        self._changes: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP"):
            with suppress(NotImplementedError):
                self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if hasattr(signal, "SIGHUP"):
            with suppress(NotImplementedError):
                self._loop.remove_signal_handler(signal.SIGHUP)
        for change in self._changes:
            change.cancel()

    def _hang_up(self) -> None:
        change = self._loop.create_task(self._reread())
        self._changes.add(change)
        change.add_done_callback(self._changes.discard)

    async def _reread(self) -> None:
        try:
            configs = load_configs(self._path, **self._overrides)
            if configs.keys() != self._scheduler.configs.keys():
                raise ConfigError(f"{self._path}: other models need a restart")
            for name, config in configs.items():
                self._say_what_stays(config, self._scheduler.configs[name])
                model = name or None
                await self._scheduler.update_backend_options(model=model, **live_options(config))
        except SchedulerError as error:
            say(f"SIGHUP: nothing was changed: {error}")
        else:
            say(f"SIGHUP: {self._path} was read again and is in effect")

    def _say_what_stays(self, config: Config, now: Config) -> None:
        others = [each for each in config.__struct_fields__ if each not in LIVE_KEYS]
        stay = [each for each in others if getattr(config, each) != getattr(now, each)]
        if stay:
            say(f"SIGHUP: needs a restart, and stays as it was: {', '.join(stay)}")
