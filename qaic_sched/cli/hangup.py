"""SIGHUP in a long-running command: reload the configuration file."""

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
    """While entered, SIGHUP reloads the scheduler's configuration file and applies its live keys.

    `overrides` override the file, as they did when the scheduler was made. An invalid file is
    reported in one line and changes nothing. Enter it on an event loop in the main thread. On a
    loop without signal handlers (Windows), SIGHUP is not handled.
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
                self._loop.add_signal_handler(signal.SIGHUP, self._on_signal)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if hasattr(signal, "SIGHUP"):
            with suppress(NotImplementedError):
                self._loop.remove_signal_handler(signal.SIGHUP)
        for change in self._changes:
            change.cancel()

    def _on_signal(self) -> None:
        change = self._loop.create_task(self._reload())
        self._changes.add(change)
        change.add_done_callback(self._changes.discard)

    async def _reload(self) -> None:
        try:
            configs = load_configs(self._path, **self._overrides)
            if configs.keys() != self._scheduler.configs.keys():
                raise ConfigError(
                    f"{self._path}: models: adding or removing models needs a restart"
                )
            for name, config in configs.items():
                self._report_unchanged(config, self._scheduler.configs[name])
                model = name or None
                await self._scheduler.update_backend_options(model=model, **live_options(config))
        except SchedulerError as error:
            say(f"SIGHUP: nothing changed: {error}")
        else:
            say(f"SIGHUP: reloaded {self._path}")

    def _report_unchanged(self, config: Config, now: Config) -> None:
        others = [each for each in config.__struct_fields__ if each not in LIVE_KEYS]
        changed = [each for each in others if getattr(config, each) != getattr(now, each)]
        if changed:
            say(f"SIGHUP: ignored until a restart: {', '.join(changed)}")
