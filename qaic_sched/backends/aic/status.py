"""Translates statuses of the vendor's runtime into errors: cause, extent and remedy.

Assumption (not verified on hardware): statuses of the SDK's closed runtime have the meanings that
they have in the vendor's open user-mode driver, from which these were taken.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from qaic_sched.errors import ConfigError, DeviceError

if TYPE_CHECKING:
    from qaic_sched.errors import DeviceErrorKind

__all__ = ["inference_error", "load_error", "name_of"]

STUCK_AFTER_S = 5.0
"""A failure that took at least this long means a stuck inference: the kernel's default wait.

Assumption (not verified on hardware): an inference that never ends returns QS_ERROR after six such
waits.
"""


class _Meaning(NamedTuple):
    kind: DeviceErrorKind
    problem: str
    mend: str


_RESTART = "the cores that run the program were restarted"
_RELOAD = "the program must be loaded again"
_CHECK = "see `qaic-util -q` for its state"
_MEANINGS = {
    # The kernel's EPERM: the device took the program's channel away from this process.
    "QS_PERM": _Meaning("lost", "the device's channel was lost", _CHECK),
    "QS_BADFD": _Meaning("lost", "the device was closed while this process used it", _CHECK),
    "QS_NODEV": _Meaning("lost", "the device is gone or offline", _CHECK),
    "QS_AGAIN": _Meaning("restarted", "the device is reloading", _RELOAD),
    "QS_DEV_ERROR": _Meaning("restarted", _RESTART, _RELOAD),
    "QS_TIMEDOUT": _Meaning("stuck", "it never ended", "reset the device if this persists"),
    "QS_ERROR": _Meaning("inference", "the device reported an error", _CHECK),
    "QS_INVAL": _Meaning(
        "input",
        "the runtime refused inputs or program",
        "check their values, or compile the model again",
    ),
    "QS_UNSUPPORTED": _Meaning(
        "inference", "the device does not support it", "compile the model for this device"
    ),
    "QS_PROTOCOL": _Meaning(
        "inference", "firmware and SDK do not match", "install both in the same version"
    ),
    "QS_NOMEM": _Meaning("inference", "memory ran out", "use fewer activations"),
    "QS_NOSPC": _Meaning("inference", "the device has no room left", "use fewer activations"),
    "QS_BUSY": _Meaning("inference", "the device's queue stayed full", "use a smaller set_size"),
    "QS_DATA_CRC_ERROR": _Meaning(
        "inference", "data was damaged in transfer", "check the PCIe link"
    ),
}
_UNKNOWN = _Meaning("inference", "the status is unknown to qaic_sched", _CHECK)
_OPERATOR = {"QS_INVAL", "QS_UNSUPPORTED", "QS_PROTOCOL", "QS_NOMEM", "QS_NOSPC"}
"""Statuses of a load that are the operator's fault: another model or configuration avoids them."""


def name_of(status: object) -> str:
    """The status as the vendor writes it, such as `QS_NODEV`."""
    return str(getattr(status, "name", status))


def inference_error(
    status: object, device_id: int, activation: int, waited_s: float
) -> DeviceError:
    """The error of an inference that failed after `waited_s` seconds on the device."""
    name = name_of(status)
    if name == "QS_ERROR" and waited_s >= STUCK_AFTER_S:
        kind, problem, mend = _MEANINGS["QS_TIMEDOUT"]
    else:
        kind, problem, mend = _MEANINGS.get(name, _UNKNOWN)
    where = f"aic device {device_id}, activation {activation}"
    message = f"{where}: an inference failed, {problem} ({name}): {mend}"
    return DeviceError(message, device_id, kind=kind)


def load_error(reason: object, device_id: int) -> ConfigError | DeviceError:
    """The error of a load that failed; `reason` is a status, or an exception of the binding.

    Assumption (not verified on hardware): such an exception names the status in its text.
    """
    named = re.search(r"QS_[A-Z_]+", str(reason))
    if isinstance(reason, Exception) and named is None:
        return DeviceError(f"aic device {device_id}: loading failed: {reason}", device_id)
    name = named.group() if named else name_of(reason)
    kind, problem, mend = _MEANINGS.get(name, _UNKNOWN)
    message = f"aic device {device_id}: the program was not loaded, {problem} ({name}): {mend}"
    return ConfigError(message) if name in _OPERATOR else DeviceError(message, device_id, kind=kind)
