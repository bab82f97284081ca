"""A scheduler in this process as the target of a load test.

Rules of this file:
- For each request it does nothing but submit it and translate its outcome: the cost of this file
  is measured together with the scheduler's.
- A reply names an inference only if a single one produced the outputs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qaic_sched.errors import QueueFullError, SchedulerClosedError, SchedulerError
from qaic_sched.loadgen.targets.base import DeviceSample, Outcome, Reply, Target, TargetInfo
from qaic_sched.program import Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.program import Tensors
    from qaic_sched.scheduler.api import RequestHandle, SchedulerApi

__all__ = ["SchedulerTarget"]

_OUTCOMES = {
    "done": Outcome.DONE,
    "failed": Outcome.FAILED,
    "expired": Outcome.EXPIRED,
    "rejected": Outcome.REJECTED,
    "cancelled": Outcome.CANCELLED,
}


class SchedulerTarget(Target):
    """One model of a scheduler. A scheduler that is not open yet is opened here, and closed."""

    def __init__(self, scheduler: SchedulerApi, model: str | None = None) -> None:
        self._scheduler = scheduler
        self._model = model
        self._is_open = False
        self._is_ours = False
        self._out: dict[RequestHandle, Callable[[Reply], None]] = {}

    async def open(self) -> TargetInfo:
        """Open the scheduler unless it is open; its errors go to the caller."""
        scheduler = self._scheduler
        try:
            program = scheduler.program_of(self._model)
        except SchedulerClosedError:
            await scheduler.__aenter__()
            self._is_ours = True
            program = scheduler.program_of(self._model)
        self._is_open = True
        devices = scheduler.statistics(model=self._model).devices
        config = scheduler.config_for_report(model=self._model)
        name = next(iter(scheduler.programs)) if self._model is None else self._model
        return TargetInfo(
            name=name or config["model"],
            inputs=program.inputs,
            max_batch_size=program.max_batch_size,
            is_batched=program.is_batched and program.rows is not Rows.EXACT,
            activations={each: device.num_activations for each, device in devices.items()},
            config=config,
        )

    def send(self, inputs: Tensors, timeout_s: float | None, done: Callable[[Reply], None]) -> None:
        """Submit one request; an error of `submit` becomes a reply like any other."""
        try:
            request = self._scheduler.submit(inputs, timeout_s=timeout_s, model=self._model)
        except Exception as error:  # also memory that is not there
            reply = Reply(Outcome.FAILED, problem=_text(error))
            asyncio.get_running_loop().call_soon(done, reply)
            return
        self._out[request] = done
        request.add_done_callback(self._resolved)

    def sample(self) -> DeviceSample | None:
        """Return the totals of all devices, removed ones included, and the length of the queue."""
        if not self._is_open:
            return None
        queued_samples, devices = self._scheduler.totals(model=self._model)
        return DeviceSample(
            0,
            queued_samples,
            {device_id: busy_s for device_id, (_, busy_s) in devices.items()},
            {device_id: inferences for device_id, (inferences, _) in devices.items()},
        )

    async def aclose(self) -> None:
        """Cancel outstanding requests; close the scheduler if it was opened here."""
        for request in list(self._out):
            request.cancel()
        if self._is_ours:
            await self._scheduler.aclose()

    def _resolved(self, request: RequestHandle) -> None:
        done = self._out.pop(request)
        outcome = _OUTCOMES[request.outcome]
        if outcome is Outcome.DONE:
            done(Reply(outcome, request.result(), None, request.inference))
        else:
            done(Reply(outcome, problem=_problem(request)))


def _problem(request: RequestHandle) -> str:
    try:
        request.result()
    except QueueFullError as error:
        if error.wait_s is None:
            return _text(error)
        # The error's own text has the time that it would have taken: different for each request.
        return "QueueFullError: it would not be done within timeout_s"
    except SchedulerError as error:
        return _text(error)
    except asyncio.CancelledError:
        pass
    return "cancelled"


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
