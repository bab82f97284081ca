"""The injector: sends requests when they are due, and records the outcome of each.

Rules of this file:
- An open loop never waits for an answer. A late request is sent at once, and the records show how
  late it was: latency counts from the planned instant.
- In a closed loop a caller sends its next request when it has its answer. After a request that was
  not done it pauses for `_PAUSE_S`, so that a target does not spend its time on rejecting.
- There is no task per request: timers and callbacks, and one future for the end.
- Nothing is lost: a request has its row before it is sent, whatever the target does.
- An interrupted run keeps all requests that were due, and awaits the outstanding answers.
- Times are the event loop's, so a run in virtual time is exact. Timers of real loops are not:
  asyncio's fire up to 1 ms late, uvloop's up to 1 ms early or late (after an early one, the
  injector spins for the rest). A precise run spins for the last `_SPIN_S` before each send.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from qaic_sched.clock import clock_of
from qaic_sched.errors import ConfigError
from qaic_sched.loadgen.inject.gc_freeze import gc_frozen
from qaic_sched.loadgen.inject.rows import Rows
from qaic_sched.loadgen.inject.sampler import Sampler
from qaic_sched.loadgen.targets.base import Outcome, Reply
from qaic_sched.metrics.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from qaic_sched.loadgen.inject.records import Records
    from qaic_sched.loadgen.plan.inputs import InputLibrary
    from qaic_sched.loadgen.plan.plan import Plan
    from qaic_sched.loadgen.targets.base import Target, TargetInfo

    OnReply = Callable[[int, Reply], None]

__all__ = ["RunCounters", "inject"]

_SPIN_S = 0.0015
_PAUSE_S = 0.001
_MAX_SENDS_PER_TURN = 64
"""Limit for one turn of the loop, so that answers are handled even while sending is late."""
_MAX_PROBLEM_CHARS = 300


@dataclass(slots=True)
class RunCounters:
    """Counters of a run, kept by the injector; may be read at any time."""

    planned: int | None = None
    """Requests of the whole run; None in a closed loop, where the number is not known."""
    sent: int = 0
    done: int = 0
    """Requests that were answered, errors included."""
    errors: int = 0
    latency: Histogram = field(default_factory=Histogram)
    """Seconds from the planned instant to the answer, of requests without an error."""


async def inject(
    target: Target,
    info: TargetInfo,
    plan: Plan,
    planned_ns: NDArray[np.int64] | None,
    inputs: InputLibrary,
    *,
    on_reply: OnReply | None = None,
    progress: RunCounters | None = None,
    starts_at: float | None = None,
    interrupted: asyncio.Future[None] | None = None,
) -> Records:
    """Run a plan against an open target and return the records.

    Requests are sent at `planned_ns`; None makes a closed loop. `on_reply` gets the row and the
    reply of each request, `progress` is kept up to date, and `starts_at` is the instant of the
    loop's clock that counts as 0, by default now. A request without an answer `plan.drain_s` after
    the last send is `UNRESOLVED`. When the future `interrupted` is done, sending stops. Raises
    `ConfigError` for a plan that sends nothing.
    """
    _check(plan)
    kind = _ClosedLoop if planned_ns is None else _OpenLoop
    run = kind(
        target, info, plan, planned_ns, inputs, on_reply, progress or RunCounters(), starts_at
    )
    if interrupted is not None:
        interrupted.add_done_callback(run.interrupt)
    try:
        with gc_frozen():
            return await run.records()
    finally:
        run.stop()
        if interrupted is not None:
            interrupted.remove_done_callback(run.interrupt)


def _check(plan: Plan) -> None:
    if plan.concurrency < 1:
        raise ConfigError(f"concurrency: must be at least 1, not {plan.concurrency}")
    if not plan.duration_s > 0:
        raise ConfigError(f"duration_s: must be above 0, not {plan.duration_s:g}")
    if plan.max_requests is not None and plan.max_requests < 1:
        raise ConfigError(f"max_requests: must be at least 1, not {plan.max_requests}")


class _Injection:
    """Common to both loops: sending a row, recording its answer, and the end."""

    def __init__(
        self,
        target: Target,
        info: TargetInfo,
        plan: Plan,
        planned_ns: NDArray[np.int64] | None,
        inputs: InputLibrary,
        on_reply: OnReply | None,
        progress: RunCounters,
        starts_at: float | None,
    ) -> None:
        self._target = target
        self._plan = plan
        self._inputs = inputs
        self._on_reply = on_reply
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self._clock = clock_of(self._loop)
        self._rows = Rows(planned_ns)
        # After the allocation, which takes a second for millions of rows.
        self._origin = self._clock() if starts_at is None else starts_at
        self._rows.origin = self._origin
        self._sampler = Sampler(target, self._clock, self._origin, plan.duration_s)
        self._has_devices = bool(info.activations)
        progress.planned = None if planned_ns is None else len(planned_ns)
        self._next = 0
        """The row of the next request."""
        self._unanswered = 0
        self._is_sending = False
        self._is_all_sent = False
        self._is_over = False
        self._timer: asyncio.Handle | None = None
        self._finished: asyncio.Future[int] = self._loop.create_future()

    async def records(self) -> Records:
        """Run to the last answer, or to the end of the drain."""
        self._timer = self._loop.call_at(self._origin, self._begin)
        ended_ns = await self._finished
        records = self._rows.records(self._count())
        records.ended_ns = ended_ns
        if self._has_devices:
            self._sampler.take()
        records.device_samples = self._sampler.samples
        return records

    def interrupt(self, _: object = None) -> None:
        """Stop sending; outstanding answers are awaited."""
        if self._is_all_sent or self._is_over:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._end_sending()

    def stop(self) -> None:
        """Stop sending and recording."""
        self._is_over = True
        self._sampler.stop()
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        if self._clock() < self._origin:  # uvloop's timers may be early
            self._timer = self._loop.call_soon(self._begin)
            return
        if self._has_devices:
            self._sampler.start()
        self._wake()

    def _wake(self) -> None:
        """Send the requests that are due, and schedule the next call."""
        raise NotImplementedError

    def _count(self) -> int:
        """Return the number of rows that the records have."""
        return self._next

    def _now_ns(self) -> int:
        return round((self._clock() - self._origin) * 1e9)

    def _send(self, now_ns: int) -> None:
        """Send the request of the next row, whose planned instant is set."""
        row = self._next
        self._next = row + 1
        self._rows.sent[row] = now_ns
        self._unanswered += 1
        self._progress.sent += 1
        inputs = self._inputs
        self._is_sending = True
        try:
            self._target.send(
                inputs[inputs.index_of(row)], self._plan.timeout_s, partial(self._answered, row)
            )
        except Exception as error:
            # The target is broken; the run goes on and keeps its measurements.
            problem = f"{type(error).__name__}: {error}"[:_MAX_PROBLEM_CHARS]
            self._loop.call_soon(self._answered, row, Reply(Outcome.FAILED, problem=problem))
        self._is_sending = False

    def _answered(self, row: int, reply: Reply) -> None:
        if self._is_over:
            return
        now_ns = self._now_ns()
        self._rows.note(row, reply, now_ns)
        self._unanswered -= 1
        progress = self._progress
        progress.done += 1
        if reply.outcome is Outcome.DONE:
            progress.latency.record((now_ns - self._rows.planned[row]) * 1e-9)
        else:
            progress.errors += 1
        if self._is_all_sent:
            if not self._unanswered:
                self._finish()
        else:
            self._caller_is_free(reply)
        if self._on_reply is not None:
            self._on_reply(row, reply)

    def _caller_is_free(self, reply: Reply) -> None:
        """Handle an answer while requests are still being sent."""

    def _end_sending(self) -> None:
        self._is_all_sent = True
        if self._unanswered:
            self._timer = self._loop.call_later(self._plan.drain_s, self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        self._is_over = True
        if not self._finished.done():
            self._finished.set_result(self._now_ns())


class _OpenLoop(_Injection):
    """Sends at the planned instants, regardless of answers."""

    _waited_at = -1.0
    _due: int | None = None
    """The number of rows that were due at the interruption, sent or not."""

    def interrupt(self, _: object = None) -> None:
        if not self._is_all_sent and not self._is_over:
            due = bisect_right(self._rows.planned, self._now_ns())
            self._due = max(self._next, due)
        super().interrupt()

    def _count(self) -> int:
        return self._rows.size if self._due is None else self._due

    def _wake(self) -> None:
        planned, end = self._rows.planned, self._rows.size
        for _ in range(_MAX_SENDS_PER_TURN):
            if self._next == end:
                self._end_sending()
                return
            now_ns = self._now_ns()
            if planned[self._next] > now_ns:
                self._wait_until(planned[self._next])
                return
            self._send(now_ns)
        self._timer = self._loop.call_soon(self._wake)

    def _wait_until(self, planned_ns: int) -> None:
        at = self._origin + planned_ns * 1e-9
        now = self._clock()
        # If the clock has not moved since the last wait it is virtual, and its timers are exact.
        if self._plan.is_precise and now != self._waited_at:
            self._waited_at = now
            if at - now <= _SPIN_S:
                self._timer = self._loop.call_soon(self._wake)
                return
            at -= _SPIN_S
        self._timer = self._loop.call_at(at, self._wake)


class _ClosedLoop(_Injection):
    """Keeps `plan.concurrency` requests outstanding, until time or number of requests is over."""

    _num_callers = 0

    def _wake(self) -> None:
        """Start the callers, some in each turn of the loop."""
        for _ in range(_MAX_SENDS_PER_TURN):
            if self._is_all_sent:
                return
            if self._num_callers == self._plan.concurrency:
                end = self._origin + self._plan.duration_s
                self._timer = self._loop.call_at(end, self._end_sending)
                return
            self._num_callers += 1
            self._send_next()
        self._timer = self._loop.call_soon(self._wake)

    def _send_next(self) -> None:
        if self._is_all_sent or self._is_over:
            return
        now_ns = self._now_ns()
        if now_ns >= self._plan.duration_s * 1e9:
            return  # the end is due, but its timer is late
        if self._next == self._rows.size:
            self._rows.grow()
        self._rows.planned[self._next] = now_ns
        self._send(now_ns)
        if self._next == self._plan.max_requests:
            if self._timer is not None:
                self._timer.cancel()
            self._end_sending()

    def _caller_is_free(self, reply: Reply) -> None:
        if reply.outcome is not Outcome.DONE:
            self._loop.call_later(_PAUSE_S, self._send_next)
        elif self._is_sending:
            self._loop.call_soon(self._send_next)  # the target answered within `send`
        else:
            self._send_next()
