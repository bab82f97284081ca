"""The data of the scheduler: what every decision is made from, and how a request leaves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qaic_sched.core.admission import Admission
from qaic_sched.core.commands import Commands
from qaic_sched.core.deadlines import Deadlines
from qaic_sched.core.health import Health
from qaic_sched.core.hedging import LEAST_LATE_S, Hedging
from qaic_sched.core.model import Activation, Batch, Policy, Request, RequestState
from qaic_sched.core.outliers import Outliers
from qaic_sched.core.retries import Retries, RetryBudget
from qaic_sched.core.slot_ledger import SlotLedger
from qaic_sched.core.stalls import Stalls
from qaic_sched.core.timeout_watch import UNMEASURED_LIMIT_S, TimeoutWatch

if TYPE_CHECKING:
    from qaic_sched.core.events import DeviceReported, LoopStalled

__all__ = ["SchedulerData"]

_NEVER: Final = float("inf")
_IN_FLIGHT: Final = RequestState.IN_FLIGHT
_LEAST_STUCK_S: Final = 5.0
"""An inference is never stuck before this time, unless the policy sets another one."""
_STUCK_EXECUTE_TIMES: Final = 50.0
"""It is stuck after this many mean execution times, but not before `_LEAST_STUCK_S`."""
_FINAL: Final = (
    RequestState.DONE,
    RequestState.FAILED,
    RequestState.CANCELLED,
    RequestState.EXPIRED,
    RequestState.REJECTED,
)


class SchedulerData:
    """Requests, batches, devices and counters; the first layer of the state machine."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        """The parameters of every decision; `PolicyChanged` replaces it."""
        self.shares_rows = policy.shares_rows
        """Whether requests share inferences, which no change of the policy changes."""
        self.is_draining = False
        """Whether no more requests may arrive, after a drain or a close."""
        self.is_closed = False
        """Whether everything was cancelled: only answers are still handled."""
        self.now = -_NEVER
        """The time of the last call of `handle`."""

        self.requests: dict[int, Request] = {}
        """Unresolved requests by id; rejected ones are never among them."""
        self.batches: dict[int, Batch] = {}
        """Batches without an answer by id, abandoned ones included; each takes one slot."""
        self.admission = Admission(policy)
        """Unresolved requests with samples never dispatched, whether queued or waiting for room."""
        self.retries = Retries()
        """Parts of unresolved requests that will be sent again."""
        self.retry_budget = RetryBudget(policy)
        """The budget for retries of failed inferences; retries after a loss do not count."""
        self.deadlines = Deadlines()
        """Deadlines of unresolved requests."""
        self.batch_closes_at = _NEVER
        """When the next batch may go without more samples or answers; infinite if never."""

        self.ledger = SlotLedger(takes_any_size=policy.takes_any_size)
        """Devices, activations and slots."""
        self.speeds = self.ledger.speeds
        """The ledger's own speed groups."""
        self.health = Health()
        """Which devices may get work."""
        self.outliers = Outliers()
        """Slow answers in a row, by device."""
        self.hedging = Hedging(policy)
        """The budget for hedges, and late activations without one."""

        self.stalls = Stalls()
        """When the event loop stood still lately."""

        self.accepted = 0
        """Requests ever accepted, rejected ones excluded."""
        self.num_in_flight = 0
        """Unresolved requests that are in flight, those with samples left to send excluded."""
        self.totals = dict.fromkeys(_FINAL, 0)
        """Requests ever resolved, by final state."""
        self.num_batches = 0
        """Batches ever dispatched, retries and hedges included."""
        self.num_retries = 0
        """Batches ever dispatched that repeat a failed part."""
        self.num_dropped = 0
        """Requests expired ahead of their deadline since the last answer."""

        self._last_request_id = -1
        """The id of the last request that arrived, rejected ones included."""
        self._mean_execute_s: float | None = None
        """Running mean of all execution times, of all sizes and devices; None before the first."""
        self._after_answers: list[DeviceReported | LoopStalled] = []
        """Events of the current call that are handled after all answers in it."""
        self._commands = Commands()
        """The commands that the current call of `handle` will return."""
        # Last, as it takes a bound method: compiled, attributes set after that are slower to read.
        self.hedge_watch = TimeoutWatch(self.hedging.limit_s, LEAST_LATE_S)
        """Finds activations whose batch is late; empty under a policy without hedges."""
        self.stuck_watch = TimeoutWatch(self._stuck_limit_s, _LEAST_STUCK_S)
        """Finds activations whose batch is stuck: it watches all that hold a batch."""

    @property
    def num_first_inferences(self) -> int:
        """Batches ever dispatched, retries and hedges excluded."""
        return self.num_batches - self.num_retries - self.hedging.num_hedges

    def _resolve(self, request: Request, state: RequestState) -> None:
        if request.cursor < request.samples:
            self.admission.withdraw(request, state)
        elif request.state is _IN_FLIGHT:
            self.num_in_flight -= 1
        for part in request.retrying:
            self.retries.drop(part)
        request.state = state
        self.deadlines.forget(request)
        del self.requests[request.id]
        self.totals[state] += 1
        self._commands.resolve.append(request)

    def _expire(self) -> None:
        while (request := self.deadlines.overdue(self.now)) is not None:
            self._resolve(request, RequestState.EXPIRED)

    def _stuck_limit_s(self, activation: Activation) -> float:
        if self.policy.dispatch_timeout_s is not None:
            return self.policy.dispatch_timeout_s
        mean_s = self._mean_execute_s
        if mean_s is None:
            return UNMEASURED_LIMIT_S
        if self.policy.takes_any_size and activation.held:
            # The mean of all sizes says little of a batch that is far larger than most.
            times = activation.speed.group.times
            mean_s = max(mean_s, times.mean_s(activation.held[0].size))
        return max(_LEAST_STUCK_S, _STUCK_EXECUTE_TIMES * mean_s)

    @property
    def batches_queued(self) -> float:
        """Full batches queued: each request is one if requests share none."""
        queued = self.admission.queued
        if self.shares_rows:
            return queued.samples / self.policy.max_batch_size
        return float(queued.num_requests)
