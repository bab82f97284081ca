"""Records while they are being written: one row per request, a few cheap stores each.

Rules of this file:
- The columns are numpy arrays, written through memoryviews, which is three times as fast.
- A row exists, as not answered, before its request is sent.
- If the number of requests is not known in advance, the columns grow by doubling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qaic_sched.loadgen.inject.records import Records
from qaic_sched.loadgen.inject.records_file import ARRAYS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qaic_sched.loadgen.targets.base import Reply

__all__ = ["OTHERS", "Rows", "count_problem"]

_INITIAL_ROWS = 1024
_MAX_PROBLEM_KINDS = 20
OTHERS = "others"
"""Counts all further kinds of problems."""


def count_problem(problems: dict[str, int], problem: str, count: int = 1) -> None:
    """Count an error message; after the first kinds, further ones are counted together."""
    if problem not in problems and len(problems) >= _MAX_PROBLEM_KINDS:
        problem = OTHERS
    problems[problem] = problems.get(problem, 0) + count


class Rows:
    """The columns of `Records`; without `planned_ns`, `grow` adds rows as needed."""

    def __init__(self, planned_ns: NDArray[np.int64] | None) -> None:
        self.origin = 0.0
        """The instant that counts as 0, in seconds of the loop's clock."""
        if planned_ns is None:
            planned_ns = np.full(_INITIAL_ROWS, -1, np.int64)
        self._use(Records.for_requests(np.ascontiguousarray(planned_ns, np.int64)))

    def _use(self, records: Records) -> None:
        self._records = records
        self.size = len(records.planned_ns)
        """The number of allocated rows."""
        self.planned = records.planned_ns.data
        self.sent = records.sent_ns.data
        self._done = records.done_ns.data
        self._outcome = records.outcome.data
        self._inference = records.inference.data
        self._device = records.device.data
        self._activation = records.activation.data
        self._submitted = records.submitted_ns.data
        self._started = records.started_ns.data
        self._completed = records.completed_ns.data

    def grow(self) -> None:
        """Double the number of rows."""
        old = self._records
        new = Records.for_requests(np.full(2 * self.size, -1, np.int64))
        for name in ARRAYS:
            getattr(new, name)[: self.size] = getattr(old, name)
        new.problems = old.problems
        self._use(new)

    def note(self, row: int, reply: Reply, at_ns: int) -> None:
        """Record the reply to a request, once."""
        self._done[row] = at_ns
        self._outcome[row] = reply.outcome
        if reply.problem is not None:
            count_problem(self._records.problems, reply.problem)
        inference = reply.inference
        if inference is not None:
            origin = self.origin
            self._inference[row] = inference.id
            self._device[row] = inference.device_id
            self._activation[row] = inference.activation
            self._submitted[row] = round((inference.submitted_at - origin) * 1e9)
            self._started[row] = round((inference.started_at - origin) * 1e9)
            self._completed[row] = round((inference.completed_at - origin) * 1e9)

    def records(self, count: int) -> Records:
        """Return the first `count` rows."""
        records = self._records
        if count < self.size:
            for name in ARRAYS:
                setattr(records, name, getattr(records, name)[:count].copy())
        return records
