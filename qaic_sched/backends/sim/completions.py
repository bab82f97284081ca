"""The inferences in flight on the simulated devices of a backend, and the loop wakeup they share.

Everything here runs on the event loop's thread.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, TypeAlias, cast

from qaic_sched.clock import clock_of, tick_of
from qaic_sched.errors import DeviceError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from qaic_sched.backends.base import OnCompleted
    from qaic_sched.backends.sim.model import SimModel
    from qaic_sched.program import Tensors

__all__ = ["Completions"]

_InFlight: TypeAlias = (
    "tuple[float, int, int, Mapping[str, object], OnCompleted, object, DeviceError | None]"
)
"""End, number in the order of `add`, rows (0 if it fails), inputs, callback, owner, failure."""


class Completions:
    """Holds inferences until they are due, and completes those that are due together.

    Most inferences are added in the order in which they end: only the others need a heap.
    """

    __slots__ = (
        "_early_s",
        "_heap",
        "_in_order",
        "_model",
        "_sequence",
        "_wakeup",
        "_wakeup_at",
        "clock",
        "loop",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, model: SimModel) -> None:
        self.loop = loop
        self.clock = clock_of(loop)
        # Wake a tick early and poll on each turn of the loop: a late wakeup would idle a device.
        self._early_s = tick_of(loop)
        self._model = model
        self._in_order: deque[_InFlight] = deque()
        #: Inferences that end before one that was added earlier.
        self._heap: list[_InFlight] = []
        self._sequence = 0
        self._wakeup: asyncio.Handle | None = None
        self._wakeup_at = math.inf

    def add(
        self,
        end: float,
        now: float,
        rows: int,
        inputs: Mapping[str, object],
        on_completed: OnCompleted,
        owner: object,
        failure: DeviceError | None,
    ) -> None:
        """Complete the inference at `end`, with `failure` if given; never inside this call."""
        self._sequence += 1
        self._put((end, self._sequence, rows, inputs, on_completed, owner, failure))
        if end < self._wakeup_at:
            self._wake_at(end, now)

    def take(self, owner: object) -> list[OnCompleted]:
        """Remove the owner's inferences; their callbacks, in the order of their ends."""
        taken = sorted(each for each in (*self._in_order, *self._heap) if each[5] is owner)
        self._in_order = deque(each for each in self._in_order if each[5] is not owner)
        self._heap = [each for each in self._heap if each[5] is not owner]
        heapify(self._heap)
        self._wake_for_first()
        return [each[4] for each in taken]

    def _complete_due(self) -> None:
        """Complete every inference that is due by now, but none submitted meanwhile."""
        now = self.clock()
        last = self._sequence
        self._wakeup = None
        self._wakeup_at = -math.inf  # a submit inside a callback must not arm the timer
        try:
            while due := self._take_due(now, last):
                self._complete(due)
        finally:
            self._wake_for_first()

    def _take_due(self, now: float, last: int) -> list[_InFlight]:
        """Remove the first due inference and those right after it that can be computed with it."""
        due: list[_InFlight] = []
        rows, room = 0, 1
        while room:
            first = self._first()
            if first is None or first[0] > now or first[1] > last:
                break
            if not due:
                rows = first[2]
                room = self._model.most_together[rows] if rows else 1
            elif first[2] != rows:
                break
            due.append(first)
            self._drop_first()
            room -= 1
        return due

    def _put(self, inference: _InFlight) -> None:
        in_order = self._in_order
        # An inference that never ends would block the deque for good.
        if inference[0] < math.inf and (not in_order or inference[0] >= in_order[-1][0]):
            in_order.append(inference)
        else:
            heappush(self._heap, inference)

    def _first(self) -> _InFlight | None:
        """The inference that ends first; on a tie, the one that was added first."""
        in_order, heap = self._in_order, self._heap
        if heap and (not in_order or heap[0] < in_order[0]):
            return heap[0]
        return in_order[0] if in_order else None

    def _drop_first(self) -> None:
        in_order, heap = self._in_order, self._heap
        if heap and (not in_order or heap[0] < in_order[0]):
            heappop(heap)
        else:
            in_order.popleft()

    def _complete(self, due: list[_InFlight]) -> None:
        """Complete inferences that can be computed together, or a single one that fails."""
        failure = due[0][6]
        results: Sequence[Tensors | DeviceError]
        results = self._compute(due) if failure is None else [failure]
        due.reverse()
        try:
            for result in results:
                each = due.pop()
                each[4](result, each[0])
        finally:
            for each in due:  # a callback raised: the others follow on the next turn of the loop
                heappush(self._heap, each)

    def _compute(self, due: list[_InFlight]) -> Sequence[Tensors | DeviceError]:
        """Compute inferences together; if that fails, each alone, so that it fails alone."""
        several = cast("list[Mapping[str, NDArray[np.generic]]]", [each[3] for each in due])
        try:
            return self._model(several)
        except Exception as error:
            if len(due) > 1:
                return [self._compute([each])[0] for each in due]
            failure = DeviceError(f"a simulated inference failed: {type(error).__name__}: {error}")
            failure.__cause__ = error.with_traceback(None)
            return [failure]

    def _wake_for_first(self) -> None:
        if self._wakeup is not None:
            self._wakeup.cancel()
            self._wakeup = None
        self._wakeup_at = math.inf
        first = self._first()
        if first is not None:
            self._wake_at(first[0], self.clock())

    def _wake_at(self, end: float, now: float) -> None:
        """Replace the wakeup by one at `end`; by none if `end` is infinite."""
        if self._wakeup is not None:
            self._wakeup.cancel()
        if end == math.inf:
            return
        wake_at = end - self._early_s
        if wake_at <= now:
            self._wakeup_at = -math.inf
            self._wakeup = self.loop.call_soon(self._complete_due)
        else:
            self._wakeup_at = end
            self._wakeup = self.loop.call_at(wake_at, self._complete_due)
