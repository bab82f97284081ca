"""A scheduler in this process as what is measured.

Rules of this file:
- It does nothing per request but hand it in and translate what became of it: what it costs is
  measured with the rest.
- Where a request went in several parts, no inference is told: there was none that answered it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from qaic_sched.core.model import RequestState
from qaic_sched.errors import SchedulerClosedError, SchedulerError
from qaic_sched.loadgen.targets.base import (
    DeviceSample,
    Inference,
    Outcome,
    Reply,
    Target,
    TargetInfo,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.program import Tensors
    from qaic_sched.scheduler.front import Scheduler
    from qaic_sched.scheduler.request import ScheduledRequest
    from qaic_sched.scheduler.shell import Shell

__all__ = ["SchedulerTarget"]

_OUTCOMES = {
    RequestState.FAILED: Outcome.FAILED,
    RequestState.EXPIRED: Outcome.EXPIRED,
    RequestState.REJECTED: Outcome.REJECTED,
    RequestState.CANCELLED: Outcome.CANCELLED,
}


class SchedulerTarget(Target):
    """Sends to one model of a scheduler; opens it, and closes it again, if it is not open yet."""

    def __init__(self, scheduler: Scheduler, model: str | None = None) -> None:
        self._scheduler = scheduler
        self._model = model
        self._shell: Shell | None = None
        self._is_ours = False
        self._out: dict[ScheduledRequest, Callable[[Reply], None]] = {}

    async def open(self) -> TargetInfo:
        """Open the scheduler if nobody has; what it raises then goes to the caller."""
        try:
            self._shell = shell = self._scheduler.shell_of(self._model)
        except SchedulerClosedError:
            await self._scheduler.__aenter__()
            self._is_ours = True
            self._shell = shell = self._scheduler.shell_of(self._model)
        devices = shell.statistics().devices
        configs = self._scheduler.configs
        name = next(iter(configs)) if self._model is None else self._model
        return TargetInfo(
            name=name or configs[name].model,
            inputs=shell.program.inputs,
            max_batch_size=shell.program.max_batch_size,
            is_batched=shell.program.is_batched,
            activations={each: device.num_activations for each, device in devices.items()},
            config=msgspec.to_builtins(configs[name]),
        )

    def send(self, inputs: Tensors, timeout_s: float | None, done: Callable[[Reply], None]) -> None:
        """Submit one request; what `submit` raises of its own is a reply like others."""
        try:
            request = self._scheduler.submit(inputs, timeout_s=timeout_s, model=self._model)
        except SchedulerError as error:
            reply = Reply(Outcome.FAILED, problem=_text(error))
            asyncio.get_running_loop().call_soon(done, reply)
            return
        self._out[request] = done
        request.add_done_callback(self._resolved)

    def sample(self) -> DeviceSample | None:
        """The devices' totals as the metrics have them, and the queue, removed devices included."""
        shell = self._shell
        if shell is None:
            return None
        totals = shell.metrics.totals()
        return DeviceSample(
            0,
            shell.core.statistics().queued_samples,
            {device_id: busy_s for device_id, (_, busy_s) in totals.items()},
            {device_id: inferences for device_id, (inferences, _) in totals.items()},
        )

    async def aclose(self) -> None:
        """Give up what is out; close the scheduler if it was opened here."""
        for request in list(self._out):
            request.cancel()
        if self._is_ours:
            await self._scheduler.aclose()

    def _resolved(self, request: ScheduledRequest) -> None:
        done = self._out.pop(request)
        core = request.core
        if core.state is not RequestState.DONE:
            done(Reply(_OUTCOMES[core.state], problem=_problem(request)))
            return
        inference = None
        batch, sent = core.last_batch, request.sent
        # The first part that was sent had all the samples: so had every repetition of it.
        if batch is not None and sent is not None and sent[0].samples == core.samples:
            activation = batch.activation
            inference = Inference(
                batch.id,
                activation.device_id,
                activation.index,
                batch.submitted_at,
                batch.started_at,
                batch.completed_at,
            )
        done(Reply(Outcome.DONE, request.result(), None, inference))


def _problem(request: ScheduledRequest) -> str:
    if request.core.state is RequestState.REJECTED and request.core.wait_s is not None:
        # The error says how long it would have taken: another sentence for each request.
        return "QueueFullError: it would not be done within timeout_s"
    try:
        request.result()
    except SchedulerError as error:
        return _text(error)
    except asyncio.CancelledError:
        pass
    return "cancelled"


def _text(error: SchedulerError) -> str:
    return f"{type(error).__name__}: {error}"
