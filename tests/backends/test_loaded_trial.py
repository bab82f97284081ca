"""Trials on a device that has loaded the program."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from qaic_sched.backends.loaded_trial import try_loaded
from qaic_sched.errors import DeviceError
from qaic_sched.program import Program, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.backends.base import Executable, OnCompleted
    from qaic_sched.backends.row_finding import RowFinding

SPEC = TensorSpec("x", (4, 2), np.dtype(np.float32))
PROGRAM = Program.of([SPEC], [TensorSpec("y", (4, 2), SPEC.dtype)])


class Loaded:
    """An executable whose activations are 3 and 5, and which answers at once."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self.device_id, self.room = 7, {5: 2.0, 3: 2.0}
        self.used: set[int] = set()
        self._compute = compute

    def submit(self, activation: int, inputs: Any, on_completed: OnCompleted) -> None:
        """Answer with the outputs, or with the error that the computation returns."""
        self.used.add(activation)
        answer = self._compute(inputs["x"])
        on_completed(answer if isinstance(answer, DeviceError) else {"y": answer}, 0.0)


def found(loaded: Loaded, **options: Any) -> RowFinding:
    """The finding of a trial."""
    executable = cast("Executable", loaded)
    return asyncio.run(try_loaded(PROGRAM, executable, is_fp16=False, **options))


def test_the_first_activation_is_tried() -> None:
    """One that exists, whatever its index is."""
    loaded = Loaded(lambda x: 2 * x)
    assert found(loaded).rows == "shared"
    assert loaded.used == {3}
    assert found(Loaded(lambda x: np.cumsum(x, 0))).rows == "own"


def test_a_failed_inference_says_something_of_the_program() -> None:
    """It rejects such values; the device is well."""
    finding = found(Loaded(lambda _: DeviceError("bad values", 7)))
    assert "bad values" in finding.reason


@pytest.mark.parametrize("kind", ["lost", "restarted", "stuck"])
def test_a_device_in_trouble_is_an_error(kind: Any) -> None:
    """Nothing was found out about the program."""
    with pytest.raises(DeviceError, match="gone"):
        found(Loaded(lambda _: DeviceError("gone", 7, kind=kind)))
