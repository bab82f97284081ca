"""A scheduler for synchronous code: runs it on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from anyio.from_thread import start_blocking_portal

from qaic_sched.errors import SchedulerClosedError
from qaic_sched.metrics.table import format_device_table
from qaic_sched.scheduler.arguments import check_stream, priority_of, tenant_of, timeout_of
from qaic_sched.tensors import validate

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Iterable, Iterator, Mapping

    from anyio.from_thread import BlockingPortal
    from numpy.typing import NDArray
    from typing_extensions import Self

    from qaic_sched.core.values import Statistics
    from qaic_sched.program import Program, Tensors
    from qaic_sched.scheduler.api import RequestHandle, SchedulerApi

__all__ = ["BlockingScheduler", "blocking"]

_END: Final = object()


def blocking(scheduler: SchedulerApi) -> BlockingScheduler:
    """Wrap a scheduler that is not open yet for synchronous code: `with blocking(...) as s`."""
    return BlockingScheduler(scheduler)


class BlockingScheduler:
    """A scheduler whose methods block; any thread may call them.

    Open it with `with`: the end of the block drains it, an exception cancels what is outstanding.
    The event loop runs in a thread of its own, which ends with the block.
    """

    def __init__(self, scheduler: SchedulerApi) -> None:
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
        """Run one request and return its outputs; arguments and errors as for `Scheduler.run`."""
        return _wait(self.submit(inputs, **options))

    def submit(self, inputs: Mapping[str, NDArray[Any]], **options: Any) -> Future[Tensors]:
        """Submit a request; the arguments are those of `Scheduler.run`.

        Returns a future of the outputs; cancelling it cancels the request. All errors of the
        request are raised by the future, `SchedulerClosedError` here if the block has ended.
        """
        self._require_open()
        future: Future[Tensors] = Future()
        self._loop.call_soon_threadsafe(self._submit, inputs, options, future)
        return future

    def map(
        self, stream: Iterable[Mapping[str, NDArray[Any]]], *, ordered: bool = True, **options: Any
    ) -> Iterator[Tensors]:
        """Run a stream of requests and yield their outputs, as `Scheduler.map` does.

        The thread that iterates over the outputs reads the stream.
        """
        self._require_open()
        check_stream(stream, may_be_async=False)
        priority_of(options.get("priority", 0))
        if options.get("timeout_s") is not None:
            timeout_of(options["timeout_s"])
        if options.get("tenant") is not None:
            tenant_of(options["tenant"])
        program = self._scheduler.program_of(options.get("model"))
        return self._map(program, iter(stream), ordered, options)

    def _map(
        self, program: Program, stream: Iterator[Any], ordered: bool, options: dict[str, Any]
    ) -> Iterator[Tensors]:
        model, largest = options.get("model"), 0
        error: BaseException | None = None
        outstanding: dict[Future[Tensors], int] = {}
        completed: SimpleQueue[Future[Tensors]] = SimpleQueue()

        def take() -> Tensors:
            future = next(iter(outstanding)) if ordered else completed.get()
            outputs = _wait(future)
            del outstanding[future]
            return outputs

        try:
            while error is None:
                most = self._scheduler.samples_to_keep_busy_of(model) + largest
                while sum(outstanding.values()) >= most:
                    yield take()
                try:
                    inputs: Any = next(stream, _END)
                    if inputs is _END:
                        break
                    samples = validate(program, inputs)[1]
                    future = self.submit(inputs, **options)
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as caught:
                    error = caught  # raised after the outputs of what came before
                else:
                    largest = max(largest, samples)
                    outstanding[future] = samples
                    future.add_done_callback(completed.put)
            while outstanding:
                yield take()
            if error is not None:
                raise error
        finally:
            for future in outstanding:
                future.cancel()

    def get_metrics(self) -> dict[str, Any]:
        """Return counts and latencies since opening, as `Scheduler.get_metrics` does."""
        return self._require_open().call(self._scheduler.get_metrics)

    def print_metrics(self) -> None:
        """Print the metrics of each device as a table."""
        print(format_device_table(self.get_metrics()))

    def statistics(self, *, model: str | None = None) -> Statistics:
        """Return the number of requests in each state now, as `Scheduler.statistics` does."""
        return self._require_open().call(partial(self._scheduler.statistics, model=model))

    def update_backend_options(self, **options: Any) -> None:
        """Change options while requests continue, as `Scheduler.update_backend_options` does."""
        self._require_open().call(partial(self._scheduler.update_backend_options, **options))

    def drain(self) -> None:
        """Refuse new requests and wait until every accepted request is resolved."""
        self._require_open().call(self._scheduler.drain)

    def close(self) -> None:
        """Cancel unresolved requests and release the devices."""
        self._require_open().call(self._scheduler.aclose)

    def _submit(
        self, inputs: Mapping[str, NDArray[Any]], options: dict[str, Any], future: Future[Tensors]
    ) -> None:
        try:
            request = self._scheduler.submit(inputs, **options)
        except BaseException as error:  # of the caller's own inputs: it is raised there
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
            return
        request.add_done_callback(lambda request: _copy_result(request, future))
        future.add_done_callback(lambda future: self._cancel_with(future, request))

    def _cancel_with(self, future: Future[Tensors], request: RequestHandle) -> None:
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
        # Ctrl-C while waiting: the outputs are no longer wanted.
        future.cancel()
        raise


def _copy_result(request: RequestHandle, future: Future[Tensors]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        outputs = request.result()
    except asyncio.CancelledError as error:
        future.set_exception(CancelledError(*error.args))
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(outputs)
