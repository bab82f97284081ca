"""The errors of requests and of batches, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from qaic_sched.core.model import Fault, RequestState
from qaic_sched.errors import (
    DeadlineExceededError,
    DeviceError,
    InputError,
    NoDeviceError,
    QueueFullError,
    SchedulerClosedError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qaic_sched.core.model import Batch, Request
    from qaic_sched.errors import SchedulerError

__all__ = ["batch_error", "error_of", "fault_of", "receive_error", "text_of"]

_FAULTS: Final[dict[object, Fault]] = {each.value: each for each in Fault}


def error_of(
    core: Request, errors: Mapping[int, DeviceError], *, is_closed: bool
) -> SchedulerError | None:
    """Return the error of a resolved request that has no outputs; None if its caller cancelled it.

    `errors` has the errors of batches by id.
    """
    if core.state is RequestState.FAILED and core.last_batch is None:
        return NoDeviceError("every device is in quarantine; they are being probed")
    if core.state is RequestState.FAILED and core.last_batch is not None:
        device_id = core.last_batch.activation.device_id
        # Any: compiled, an attribute of a type that was not declared would raise here.
        cause: Any = errors.get(core.last_batch.id) or DeviceError(
            f"device {device_id} did not answer in time", device_id, kind="stuck"
        )
        # A new error for each caller: a raised exception collects tracebacks.
        error: SchedulerError
        if fault_of(cause) is Fault.INPUT:
            error = InputError(f"the values of the inputs were rejected: {text_of(cause)}")
        else:
            error = DeviceError(text_of(cause), cause.device_id, kind=cause.kind)
        error.__cause__ = cause
        return error
    if core.state is RequestState.EXPIRED and core.deadline is not None:
        stay = core.deadline - core.accepted_at
        return DeadlineExceededError(f"not done within timeout_s = {stay:g} s")
    if core.state is RequestState.REJECTED:
        return QueueFullError(_refusal(core), core.retry_after_s, core.wait_s)
    if is_closed:
        return SchedulerClosedError("the scheduler was closed before the request was done")
    return None


def fault_of(error: DeviceError) -> Fault:
    """Return what an error means to the core; a kind that is unknown is one inference only."""
    kind: object = getattr(error, "kind", None)
    return _FAULTS.get(kind, Fault.INFERENCE) if isinstance(kind, str) else Fault.INFERENCE


def batch_error(batch: Batch, what: str, cause: BaseException | None = None) -> DeviceError:
    """Return the error of a batch of which something failed that is not the device's own report."""
    activation = batch.activation
    because = "" if cause is None else f": {type(cause).__name__}: {text_of(cause)}".rstrip(": ")
    error = DeviceError(
        f"device {activation.device_id}, activation {activation.index}: {what}{because}",
        activation.device_id,
    )
    # Without its traceback, whose frames would keep the arrays alive.
    error.__cause__ = None if cause is None else cause.with_traceback(None)
    return error


def receive_error(batch: Batch, samples: int, cause: BaseException) -> DeviceError:
    """Return the error of one request whose outputs could not be copied to its caller."""
    return batch_error(batch, f"the outputs of {samples} samples cannot be joined", cause)


def text_of(error: BaseException) -> str:
    """Return the message of an error; errors of others may fail even to give that."""
    try:
        return str(error)
    except Exception:
        return "its message cannot be read"


def _refusal(core: Request) -> str:
    if core.wait_s is None or core.deadline is None:
        return f"the queue has no room for {core.samples} more samples"
    stay_s = core.deadline - core.accepted_at
    return f"it would be done in {core.wait_s:.3g} s, not within timeout_s = {stay_s:.3g} s"
