"""Between LoadGen's thread and the event loop: queries go over, completions come back.

Rules of this file:
- No task and no wake-up per query: LoadGen's thread appends to a deque and wakes the loop only
  when it is not awake for that already; one turn of the loop sends all that came, and one call
  completes all that was answered in a turn.
- Every query is completed, come what may, or LoadGen would wait for ever: without data where the
  request failed. LoadGen does not know failures; `failures` counts them.
- What is appended or popped is one step for the interpreter: no locks.
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
"""A burst is sent in such pieces, and the devices' answers are looked at between them."""

MAX_PROBLEMS = 20
"""So many kinds are counted; what comes after them is "others"."""


class Bridge:
    """Carries queries from LoadGen to a target, and its replies back.

    Made on the loop that the target belongs to. `issue` is LoadGen's to call, from its thread; all
    else belongs to the loop.
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
        """Requests by what became of them, if not done."""
        self.problems: dict[str, int] = {}
        """What the callers were told, and how often."""
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
        """Queries sent and not answered."""
        return len(self._out)

    def issue(self, ids: Sequence[int], indexes: Sequence[int]) -> None:
        """Take queries from LoadGen, in its thread, and wake the loop if it is not."""
        if self._is_left:
            # Nothing stops LoadGen, and to raise here would break it: its thread stays here.
            Event().wait()
        self._issued.extend(zip(ids, indexes, strict=True))
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._send_issued)

    def give_up(self, problem: str) -> None:
        """Complete what is out, and all that is still to come, as failed."""
        self._given_up = problem
        out, self._out = self._out, {}
        for query in out.items():
            self._fail(query, problem, Outcome.UNRESOLVED)

    def leave(self) -> None:
        """Have nothing more to do with LoadGen: its thread stays where it is, for ever."""
        self._is_left = True
        self._issued.clear()
        self._out = {}

    def _send_issued(self) -> None:
        """Send what LoadGen has issued: a piece of it, if it is much."""
        # First: what is appended from here on wakes the loop again.
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
            self._target.send(self._inputs[index], self._timeout_s, partial(self._done, query_id))
        except Exception as error:
            # A target that breaks must not break LoadGen, which waits for this query.
            self._out.pop(query_id, None)
            self._fail(query, f"{type(error).__name__}: {error}", Outcome.FAILED)

    def _done(self, query_id: int, reply: Reply) -> None:
        index = self._out.pop(query_id, None)
        if index is None:
            return  # it was given up
        if reply.outcome is Outcome.DONE:
            outputs = reply.outputs
            # LoadGen takes one piece of memory: the first output.
            first = np.ascontiguousarray(next(iter(outputs.values()))) if outputs else None
            self._complete(query_id, first)
        else:
            self._fail((query_id, index), reply.problem or reply.outcome.name, reply.outcome)
        if self._on_reply is not None:
            self._on_reply(index, reply)

    def _fail(self, query: tuple[int, int], problem: str, outcome: Outcome) -> None:
        name = outcome.name.lower()
        self.failures[name] = self.failures.get(name, 0) + 1
        if problem not in self.problems and len(self.problems) >= MAX_PROBLEMS:
            problem = "others"
        self.problems[problem] = self.problems.get(problem, 0) + 1
        self._complete(query[0], None)

    def _complete(self, query_id: int, data: NDArray[Any] | None) -> None:
        if not self._completed:
            self._loop.call_soon(self._tell_loadgen)
        self._completed.append((query_id, data))

    def _tell_loadgen(self) -> None:
        """Complete all that was answered since the last turn; the arrays live until it returns."""
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
