"""The meaning of each status of the runtime."""

from __future__ import annotations

import pytest

from qaic_sched.backends.aic.status import inference_error, load_error, name_of
from qaic_sched.errors import ConfigError, DeviceError
from tests.standin.qaicrt import QStatus

KINDS = {
    "QS_PERM": "lost",
    "QS_BADFD": "lost",
    "QS_NODEV": "lost",
    "QS_AGAIN": "restarted",
    "QS_DEV_ERROR": "restarted",
    "QS_TIMEDOUT": "stuck",
    "QS_INVAL": "input",
}


@pytest.mark.parametrize("status", [each for each in QStatus if each is not QStatus.QS_SUCCESS])
def test_every_status_of_an_inference(status: QStatus) -> None:
    """Each status becomes an error with its name, the device and the kind of failure."""
    error = inference_error(status, 3, 1, 0.01)
    assert (error.device_id, error.kind) == (3, KINDS.get(status.name, "inference"))
    assert "aic device 3, activation 1: an inference failed, " in str(error)
    assert f"({status.name}): " in str(error)
    assert "unknown to qaic_sched" not in str(error)


@pytest.mark.parametrize(("waited_s", "kind"), [(0.1, "inference"), (30.0, "stuck")])
def test_an_error_after_a_long_wait_is_a_stuck_inference(waited_s: float, kind: str) -> None:
    """QS_ERROR after a long wait is `stuck`: the runtime has no other status for it."""
    assert inference_error(QStatus.QS_ERROR, 0, 0, waited_s).kind == kind


def test_a_status_of_a_newer_runtime() -> None:
    """An unknown status is reported by its name."""
    assert "unknown to qaic_sched (QS_NEW)" in str(inference_error("QS_NEW", 0, 0, 0.0))
    assert name_of(QStatus.QS_BUSY) == "QS_BUSY"


@pytest.mark.parametrize(
    "name", ["QS_INVAL", "QS_UNSUPPORTED", "QS_PROTOCOL", "QS_NOMEM", "QS_NOSPC"]
)
def test_a_load_that_cannot_fit(name: str) -> None:
    """A failed load that another model or configuration would avoid is a `ConfigError`."""
    assert isinstance(load_error(QStatus[name], 0), ConfigError)
    assert isinstance(load_error(RuntimeError(f"Failed to load: {name}"), 0), ConfigError)


@pytest.mark.parametrize(
    ("reason", "kind", "problem"),
    [
        (QStatus.QS_NODEV, "lost", "gone or offline"),
        (RuntimeError("Failed to load: QS_DEV_ERROR"), "restarted", "QS_DEV_ERROR"),
        (RuntimeError("no idea"), "inference", "loading failed: no idea"),
    ],
)
def test_a_load_that_the_device_fails(reason: object, kind: str, problem: str) -> None:
    """A fault of the device is a `DeviceError`, from a status and from an exception alike."""
    error = load_error(reason, 2)
    assert isinstance(error, DeviceError)
    assert (error.device_id, error.kind) == (2, kind)
    assert problem in str(error)
