"""Runs a stream of inputs through a scheduler, bounded in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable

    from qaic_sched.program import Tensors
    from qaic_sched.request import ScheduledRequest

__all__ = ["map_requests"]


async def map_requests(
    submit: Callable[[Any], ScheduledRequest],
    stream: Iterable[Any] | AsyncIterable[Any],
    max_samples: Callable[[], int],
    *,
    ordered: bool,
) -> AsyncIterator[Tensors]:
    """Submit every element of the stream and yield its outputs.

    The stream is read while fewer than `max_samples()` samples are submitted and not yet yielded,
    also while the consumer waits. Those of one request are not counted, the largest so far: all of
    it may be done but its last sample. The first error ends it; what is outstanding is cancelled.
    """
    feed = _Feed(submit, max_samples, ordered=ordered)
    feeder = asyncio.ensure_future(feed.read(stream))
    try:
        while (request := await feed.next()) is not None:
            outputs = await request
            feed.consumed(request)
            yield outputs
        await feeder
    finally:
        feeder.cancel()
        for request in feed.outstanding:
            request.cancel()
        await asyncio.wait([feeder])
        if not feeder.cancelled():
            feeder.exception()  # raised above, or behind an error that came first


class _Feed:
    """The submitted requests between the reader of the stream and the consumer of the outputs."""

    def __init__(
        self,
        submit: Callable[[Any], ScheduledRequest],
        max_samples: Callable[[], int],
        *,
        ordered: bool,
    ) -> None:
        self.outstanding: set[ScheduledRequest] = set()
        self._submit = submit
        self._max_samples = max_samples
        self._ordered = ordered
        self._samples = 0
        self._largest = 0
        self._ready: deque[ScheduledRequest] = deque()
        self._is_read = False
        self._changed = asyncio.Event()

    async def read(self, stream: Iterable[Any] | AsyncIterable[Any]) -> None:
        """Submit all of the stream, as fast as the bound allows."""
        try:
            if hasattr(stream, "__aiter__"):
                async for inputs in stream:
                    await self._put(inputs)
            else:
                for inputs in stream:
                    await self._put(inputs)
        finally:
            self._is_read = True
            self._changed.set()

    async def next(self) -> ScheduledRequest | None:
        """The request whose outputs come next; None after the last."""
        while not self._ready:
            if self._is_read and not self.outstanding:
                return None
            await self._change()
        return self._ready.popleft()

    def consumed(self, request: ScheduledRequest) -> None:
        """Make room: the outputs are with the consumer."""
        self.outstanding.discard(request)
        self._samples -= request.core.samples
        self._changed.set()

    async def _put(self, inputs: Any) -> None:
        while self._samples >= self._max_samples() + self._largest:
            await self._change()
        request = self._submit(inputs)
        self.outstanding.add(request)
        self._samples += request.core.samples
        self._largest = max(self._largest, request.core.samples)
        if self._ordered:
            self._be_ready(request)
        else:
            request.add_done_callback(self._be_ready)

    def _be_ready(self, request: ScheduledRequest) -> None:
        self._ready.append(request)
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
