"""Connects LoadGen's thread with the event loop: passes queries on and completions back.

Rules of this file:
- There is no task and no wake-up per query: LoadGen's thread appends to a deque and wakes the loop
  only if no wake-up is pending; one turn of the loop sends everything, and one call completes all
  answers of a turn.
- Every query is completed, failed ones without data, or LoadGen would wait for ever. LoadGen has no
  notion of failures; `failures` counts them.
- Appending to and popping from a deque are atomic, so there are no locks.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from qaic_sched.loadgen.targets.base import Outcome, Reply

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from qaic_sched.loadgen.inject.pilot import Inputs
    from qaic_sched.loadgen.targets.base import Target

__all__ = ["Bridge"]

SENT_PER_TURN = 256
"""Limit for one turn of the loop, so that a burst does not delay answers."""

MAX_PROBLEM_KINDS = 20
"""Kinds of problems that are counted separately; further ones are "others"."""


class Bridge:
    """Carries queries from LoadGen to a target, and the replies back.

    Belongs to the target's event loop; only `issue` is called by LoadGen, from its thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        loadgen: Any,
        target: Target,
        inputs: Inputs,
        timeout_s: float | None,
        on_reply: Callable[[int, Reply], None] | None,
    ) -> None:
        self.num_answered = 0
        self.failures: dict[str, int] = {}
        """Outcome -> number of requests that were not done."""
        self.problems: dict[str, int] = {}
        """Error message -> number of requests."""
        self._loop = loop
        self._loadgen = loadgen
        self._target = target
        self._inputs = inputs
        self._timeout_s = timeout_s
        self._on_reply = on_reply
        self._issued: deque[tuple[int, int]] = deque()
        self._is_woken = False
        self._out: dict[int, int] = {}
        self._completed: list[tuple[int, NDArray[Any] | None]] = []
        self._given_up: str | None = None
        self._is_left = False

    @property
    def num_out(self) -> int:
        """Number of queries sent and not answered."""
        return len(self._out)

    def issue(self, ids: Sequence[int], indexes: Sequence[int]) -> None:
        """Take queries from LoadGen, in its thread, and wake the loop unless it is awake."""
        if self._is_left:
            # LoadGen cannot be stopped, and an exception would crash it: its thread stays here.
            Event().wait()
        self._issued.extend(zip(ids, indexes, strict=True))
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._send_issued)

    def give_up(self, problem: str) -> None:
        """Complete all outstanding and all further queries as failed."""
        self._given_up = problem
        out, self._out = self._out, {}
        for query in out.items():
            self._fail(query, problem, Outcome.UNRESOLVED)

    def leave(self) -> None:
        """Drop all queries; LoadGen's thread will wait for ever."""
        self._is_left = True
        self._issued.clear()
        self._out = {}

    def _send_issued(self) -> None:
        """Send the issued queries, at most `SENT_PER_TURN` of them."""
        # Set first: a query appended from here on wakes the loop again.
        self._is_woken = False
        issued = self._issued
        for _ in range(min(len(issued), SENT_PER_TURN)):
            self._send(issued.popleft())
        if issued and not self._is_woken:
            self._is_woken = True
            self._loop.call_soon(self._send_issued)

    def _send(self, query: tuple[int, int]) -> None:
        if self._given_up is not None:
            self._fail(query, self._given_up, Outcome.UNRESOLVED)
            return
        query_id, index = query
        self._out[query_id] = index
        try:
            self._target.send(
                self._inputs[index], self._timeout_s, partial(self._answered, query_id)
            )
        except Exception as error:
            # LoadGen waits for this query even if the target is broken.
            self._out.pop(query_id, None)
            self._fail(query, f"{type(error).__name__}: {error}", Outcome.FAILED)

    def _answered(self, query_id: int, reply: Reply) -> None:
        index = self._out.pop(query_id, None)
        if index is None:
            return  # given up before
        if reply.outcome is Outcome.DONE:
            outputs = reply.outputs
            # LoadGen takes a single buffer: the first output.
            first = np.ascontiguousarray(next(iter(outputs.values()))) if outputs else None
            self._complete(query_id, first)
        else:
            self._fail((query_id, index), reply.problem or reply.outcome.name, reply.outcome)
        if self._on_reply is not None:
            self._on_reply(index, reply)

    def _fail(self, query: tuple[int, int], problem: str, outcome: Outcome) -> None:
        name = outcome.name.lower()
        self.failures[name] = self.failures.get(name, 0) + 1
        if problem not in self.problems and len(self.problems) >= MAX_PROBLEM_KINDS:
            problem = "others"
        self.problems[problem] = self.problems.get(problem, 0) + 1
        self._complete(query[0], None)

    def _complete(self, query_id: int, data: NDArray[Any] | None) -> None:
        if not self._completed:
            self._loop.call_soon(self._report_completed)
        self._completed.append((query_id, data))

    def _report_completed(self) -> None:
        """Complete the queries answered in this turn; their arrays live until LoadGen returns."""
        completed, self._completed = self._completed, []
        self.num_answered += len(completed)
        response = self._loadgen.QuerySampleResponse
        self._loadgen.QuerySamplesComplete(
            [
                response(query_id, 0, 0)
                if data is None
                else response(query_id, data.__array_interface__["data"][0], data.nbytes)
                for query_id, data in completed
            ]
        )
