"""Sends requests when they are due, and writes down what becomes of each.

Rules of this file:
- An open loop never waits for an answer. What is late is sent at once, and its lateness is in the
  records: latency counts from the planned instant.
- A closed loop sends a caller's next request at the answer to its last; after one that was not done
  the caller pauses for `_PAUSE_S`, or a target that refuses at once would do nothing else.
- No task per request: timers and callbacks, and one future for the end.
- Nothing is lost: each request has its row before it is sent, whatever the target does with it.
- A run that is interrupted keeps what was due by then; the answers that are out are awaited.
- Times are the loop's, so that a run in virtual time is exact. Timers of real loops are not:
  asyncio's fire up to 1 ms late, uvloop's up to 1 ms early or late (after an early one it spins
  through the rest). A precise run stops relying on them `_SPIN_S` before each send.
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
_MOST_AT_ONCE = 64
"""Sends in one turn of the loop: answers must be noticed also where sending is late."""
_MOST_TEXT = 300


@dataclass(slots=True)
class RunCounters:
    """How far a run is: plain counters, kept by the injector, for whoever looks on."""

    planned: int | None = None
    """Requests that are due in all; None in a closed loop, where nobody knows."""
    sent: int = 0
    done: int = 0
    """Requests that have their answer, errors included."""
    errors: int = 0
    latency: Histogram = field(default_factory=Histogram)
    """Seconds from the planned instant to the answer, of those without an error."""


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
    """Run a plan against an open target: at `planned_ns`, or as a closed loop where that is None.

    `on_reply` gets the row and the reply of each request, `progress` is kept up to date;
    `starts_at` is the instant of the loop's clock that counts as 0, by default now. What has no
    answer `plan.drain_s` after the last request was due is `UNRESOLVED`. Once `interrupted` is
    done, nothing more is sent.
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
    """Both kinds of loops: sending a row, noting its answer, and the end."""

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
        # Afterwards: to make room for millions of rows takes a second.
        self._origin = self._clock() if starts_at is None else starts_at
        self._rows.origin = self._origin
        self._sampler = Sampler(target, self._clock, self._origin, plan.duration_s)
        self._has_devices = bool(info.activations)
        progress.planned = None if planned_ns is None else len(planned_ns)
        self._next = 0
        """The row of the next request to be sent."""
        self._unanswered = 0
        self._is_sending = False
        self._is_all_sent = False
        self._is_over = False
        self._timer: asyncio.Handle | None = None
        self._finished: asyncio.Future[int] = self._loop.create_future()

    async def records(self) -> Records:
        """From the beginning to the last answer, or until nobody waits for it any more."""
        self._timer = self._loop.call_at(self._origin, self._begin)
        ended_ns = await self._finished
        records = self._rows.records(self._count())
        records.ended_ns = ended_ns
        if self._has_devices:
            self._sampler.take()
        records.device_samples = self._sampler.samples
        return records

    def interrupt(self, _: object = None) -> None:
        """Send nothing more; what is out is awaited."""
        if self._is_all_sent or self._is_over:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._end_sending()

    def stop(self) -> None:
        """Note and send nothing more."""
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
        """Send what is due, and see to it that this is called again."""
        raise NotImplementedError

    def _count(self) -> int:
        """Rows that the run has come to."""
        return self._next

    def _now_ns(self) -> int:
        return round((self._clock() - self._origin) * 1e9)

    def _send(self, now_ns: int) -> None:
        """Send the next row, which says already when it was planned."""
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
            # The target is broken; the run goes on, and what it has measured stays.
            problem = f"{type(error).__name__}: {error}"[:_MOST_TEXT]
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
            self._freed(reply)
        if self._on_reply is not None:
            self._on_reply(row, reply)

    def _freed(self, reply: Reply) -> None:
        """A caller has its answer: what that means while requests are still sent."""

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
    """Sends at planned instants, whatever becomes of it."""

    _waited_at = -1.0
    _due: int | None = None
    """Rows that were due when the run was interrupted, sent or not."""

    def interrupt(self, _: object = None) -> None:
        if not self._is_all_sent and not self._is_over:
            due = bisect_right(self._rows.planned, self._now_ns())
            self._due = max(self._next, due)
        super().interrupt()

    def _count(self) -> int:
        return self._rows.size if self._due is None else self._due

    def _wake(self) -> None:
        planned, end = self._rows.planned, self._rows.size
        for _ in range(_MOST_AT_ONCE):
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
        # A clock that stands still meanwhile is a virtual one, whose timers are exact.
        if self._plan.is_precise and now != self._waited_at:
            self._waited_at = now
            if at - now <= _SPIN_S:
                self._timer = self._loop.call_soon(self._wake)
                return
            at -= _SPIN_S
        self._timer = self._loop.call_at(at, self._wake)


class _ClosedLoop(_Injection):
    """Keeps `plan.concurrency` requests out, until the time or their number is over."""

    _num_callers = 0

    def _wake(self) -> None:
        """Have the callers begin, some in each turn of the loop."""
        for _ in range(_MOST_AT_ONCE):
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
            return  # the end is due
        if self._next == self._rows.size:
            self._rows.grow()
        self._rows.planned[self._next] = now_ns
        self._send(now_ns)
        if self._next == self._plan.max_requests:
            if self._timer is not None:
                self._timer.cancel()
            self._end_sending()

    def _freed(self, reply: Reply) -> None:
        if reply.outcome is not Outcome.DONE:
            self._loop.call_later(_PAUSE_S, self._send_next)
        elif self._is_sending:
            self._loop.call_soon(self._send_next)  # a target that answers at once
        else:
            self._send_next()
