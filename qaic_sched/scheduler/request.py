"""The handle that `submit` returns: one request as its caller sees it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from qaic_sched.core.model import RequestState
from qaic_sched.scheduler.api import Inference
from qaic_sched.scheduler.explain import explain
from qaic_sched.tensors import allocate_outputs, copy_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from qaic_sched.core.model import Batch, Part, Request
    from qaic_sched.errors import SchedulerError
    from qaic_sched.program import Program, Tensors
    from qaic_sched.scheduler.explain import Explanation, Sent

__all__ = ["ScheduledRequest"]

_DONE: Final = RequestState.DONE


class ScheduledRequest:
    """A submitted request; await it for its outputs, from any number of tasks.

    Awaiting returns the outputs, a dict of output name to array with one row per sample, or raises
    the request's error. Cancelling a task that awaits the request cancels the request. Returned by
    `Scheduler.submit`; use it on the scheduler's event loop only.
    """

    __slots__ = (
        "_callbacks",
        "_cancel",
        "_completed_by",
        "_error",
        "_future",
        "_outputs",
        "_resolved_at",
        "core",
        "inputs",
        "sent",
    )

    def __init__(
        self, core: Request, inputs: Tensors, cancel: Callable[[ScheduledRequest], None]
    ) -> None:
        self.core = core
        """The core's record of the request; read only."""
        self.inputs = inputs
        """The validated inputs."""
        self.sent: Sent | None = None
        """The parts that were sent, and their batches; written by the shell."""
        self._cancel = cancel
        self._outputs: Tensors | None = None
        self._error: SchedulerError | None = None
        self._future: asyncio.Future[None] | None = None
        self._callbacks: list[Callable[[ScheduledRequest], object]] | None = None
        self._completed_by: dict[Part, Batch] | None = None
        self._resolved_at: float

    def __await__(self) -> Generator[object, None, Tensors]:
        # A future costs time: it is made only if there is something to wait for.
        if not self.done():
            if self._future is None:
                self._future = asyncio.get_running_loop().create_future()
            try:
                yield from self._future
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self.result()

    def __repr__(self) -> str:
        return f"<ScheduledRequest {self.core.id} {self.core.state.value}>"

    @property
    def samples(self) -> int:
        """The number of samples in the request."""
        return self.core.samples

    def done(self) -> bool:
        """Return True once the request is resolved, with outputs or without."""
        return self.core.is_resolved

    def cancelled(self) -> bool:
        """Return True if the caller cancelled the request."""
        return self.core.state is RequestState.CANCELLED and self._error is None

    def result(self) -> Tensors:
        """Return the outputs or raise the request's error.

        Raises `asyncio.CancelledError` if the request was cancelled and
        `asyncio.InvalidStateError` if it is not resolved yet.
        """
        if self._error is not None:
            raise self._error
        if self.core.state is _DONE and self._outputs is not None:
            return self._outputs
        if self.core.state is RequestState.CANCELLED:
            raise asyncio.CancelledError
        raise asyncio.InvalidStateError(f"{self!r} is not done")

    def cancel(self) -> bool:
        """Cancel the request; return False if it was resolved already.

        A queued request leaves the queue. An inference that a device has begun runs to its end,
        and its outputs are dropped.
        """
        if self.done():
            return False
        self._cancel(self)
        return True

    def add_done_callback(self, callback: Callable[[ScheduledRequest], object]) -> None:
        """Schedule `callback(request)` on the event loop once the request is resolved."""
        if not callable(callback):
            raise TypeError(f"{callback!r} is not callable")
        if self.done():
            asyncio.get_running_loop().call_soon(callback, self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    @property
    def outcome(self) -> str:
        """How the request ended: "done", "failed", "cancelled", "expired" or "rejected".

        Raises `asyncio.InvalidStateError` if the request is not resolved yet.
        """
        core = self.core
        if core.state is _DONE:
            return "done"  # most are, and reading an Enum's value is slow
        if not core.is_resolved:
            raise asyncio.InvalidStateError(f"{self!r} is not done")
        outcome: str = core.state.value
        return outcome

    @property
    def inference(self) -> Inference | None:
        """The inference that produced the outputs; None if there was none, or more than one."""
        core, sent = self.core, self.sent
        batch = core.last_batch
        if core.state is not _DONE or batch is None or sent is None:
            return None
        # If the first part sent had all samples, so had every retry and every hedge of it.
        if sent[0].samples != core.samples:
            return None
        activation = batch.activation
        return Inference(
            batch.id,
            activation.device_id,
            activation.index,
            batch.submitted_at,
            batch.started_at,
            batch.completed_at,
        )

    def explain(self) -> Explanation:
        """Explain where the parts of the request ran and where its time went, however it ended.

        Raises `asyncio.InvalidStateError` if the request is not resolved yet.
        """
        if not self.done():
            raise asyncio.InvalidStateError(f"{self!r} is not done")
        completed_by = self._completed_by or {}
        return explain(self.core, self.sent, completed_by, self._resolved_at, self._error)

    # For the shell

    def receive(
        self, program: Program, outputs: Tensors, row: int, part: Part, batch: Batch
    ) -> None:
        """Keep the outputs of one part, which start at `row` of the batch's outputs."""
        samples = self.core.samples
        if part.samples == samples:
            if samples == batch.size:
                self._outputs = outputs
                return
        elif self._completed_by is None:
            self._completed_by = {part: batch}
        else:
            self._completed_by.setdefault(part, batch)
        if self._outputs is None:
            self._outputs = allocate_outputs(program, samples)
        copy_rows(outputs, row, self._outputs, part.offset, part.samples)

    def resolve(self, error: SchedulerError | None, now: float) -> None:
        """Wake the callers: the core has resolved the request.

        Without an `error` the request is done, or its caller cancelled it.
        """
        self._error = error
        self._resolved_at = now
        if error is not None:
            self._outputs = None
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
        if self._callbacks is not None:
            self._call_back(self._callbacks)

    def _call_back(self, callbacks: list[Callable[[ScheduledRequest], object]]) -> None:
        loop = asyncio.get_running_loop()
        for callback in callbacks:
            try:
                loop.call_soon(callback, self)
            except Exception as error:  # in debug mode, asyncio refuses a coroutine function
                loop.call_exception_handler({"message": "add_done_callback", "exception": error})
