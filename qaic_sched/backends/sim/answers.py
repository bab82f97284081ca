"""What is in flight on the simulated devices of a backend, and the loop's one wakeup for it.

All of it belongs to the loop's thread.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, TypeAlias, cast

from qaic_sched.clock import clock_of, tick_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from qaic_sched.backends.base import OnCompleted
    from qaic_sched.backends.sim.backend import SimExecutable
    from qaic_sched.backends.sim.model import Model
    from qaic_sched.errors import DeviceError, DeviceErrorKind
    from qaic_sched.program import Tensors

__all__ = ["Answers"]

_InFlight: TypeAlias = (
    "tuple[float, int, int, Mapping[str, object], OnCompleted, SimExecutable, "
    "DeviceErrorKind | None]"
)
"""End, number in the order of `add`, rows (0: it fails), inputs, callback, executable, fault."""


class Answers:
    """Holds inferences until they are due, and answers those that are due together.

    Most are added in the order in which they end: only the others need a heap.
    """

    __slots__ = (
        "_early_s",
        "_heap",
        "_line",
        "_model",
        "_sequence",
        "_wakeup",
        "_wakeup_at",
        "clock",
        "loop",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, model: Model) -> None:
        self.loop = loop
        self.clock = clock_of(loop)
        # We wake a tick early and look again at each turn of the loop, for one late idles a device.
        self._early_s = tick_of(loop)
        self._model = model
        self._line: deque[_InFlight] = deque()
        #: Those that end before one that stood in the line already.
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
        executable: SimExecutable,
        fault: DeviceErrorKind | None,
    ) -> None:
        """Answer at `end`; never before the caller's callback has returned."""
        self._sequence += 1
        self._put((end, self._sequence, rows, inputs, on_completed, executable, fault))
        if end < self._wakeup_at:
            self._wake_at(end, now)

    def take(self, executable: SimExecutable) -> list[OnCompleted]:
        """Forget the executable's inferences; what answers them, in the order of their ends."""
        taken = sorted(each for each in (*self._line, *self._heap) if each[5] is executable)
        self._line = deque(each for each in self._line if each[5] is not executable)
        self._heap = [each for each in self._heap if each[5] is not executable]
        heapify(self._heap)
        self._wake_for_first()
        return [each[4] for each in taken]

    def _answer_due(self) -> None:
        """Answer everything that is due by now, but nothing that is submitted meanwhile."""
        now = self.clock()
        last = self._sequence
        self._wakeup = None
        self._wakeup_at = -math.inf  # so that what is submitted meanwhile arms nothing
        try:
            while due := self._take_due(now, last):
                self._answer(due)
        finally:
            self._wake_for_first()

    def _take_due(self, now: float, last: int) -> list[_InFlight]:
        """The first that is due, and those right after it that can be computed with it."""
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
        line = self._line
        # What never ends would bar the line for good.
        if inference[0] < math.inf and (not line or inference[0] >= line[-1][0]):
            line.append(inference)
        else:
            heappush(self._heap, inference)

    def _first(self) -> _InFlight | None:
        """What ends first; of those that end together, what was added first."""
        line, heap = self._line, self._heap
        if heap and (not line or heap[0] < line[0]):
            return heap[0]
        return line[0] if line else None

    def _drop_first(self) -> None:
        line, heap = self._line, self._heap
        if heap and (not line or heap[0] < line[0]):
            heappop(heap)
        else:
            line.popleft()

    def _answer(self, due: list[_InFlight]) -> None:
        """Answer inferences that can be computed together, or one that fails."""
        executable, fault = due[0][5:]
        answers: Sequence[Tensors | DeviceError]
        if fault is None:
            several = [each[3] for each in due]
            answers = self._model(cast("list[Mapping[str, NDArray[np.generic]]]", several))
        else:
            answers = [executable.failure(fault)]
        due.reverse()
        try:
            for answer in answers:
                each = due.pop()
                each[4](answer, each[0])
        finally:
            for each in due:  # a callback has failed: the others come at the next turn
                heappush(self._heap, each)

    def _wake_for_first(self) -> None:
        if self._wakeup is not None:
            self._wakeup.cancel()
            self._wakeup = None
        self._wakeup_at = math.inf
        first = self._first()
        if first is not None:
            self._wake_at(first[0], self.clock())

    def _wake_at(self, end: float, now: float) -> None:
        """Replace the wakeup by one for what ends then; none for what hangs for ever."""
        if self._wakeup is not None:
            self._wakeup.cancel()
        if end == math.inf:
            return
        wake_at = end - self._early_s
        if wake_at <= now:
            self._wakeup_at = -math.inf
            self._wakeup = self.loop.call_soon(self._answer_due)
        else:
            self._wakeup_at = end
            self._wakeup = self.loop.call_at(wake_at, self._answer_due)
