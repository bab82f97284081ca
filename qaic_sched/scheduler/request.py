"""What `submit` returns: one request as its caller sees it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from qaic_sched.core.model import RequestState
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
    """A request that may be awaited, by any number of tasks, and cancelled.

    Awaiting gives the outputs or raises what went wrong. Cancelling a task that awaits it cancels
    the request. Made by `Scheduler.submit`, to be used on the scheduler's event loop.
    """

    __slots__ = (
        "_answered",
        "_callbacks",
        "_cancel",
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
        """What came in, as the program takes it."""
        self.sent: Sent | None = None
        """The batches that its parts were sent in; the shell's to write."""
        self._cancel = cancel
        self._outputs: Tensors | None = None
        self._error: SchedulerError | None = None
        self._future: asyncio.Future[None] | None = None
        self._callbacks: list[Callable[[ScheduledRequest], None]] | None = None
        self._answered: dict[Part, Batch] | None = None
        self._resolved_at: float

    def __await__(self) -> Generator[object, None, Tensors]:
        # A future is made only where somebody has to wait.
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

    def done(self) -> bool:
        """Whether the request is resolved: answered, failed, expired or cancelled."""
        return self.core.is_resolved

    def cancelled(self) -> bool:
        """Whether the request was cancelled by its caller."""
        return self.core.state is RequestState.CANCELLED and self._error is None

    def result(self) -> Tensors:
        """The outputs, or the error raised; only once it is done."""
        if self._error is not None:
            raise self._error
        if self.core.state is _DONE and self._outputs is not None:
            return self._outputs
        if self.core.state is RequestState.CANCELLED:
            raise asyncio.CancelledError
        raise asyncio.InvalidStateError(f"{self!r} is not done")

    def cancel(self) -> bool:
        """Give the request up; False if it is resolved already.

        A queued request leaves the queue; one in flight has its result dropped.
        """
        if self.done():
            return False
        self._cancel(self)
        return True

    def add_done_callback(self, callback: Callable[[ScheduledRequest], None]) -> None:
        """Call back once the request is resolved, from the loop; soon, if it already is."""
        if self.done():
            asyncio.get_running_loop().call_soon(callback, self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def explain(self) -> Explanation:
        """Where its parts ran and where its time went, whatever became of it; once it is done."""
        if not self.done():
            raise asyncio.InvalidStateError(f"{self!r} is not done")
        answered = self._answered or {}
        return explain(self.core, self.sent, answered, self._resolved_at, self._error)

    # For the scheduler

    def receive(
        self, program: Program, outputs: Tensors, row: int, part: Part, batch: Batch
    ) -> None:
        """Keep the rows of one part, which start at `row` of a batch's outputs."""
        samples = self.core.samples
        if part.samples == samples:
            if samples == batch.size:
                self._outputs = outputs
                return
        elif self._answered is None:
            self._answered = {part: batch}
        else:
            self._answered.setdefault(part, batch)
        if self._outputs is None:
            self._outputs = allocate_outputs(program, samples)
        copy_rows(outputs, row, self._outputs, part.offset, part.samples)

    def settle(self, error: SchedulerError | None, now: float) -> None:
        """Tell whoever waits that the request is resolved; `error` None means done or cancelled."""
        self._error = error
        self._resolved_at = now
        if error is not None:
            self._outputs = None
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
        if self._callbacks is not None:
            for callback in self._callbacks:
                asyncio.get_running_loop().call_soon(callback, self)
