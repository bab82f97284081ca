"""Runs a stream of requests through a scheduler with a bounded number of samples in flight."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from qaic_sched.program import Tensors
    from qaic_sched.scheduler.api import RequestHandle

__all__ = ["map_requests"]

logger = logging.getLogger("qaic_sched")

_END: Final = object()


async def map_requests(
    submit: Callable[[Any], RequestHandle],
    stream: Iterable[Any] | AsyncIterable[Any],
    max_samples: Callable[[], int],
    *,
    ordered: bool,
    samples_each: int | None = None,
) -> AsyncIterator[Tensors]:
    """Submit every element of the stream and yield its outputs.

    The stream is read while fewer than `max_samples()` samples, plus the size of the largest
    request so far, are submitted and not yet yielded. Without that allowance a large request of
    which only the last sample is still running would leave the devices idle. With `samples_each`,
    every request counts as that many samples, as it fills an inference. The first error ends
    the stream and cancels the outstanding requests. An error of the stream, `CancelledError` too,
    is raised after the outputs of what it yielded before; an interrupt does not wait for them.
    """
    feed = _Feed(submit, max_samples, ordered=ordered, samples_each=samples_each)
    reader = feed.begin(stream)
    try:
        while (request := await feed.next()) is not None:
            outputs = await request
            feed.consumed(request)
            yield outputs
        if feed.error is not None:
            raise feed.error
    finally:
        for request in feed.outstanding:
            request.cancel()
        if reader is not None and not reader.done():
            feed.is_left = True
            reader.cancel()
            await asyncio.wait([reader])
            # The consumer has its own reason to leave, which this must not replace.
            if not isinstance(feed.error, asyncio.CancelledError | None):
                logger.warning("map: the stream failed while it was left: %r", feed.error)


class _Feed:
    """The submitted requests between the stream and the consumer of the outputs."""

    def __init__(
        self,
        submit: Callable[[Any], RequestHandle],
        max_samples: Callable[[], int],
        *,
        ordered: bool,
        samples_each: int | None,
    ) -> None:
        self.outstanding: set[RequestHandle] = set()
        self.error: BaseException | None = None
        """The error that ended the stream early: raised by the stream, or by `submit`."""
        self.is_left = False
        """True once the consumer wants no more outputs."""
        self._submit = submit
        self._max_samples = max_samples
        self._ordered = ordered
        self._samples_each = samples_each
        self._samples = 0
        self._largest = 0
        self._ready: deque[RequestHandle] = deque()
        self._is_read = False
        self._changed = asyncio.Event()
        self._rest: Iterator[Any] | None = None

    def begin(self, stream: Iterable[Any] | AsyncIterable[Any]) -> asyncio.Task[None] | None:
        """Begin to read the stream; an asynchronous one is read by a task, which is returned."""
        if isinstance(stream, AsyncIterable):
            return asyncio.ensure_future(self._read(stream))
        self._rest = iter(stream)
        self._fill()
        return None

    async def next(self) -> RequestHandle | None:
        """Return the request whose outputs come next; None after the last."""
        while not isinstance(self.error, KeyboardInterrupt | SystemExit):
            if self._ready:
                return self._ready.popleft()
            if self._is_read and not self.outstanding:
                break
            await self._change()
        return None

    def consumed(self, request: RequestHandle) -> None:
        """Make room for others: the consumer has the outputs of this request."""
        self.outstanding.discard(request)
        self._samples -= self._samples_each or request.samples
        self._changed.set()
        self._fill()

    def _fill(self) -> None:
        """Read as many elements of a synchronous stream as there is room for."""
        try:
            while self._rest is not None and not self._is_full():
                inputs = next(self._rest, _END)
                if inputs is _END:
                    self._end(None)
                else:
                    self._put(inputs)
        except BaseException as error:
            self._end(error)

    async def _read(self, stream: AsyncIterable[Any]) -> None:
        """Read an asynchronous stream, as a task.

        A `CancelledError` is the stream's own unless the consumer has left: then nobody looks.
        """
        try:
            async for inputs in stream:
                while self._is_full():
                    await self._change()
                if self.is_left:
                    break  # the stream suppressed its cancellation
                self._put(inputs)
        except BaseException as error:
            self._end(error)
        else:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self._is_read, self._rest, self.error = True, None, error
        self._changed.set()

    def _is_full(self) -> bool:
        return self._samples >= self._max_samples() + self._largest

    def _put(self, inputs: Any) -> None:
        request = self._submit(inputs)
        self.outstanding.add(request)
        samples = self._samples_each or request.samples
        self._samples += samples
        self._largest = max(self._largest, samples)
        if self._ordered:
            self._add_ready(request)
        else:
            request.add_done_callback(self._add_ready)

    def _add_ready(self, request: RequestHandle) -> None:
        self._ready.append(request)
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
