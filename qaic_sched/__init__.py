"""An asyncio scheduler for inference on many Qualcomm Cloud AI cards."""

from __future__ import annotations

from qaic_sched.core.model import DeviceStatistics, Statistics
from qaic_sched.errors import (
    CompileError,
    ConfigError,
    DeadlineExceededError,
    DeviceError,
    InputError,
    InternalError,
    NoDeviceError,
    QueueFullError,
    SchedulerClosedError,
    SchedulerError,
)
from qaic_sched.scheduler.blocking import BlockingScheduler, blocking
from qaic_sched.scheduler.explain import Explanation
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.scheduler.request import ScheduledRequest
from qaic_sched.session import Session

__all__ = [
    "BlockingScheduler",
    "CompileError",
    "ConfigError",
    "DeadlineExceededError",
    "DeviceError",
    "DeviceStatistics",
    "Explanation",
    "InputError",
    "InternalError",
    "NoDeviceError",
    "QueueFullError",
    "ScheduledRequest",
    "Scheduler",
    "SchedulerClosedError",
    "SchedulerError",
    "Session",
    "Statistics",
    "blocking",
]
