"""Tries the rows of a program on a device that has loaded it."""

from __future__ import annotations

import time
from concurrent import futures
from functools import partial
from typing import TYPE_CHECKING

from qaic_sched.backends.row_trial import LIMIT_S, try_rows
from qaic_sched.backends.threads import in_thread
from qaic_sched.errors import DeviceError

if TYPE_CHECKING:
    from qaic_sched.backends.base import Executable
    from qaic_sched.backends.row_finding import RowFinding
    from qaic_sched.program import Program, Tensors

__all__ = ["try_loaded"]

ANSWER_LIMIT_S = LIMIT_S
"""A device that takes longer for one inference is stuck."""


async def try_loaded(program: Program, executable: Executable, *, is_fp16: bool) -> RowFinding:
    """Try a program on the first activation of an executable that holds no inference.

    Raises `DeviceError` if the device is in trouble: lost, restarted, or without an answer. A
    failed inference says something of the program only.
    """
    return await in_thread(partial(_try, program, executable, is_fp16), "qaic-trial")


def _try(program: Program, executable: Executable, is_fp16: bool) -> RowFinding:
    activation, device_id = min(executable.room), executable.device_id
    trouble: list[DeviceError] = []

    def run(inputs: Tensors) -> Tensors:
        if trouble:
            raise trouble[0]
        future: futures.Future[Tensors | DeviceError] = futures.Future()
        executable.submit(activation, inputs, lambda answer, _at: future.set_result(answer))
        try:
            answer = future.result(ANSWER_LIMIT_S)
        except futures.TimeoutError:
            problem = f"device {device_id} did not answer its first inferences"
            message = f"{problem} within {ANSWER_LIMIT_S:g} s"
            answer = DeviceError(message, device_id, kind="stuck")
        if isinstance(answer, DeviceError):
            if answer.kind != "inference":
                trouble.append(answer)
            raise answer
        return answer

    finding = try_rows(program, run, time.monotonic, is_fp16=is_fp16)
    if trouble:
        raise trouble[0]
    return finding
