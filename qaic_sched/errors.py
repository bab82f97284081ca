"""All errors of the package; each says whose fault it is and which HTTP status fits it."""

from __future__ import annotations

import reprlib
from typing import Final, Literal, TypeAlias

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
    "shown",
]


DeviceErrorKind: TypeAlias = Literal["input", "inference", "lost", "restarted", "stuck"]
"""How much failed.

- "input": one inference only, as the runtime rejected the values of its inputs.
- "inference": one inference only.
- "lost": the device is gone.
- "restarted": a restart of the cores has unloaded the program, which must be loaded again.
- "stuck": an inference never ended.
"""


class SchedulerError(Exception):
    """Base class of every error that qaic_sched raises on purpose.

    `http_status_hint` is the status with which an HTTP server may answer.
    """

    http_status_hint: int = 500


class InputError(SchedulerError, ValueError):
    """The caller's fault: the request does not fit the program, or names an unknown model."""

    http_status_hint = 400


class ConfigError(SchedulerError, ValueError):
    """The operator's fault: a configuration, an option or a model that cannot work."""


class CompileError(SchedulerError):
    """The fault of the model or its options: the compiler rejected it."""


class QueueFullError(SchedulerError):
    """Overload: the request was rejected, because the queue is full or its deadline too close.

    `retry_after_s` is the number of seconds until the same request is expected to be accepted,
    None while nothing has been measured. `wait_s` is set where the deadline was the reason: the
    number of seconds that the request would have taken.
    """

    http_status_hint = 503

    def __init__(
        self, message: str, retry_after_s: float | None = None, wait_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.wait_s = wait_s


class DeadlineExceededError(SchedulerError, TimeoutError):
    """Overload, or the caller's fault: `timeout_s` was over before the request was done."""

    http_status_hint = 504


class DeviceError(SchedulerError):
    """The device's fault: an inference or a load failed on it. The request may be sent again.

    `device_id` is None where the device is not known. `kind` says how much of the device failed:
    after "lost" and "restarted", every inference of the loaded program fails.
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
    """The host's fault: there is no device that could run the program now."""

    http_status_hint = 503


class SchedulerClosedError(SchedulerError):
    """The caller's fault: used before it was opened, while it drains, or after it was closed."""

    http_status_hint = 503


class InternalError(SchedulerError):
    """A bug of this package: a rule of the scheduler was broken. Please report it."""


_REPR: Final = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 120
_PLAIN: Final = (str, bytes, int, float, complex, bool, type(None))
"""Types whose values are shown in messages; of any other only the type's name is."""


def shown(value: object) -> str:
    """Return the value as messages show it, or its type for one that may fail to be written."""
    kind = type(value)
    try:
        if kind in _PLAIN:
            return _REPR.repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        pass
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"
