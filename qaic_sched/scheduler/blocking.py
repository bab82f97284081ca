"""The same scheduler for synchronous code: a front with its own event loop on its own thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from anyio.from_thread import start_blocking_portal

from qaic_sched.errors import SchedulerClosedError
from qaic_sched.tensors import validate

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Iterable, Iterator, Mapping

    from anyio.from_thread import BlockingPortal
    from numpy.typing import NDArray
    from typing_extensions import Self

    from qaic_sched.core.model import Statistics
    from qaic_sched.program import Tensors
    from qaic_sched.scheduler.front import Scheduler
    from qaic_sched.scheduler.request import ScheduledRequest

__all__ = ["BlockingScheduler", "blocking"]


def blocking(scheduler: Scheduler) -> BlockingScheduler:
    """Give a scheduler that is not open yet to synchronous code: `with blocking(…) as s`."""
    return BlockingScheduler(scheduler)


class BlockingScheduler:
    """`Scheduler` with methods that block instead of being awaited; any thread may call them.

    Open it with `with`, which drains at the end, or cancels if left with an exception.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._exit = ExitStack()
        self._portal: BlockingPortal | None = None
        self._loop: AbstractEventLoop

    def __enter__(self) -> Self:
        options = {"use_uvloop": find_spec("uvloop") is not None}
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal(backend_options=options))
            stack.enter_context(portal.wrap_async_context_manager(self._scheduler))
            self._loop = portal.call(_running_loop)
            self._exit = stack.pop_all()
        self._portal = portal
        return self

    def __exit__(self, *error: Any) -> None:
        self._portal = None
        self._exit.__exit__(*error)

    def run(self, inputs: Mapping[str, NDArray[Any]], **options: Any) -> Tensors:
        """Run any number of samples and wait for the outputs; as `Scheduler.run`."""
        return _wait(self.submit(inputs, **options))

    def submit(self, inputs: Mapping[str, NDArray[Any]], **options: Any) -> Future[Tensors]:
        """Hand a request in; its future gives the outputs, and cancels the request if cancelled."""
        self._require_open()
        future: Future[Tensors] = Future()
        self._loop.call_soon_threadsafe(self._submit, inputs, options, future)
        return future

    def map(
        self, stream: Iterable[Mapping[str, NDArray[Any]]], *, ordered: bool = True, **options: Any
    ) -> Iterator[Tensors]:
        """Run every inputs of a stream, bounded in flight, as `Scheduler.map`.

        The stream is read by the thread that iterates.
        """
        model, largest = options.get("model"), 0
        outstanding: dict[Future[Tensors], int] = {}
        completed: SimpleQueue[Future[Tensors]] = SimpleQueue()

        def take() -> Tensors:
            future = next(iter(outstanding)) if ordered else completed.get()
            outputs = _wait(future)
            del outstanding[future]
            return outputs

        try:
            for inputs in stream:
                most = self._scheduler.samples_to_keep_busy_of(model) + largest
                while sum(outstanding.values()) >= most:
                    yield take()
                samples = validate(self._scheduler.shell_of(model).program, inputs)[1]
                largest = max(largest, samples)
                future = self.submit(inputs, **options)
                outstanding[future] = samples
                future.add_done_callback(completed.put)
            while outstanding:
                yield take()
        finally:
            for future in outstanding:
                future.cancel()

    def get_metrics(self) -> dict[str, Any]:
        """Counts and latencies since opening, as `Scheduler.get_metrics`."""
        return self._require_open().call(self._scheduler.get_metrics)

    def print_metrics(self) -> None:
        """Print the per-device table of `get_metrics`."""
        self._require_open().call(self._scheduler.print_metrics)

    def statistics(self, *, model: str | None = None) -> Statistics:
        """What waits, is queued and is in flight at this moment, as `Scheduler.statistics`."""
        return self._require_open().call(partial(self._scheduler.statistics, model=model))

    def update_backend_options(self, **options: Any) -> None:
        """Change options while requests go on, as `Scheduler.update_backend_options`."""
        self._require_open().call(partial(self._scheduler.update_backend_options, **options))

    def drain(self) -> None:
        """Refuse new requests and wait until every accepted one is resolved."""
        self._require_open().call(self._scheduler.drain)

    def close(self) -> None:
        """Cancel what is not resolved yet and give the devices back."""
        self._require_open().call(self._scheduler.aclose)

    def _submit(
        self, inputs: Mapping[str, NDArray[Any]], options: dict[str, Any], future: Future[Tensors]
    ) -> None:
        try:
            request = self._scheduler.submit(inputs, **options)
        except Exception as error:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
            return
        request.add_done_callback(lambda request: _copy_result(request, future))
        future.add_done_callback(lambda future: self._cancel_with(future, request))

    def _cancel_with(self, future: Future[Tensors], request: ScheduledRequest) -> None:
        if future.cancelled() and self._portal is not None:
            self._loop.call_soon_threadsafe(request.cancel)

    def _require_open(self) -> BlockingPortal:
        if self._portal is None:
            raise SchedulerClosedError("the scheduler is not open: use `with blocking(scheduler)`")
        return self._portal


async def _running_loop() -> AbstractEventLoop:
    return asyncio.get_running_loop()


def _wait(future: Future[Tensors]) -> Tensors:
    try:
        return future.result()
    except BaseException:
        # Ctrl-C while waiting: nobody wants the outputs any more.
        future.cancel()
        raise


def _copy_result(request: ScheduledRequest, future: Future[Tensors]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(request.result())
    except asyncio.CancelledError as error:
        future.set_exception(CancelledError(*error.args))
    except Exception as error:
        future.set_exception(error)
