"""The shell around the core: runs it, and carries out its decisions. It decides nothing itself.

Everything that happens in one turn of the event loop (requests, answers, cancellations) is decided
together, by one call of the core. One timer serves all deadlines.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

from qaic_sched.clock import runs_by_itself, tick_of
from qaic_sched.core.events import (
    ActivationsRetired,
    Cancelled,
    Closed,
    Completed,
    DeviceOpened,
    DeviceReported,
    DeviceRetired,
    LoopStalled,
    ReloadFailed,
)
from qaic_sched.core.model import Fault, RequestState
from qaic_sched.errors import DeviceError, InternalError
from qaic_sched.scheduler.failures import batch_error, error_of, fault_of, receive_error, text_of
from qaic_sched.scheduler.heartbeat import Heartbeat
from qaic_sched.tensors import AnswerCheck

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from qaic_sched.core.events import Event
    from qaic_sched.core.model import Batch, DeviceNews, Request, Statistics
    from qaic_sched.core.state import SchedulerState
    from qaic_sched.metrics.records import SchedulerMetrics
    from qaic_sched.program import Program, Tensors
    from qaic_sched.scheduler.event_log import EventLog
    from qaic_sched.scheduler.pool import Flight, Pool
    from qaic_sched.scheduler.request import ScheduledRequest

__all__ = ["Shell"]

logger = logging.getLogger("qaic_sched")

_DONE: Final = RequestState.DONE
_NO_ERRORS: Mapping[int, DeviceError] = MappingProxyType({})


class Shell:
    """Feeds events to a core and its commands to a pool; belongs to one event loop's thread.

    The pool must be open.
    """

    def __init__(
        self,
        core: SchedulerState,
        program: Program,
        pool: Pool,
        metrics: SchedulerMetrics,
        clock: Callable[[], float],
        log: EventLog | None,
    ) -> None:
        self.core = core
        self.idle = asyncio.Event()
        """Set when the core drains and every request is resolved."""
        self.error: InternalError | None = None
        """The bug that broke the shell; from then on it does nothing."""
        self.program = program
        self.limits_rows = program.limits_rows
        self.bytes_per_sample = program.bytes_per_sample
        self.pool = pool
        self.metrics = metrics
        self.clock = clock
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._tick_s = tick_of(self._loop)
        self._requests: dict[int, ScheduledRequest] = {}
        self._answers = AnswerCheck(program)
        self._failures: dict[int, DeviceError] = {}
        """The errors of requests that fail here, for a reason that is no device's, by id."""
        self._overruled: dict[str, int] = {}
        """The number of requests that failed here, by the state that the core counts them in."""
        self._events: list[Event] = []
        self._is_flush_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._heartbeat = Heartbeat(
            self._loop, clock, self.flush, self._is_at_work, lambda: core.policy.dispatch_timeout_s
        )
        self._may_stall = runs_by_itself(self._loop)
        self.tell: Callable[[int, DeviceNews], None] | None = None
        """Tells the other models of the host what the core has learned about a device."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._unloading: dict[int, asyncio.Future[bool]] = {}
        self._closing: dict[int, asyncio.Future[bool]] = {}
        self.cancel: Callable[[ScheduledRequest], None] = self._cancel
        """Cancels a request. Bound once, because every request gets it."""
        pool.deliver_to(self.flush)
        self.samples_to_keep_busy = 0
        """The number of samples in flight that fills every slot twice."""
        self.count_slots()

    def count_slots(self) -> None:
        """Recompute `samples_to_keep_busy`; call it after every change of the pool's layout."""
        _, set_size = self.pool.planned
        activations = sum(each.num_activations for each in self.pool.executables.values())
        self.samples_to_keep_busy = 2 * activations * set_size * self.program.max_batch_size

    def submit(self, request: ScheduledRequest) -> None:
        """Take in a new request."""
        self._requests[request.core.id] = request
        self.post(request.core)

    def _cancel(self, request: ScheduledRequest) -> None:
        self.post(Cancelled(request.core.id))

    def post(self, event: Event) -> None:
        """Have an event handled together with all others of this turn of the loop."""
        self._events.append(event)
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush_posted)

    def flush(self) -> None:
        """Handle the posted events and the answers of devices now.

        Answers are taken in at every call, whatever its reason: a device that answered while the
        loop was busy must not count as late.
        """
        self._is_flush_due = False
        flights = self.pool.take_completed()
        events, self._events = self._events, []
        if self.error is not None:
            return
        try:
            self._carry_out(events, self._take_in(flights, events) if flights else _NO_ERRORS)
        except Exception as error:
            self._break(error)
        for flight in flights:
            self._measure(flight)

    def _flush_posted(self) -> None:
        if self._events:
            self.flush()

    def opened(self, device_id: int, num_activations: int) -> None:
        """Report to the core that a device has loaded the program, for the first time or again."""
        self.metrics.add_device(device_id, num_activations, self.clock())
        self.post(DeviceOpened(device_id, num_activations, self.core.set_size))

    def hear(self, device_id: int, news: DeviceNews) -> None:
        """Take in what another model has learned about a device."""
        if self.error is None and not self.core.is_closed:
            self.post(DeviceReported(device_id, news))

    def statistics(self) -> Statistics:
        """Return the core's gauges, after everything posted so far."""
        self.flush()
        statistics = self.core.statistics()
        if not self._overruled:
            return statistics
        counts = {key: getattr(statistics, key) - n for key, n in self._overruled.items()}
        failed = statistics.failed + sum(self._overruled.values())
        return replace(statistics, **{**counts, "failed": failed})

    def is_quarantined(self, device_id: int) -> bool:
        """Return True if a device is in quarantine, after everything posted so far."""
        self.flush()
        if self.error is not None:
            raise self.error
        return self.core.is_quarantined(device_id)

    def start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run a coroutine in a task that is cancelled when the shell closes."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def retire(self, device_id: int, indexes: tuple[int, ...]) -> bool:
        """Have the core give activations up; return True once they hold nothing.

        Return False if their device is reloaded instead: the reload loads what is planned by then.
        """
        return await self._ask(ActivationsRetired(device_id, indexes), self._unloading)

    async def retire_device(self, device_id: int) -> None:
        """Have the core give a device up, and wait until it may be closed."""
        await self._ask(DeviceRetired(device_id), self._closing)

    async def aclose(self) -> None:
        """Cancel the unresolved requests, close the devices, and stop the timer and the log."""
        self._events.append(Closed())
        self.flush()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self.pool.aclose()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._heartbeat.stop()
            if self._log is not None:
                self._record(self._log.close)

    def _carry_out(self, events: Sequence[Event], errors: Mapping[int, DeviceError]) -> None:
        now = self.clock()
        if now > self._heartbeat.late_at:
            events = [LoopStalled(self._heartbeat.take_stall(now)), *events]
        if self._log is not None:
            # Before they are handled: if they break the core, the log replays that.
            self._record(self._log.record_events, now, events)
        commands = self.core.handle(now, events)
        if self._log is not None:
            self._record(self._log.record_decisions, commands)
        requests = self._requests
        for batch in commands.dispatch:
            sources = []
            for part in batch.parts:
                request = requests[part.request.id]
                if request.sent is None:
                    request.sent = [part, batch]
                else:
                    request.sent.append(part)
                    request.sent.append(batch)
                sources.append(request.inputs)
            self.pool.submit(batch, sources)
            if batch.is_hedge:
                self.metrics.record_hedge(batch.activation.device_id)
            elif batch.parts[0].group is not None:
                self.metrics.record_retry(batch.activation.device_id)
        for core in commands.resolve:
            self._resolve(core, now, errors)
        for device_id in commands.reload:
            self.start(self._reload(device_id))
            _settle(self._unloading, device_id, is_unloaded=False)
        if commands.unload or commands.close:
            for device_id, _ in commands.unload:
                _settle(self._unloading, device_id)
            for device_id in commands.close:
                _settle(self._closing, device_id)
        if commands.news and self.tell is not None:
            for device_id, news in commands.news:
                self.tell(device_id, news)
        if commands.dispatch and self._may_stall and not self._heartbeat.is_running:
            self._heartbeat.start()
        self._set_timer()
        if self.core.is_draining and not requests:
            self.idle.set()

    def _resolve(self, core: Request, now: float, errors: Mapping[int, DeviceError]) -> None:
        request = self._requests[core.id]
        del self._requests[core.id]  # compiled, `pop` takes twice as long
        if self._failures and core.id in self._failures:
            self._overrule(core)
            self.metrics.record_outcome(core.state.value)
            request.resolve(self._failures.pop(core.id), now)
        elif core.state is _DONE and core.last_batch is not None:
            accepted_at = core.accepted_at
            self.metrics.record_done(core.last_batch.submitted_at - accepted_at, now - accepted_at)
            request.resolve(None, now)
        else:
            self.metrics.record_outcome(core.state.value)
            request.resolve(error_of(core, errors, is_closed=self.core.is_closed), now)

    def _overrule(self, core: Request) -> None:
        """Make a request that the core takes for done or cancelled one that failed."""
        if core.state is not RequestState.FAILED:
            was: str = core.state.value
            self._overruled[was] = self._overruled.get(was, 0) + 1
            core.state = RequestState.FAILED

    def _take_in(self, flights: Sequence[Flight], events: list[Event]) -> Mapping[int, DeviceError]:
        """Give outputs to requests and add answers to `events`; return errors by batch id."""
        errors: dict[int, DeviceError] = {}
        for flight in flights:
            batch, answer = flight.batch, flight.answer
            fault = None
            if not isinstance(answer, dict) and isinstance(answer, DeviceError):
                fault = fault_of(answer)
            elif (problem := self._answers.problem(answer, batch.size)) is None:
                self._scatter(batch, cast("Tensors", answer), events)
            else:
                answer = flight.answer = batch_error(batch, problem)
                fault = Fault.INFERENCE
            if fault is not None:
                errors[batch.id] = cast("DeviceError", answer)
            events.append(Completed(batch.id, flight.completed_at, fault))
        return errors

    def _scatter(self, batch: Batch, outputs: Tensors, events: list[Event]) -> None:
        row = 0
        for part in batch.parts:
            request = self._requests.get(part.request.id)
            if request is not None:
                try:
                    request.receive(self.program, outputs, row, part, batch)
                except Exception as error:
                    # No memory for its outputs: the request is of no use, the batch is.
                    request_id, samples = part.request.id, part.request.samples
                    self._failures[request_id] = receive_error(batch, samples, error)
                    events.append(Cancelled(request_id))
            row += part.samples

    def _measure(self, flight: Flight) -> None:
        batch = flight.batch
        device_id, samples = batch.activation.device_id, batch.samples
        if batch.is_abandoned or not isinstance(flight.answer, dict):
            self.metrics.record_error(device_id, samples, batch.size, batch.execute_s)
        else:
            self.metrics.record_batch(device_id, batch.execute_s, samples, batch.size)
        # A request that a caller keeps refers to its batches, which must not keep all the others.
        batch.unload()

    async def _ask(
        self,
        event: ActivationsRetired | DeviceRetired,
        waiting: dict[int, asyncio.Future[bool]],
    ) -> bool:
        if self.error is not None:
            raise self.error
        future = waiting[event.device_id] = self._loop.create_future()
        self.post(event)
        is_unloaded: bool = await future
        return is_unloaded

    async def _reload(self, device_id: int) -> None:
        if self.core.was_slow(device_id):
            logger.warning("device %d is far slower than the others: reloading it", device_id)
        async with self.pool.changing(device_id):
            try:
                limit_s = self.core.policy.dispatch_timeout_s
                executable = await self.pool.reload(device_id, limit_s)
            except Exception as error:  # whatever a backend raises, the device is probed again
                problem = text_of(error) or type(error).__name__
                logger.warning("device %d could not be reloaded: %s", device_id, problem)
                self.post(ReloadFailed(device_id))
                return
            logger.warning("device %d was reloaded", device_id)
            self.opened(device_id, executable.num_activations)

    def _set_timer(self) -> None:
        at = self.core.next_wakeup(self._tick_s)
        # An earlier timer fires for nothing, which costs less than moving it per request.
        if at is None or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _is_at_work(self) -> bool:
        return self.error is None and bool(self.core.batches)

    def _on_timer(self) -> None:
        self._timer = None
        self.flush()

    def _record(self, write: Callable[..., None], *what: object) -> None:
        try:
            write(*what)
        except Exception:
            # A full disk, or a value that JSON does not have, must not cost a request.
            logger.exception("event_log: writing failed, the log ends here")
            log, self._log = self._log, None
            if log is not None:
                with suppress(Exception):
                    log.close()

    def _break(self, cause: Exception) -> None:
        """Fail every request with `InternalError`, so that no caller waits forever."""
        logger.error("the scheduler broke one of its rules", exc_info=cause)
        self.error = InternalError(f"the scheduler broke one of its rules: {cause!r}")
        self.error.__cause__ = cause
        requests, self._requests = self._requests, {}
        now = self.clock()
        for request in requests.values():
            request.core.state = RequestState.FAILED
            request.resolve(self.error, now)
        for future in (*self._unloading.values(), *self._closing.values()):
            if not future.done():
                future.set_exception(self.error)
        self.idle.set()


def _settle(
    waiting: dict[int, asyncio.Future[bool]], device_id: int, *, is_unloaded: bool = True
) -> None:
    future = waiting.pop(device_id, None)
    if future is not None and not future.done():
        future.set_result(is_unloaded)
