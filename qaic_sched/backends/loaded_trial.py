"""Tries the rows of a program on a device that has loaded it."""

from __future__ import annotations

import time
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from qaic_sched.backends.row_finding import RowFinding
from qaic_sched.backends.row_trial import LIMIT_S, try_rows
from qaic_sched.backends.threads import in_thread
from qaic_sched.errors import DeviceError

if TYPE_CHECKING:
    from qaic_sched.backends.base import Executable
    from qaic_sched.program import Program, Tensors

__all__ = ["try_loaded"]


async def try_loaded(program: Program, executable: Executable, *, is_fp16: bool) -> RowFinding:
    """Try a program on the first activation of an executable that holds no inference."""
    find = partial(_try, program, executable, is_fp16)
    try:
        return await in_thread(find, "qaic-trial", 2 * LIMIT_S)
    except TimeoutError:
        reason = f"unknown: the trial took longer than {2 * LIMIT_S:g} s"
        return RowFinding(rows="own", may_pad=False, is_final=False, reason=reason)


def _try(program: Program, executable: Executable, is_fp16: bool) -> RowFinding:
    ends_at = time.monotonic() + LIMIT_S
    activation = min(executable.room)

    def run(inputs: Tensors) -> Tensors:
        future: Future[Tensors | DeviceError] = Future()
        executable.submit(activation, inputs, lambda answer, _at: future.set_result(answer))
        answer = future.result(max(ends_at - time.monotonic(), 0.0))
        if isinstance(answer, DeviceError):
            raise answer
        return answer

    return try_rows(program, run, time.monotonic, is_fp16=is_fp16)
