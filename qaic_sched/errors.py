"""The one tree of errors: each says whose fault it is and which HTTP status fits it."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = [
    "CompileError",
    "ConfigError",
    "DeadlineExceededError",
    "DeviceError",
    "DeviceErrorKind",
    "InputError",
    "InternalError",
    "NoDeviceError",
    "QueueFullError",
    "SchedulerClosedError",
    "SchedulerError",
]


DeviceErrorKind: TypeAlias = Literal["inference", "lost", "restarted", "stuck"]
"""What failed: one inference only; the device, which is gone; the program, which a restart of its
cores has taken off the device and which must be loaded again; or an inference that never ended.
"""


class SchedulerError(Exception):
    """Anything that qaic_sched raises on purpose.

    `http_status_hint` is the status that an HTTP front end may answer with.
    """

    http_status_hint: int = 500


class InputError(SchedulerError, ValueError):
    """The caller's fault: the inputs of a request do not fit the program."""

    http_status_hint = 400


class ConfigError(SchedulerError, ValueError):
    """The operator's fault: a configuration, an option or a model that cannot work."""


class CompileError(SchedulerError):
    """The model's or its options' fault: the compiler refused it."""


class QueueFullError(SchedulerError):
    """The load's fault: there is no room for the request now.

    `retry_after_s` is when room is expected, None while nothing has been measured yet.
    """

    http_status_hint = 503

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(SchedulerError, TimeoutError):
    """The load's fault, or the caller's: the request's `timeout_s` ran out."""

    http_status_hint = 504


class DeviceError(SchedulerError):
    """The device's fault: an inference or a load failed on it. The request may be sent again.

    `kind` says how much of the device the failure takes with it; after `lost` and `restarted`
    whatever is loaded there answers with errors only.
    """

    def __init__(
        self,
        message: str,
        device_id: int | None = None,
        *,
        kind: DeviceErrorKind = "inference",
    ) -> None:
        super().__init__(message)
        self.device_id = device_id
        self.kind: DeviceErrorKind = kind


class NoDeviceError(SchedulerError):
    """The host's fault: no device is there that could run the program."""

    http_status_hint = 503


class SchedulerClosedError(SchedulerError):
    """The caller's fault: used before it was opened, or while or after it was closed."""

    http_status_hint = 503


class InternalError(SchedulerError):
    """Our fault: a rule of the scheduler was broken. Please report it."""
