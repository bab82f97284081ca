"""What the scheduler knows: the records that every decision is made from.

The state comes in three layers, each a class on top of the one before: what is known (here), how
work is sent out (`dispatching`), what happens when devices fail or are late (`recovery`). The door
to all of it is `SchedulerState.handle`, in `state`.
"""

from __future__ import annotations

from typing import Final

from qaic_sched.core.admission import Admission
from qaic_sched.core.commands import Commands
from qaic_sched.core.deadlines import Deadlines
from qaic_sched.core.health import DeviceState, Health
from qaic_sched.core.laggards import Laggards
from qaic_sched.core.model import (
    Activation,
    Batch,
    DeviceStatistics,
    Policy,
    Request,
    RequestState,
    Statistics,
)
from qaic_sched.core.placement import SlotLedger
from qaic_sched.core.retries import Retries, RetryBudget
from qaic_sched.core.watch import Watch

__all__ = ["LEAST_LATE_S", "Records"]

_NEVER: Final = float("inf")
_IN_FLIGHT: Final = RequestState.IN_FLIGHT
_TIMEOUT_S: Final = 60.0
"""When an inference counts as stuck, or late, before any was measured."""
LEAST_LATE_S: Final = 0.010
"""It is never late before that: it may be the host that was late, which a hedge does not mend."""
_LEAST_TIMEOUT_S: Final = 5.0
_TIMEOUT: Final = 50.0
"""When it is stuck after that: so many mean execute times, and at least so many seconds."""
_FINAL: Final = (
    RequestState.DONE,
    RequestState.FAILED,
    RequestState.CANCELLED,
    RequestState.EXPIRED,
    RequestState.REJECTED,
)


class Records:
    """Requests, batches, devices and counters, and how a request leaves them."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        #: Unresolved requests by id.
        self.requests: dict[int, Request] = {}
        #: Batches that a device holds, by id; each has one slot of the ledger.
        self.batches: dict[int, Batch] = {}
        #: Unresolved requests that have samples never dispatched, in the order of service.
        self.admission = Admission(policy)
        #: Parts of unresolved requests to be tried again.
        self.retries = Retries()
        self.retry_budget = RetryBudget(policy)
        self.ledger = SlotLedger()
        self.deadlines = Deadlines()
        self.health = Health()
        self.laggards = Laggards()
        #: Activations at work: when what they are at has taken so long that it is stuck, or late.
        self.stuck = Watch(self._timeout_s, _LEAST_TIMEOUT_S)
        self.late = Watch(self._late_s, LEAST_LATE_S)
        #: Those that are late, and hold what could not be sent elsewhere yet.
        self.unhedged: list[Activation] = []
        #: Whether the queue was too long for hedges when they were last thought of.
        self.is_crowded = False
        self.num_hedges = 0
        self.num_retries = 0
        #: Requests dropped before their deadline since the last answer.
        self.num_given_up = 0
        #: Requests ever accepted, now in flight, and ended in each final state.
        self.accepted = 0
        self.num_in_flight = 0
        self.totals = dict.fromkeys(_FINAL, 0)
        self.is_draining = False
        self.is_closed = False
        #: The time of the last call of `handle`.
        self.now = -_NEVER
        #: The last request that came under another policy, whose bounds it obeyed.
        self.last_of_old_policy = -1
        #: When the partial batch that now waits for company goes without.
        self.batch_closes_at = _NEVER

        self.num_batches = 0
        self._last_request_id = -1
        self._mean_execute_s: float | None = None
        self._commands = Commands()

    def statistics(self) -> Statistics:
        """A snapshot of all gauges."""
        waiting = self.admission.waiting.num_requests
        return Statistics(
            accepted=self.accepted,
            **{state.value: total for state, total in self.totals.items()},
            waiting=waiting,
            queued=len(self.requests) - waiting - self.num_in_flight,
            in_flight=self.num_in_flight,
            queued_samples=self.admission.queued.samples,
            queued_bytes=self.admission.queued.num_bytes,
            devices={
                device_id: DeviceStatistics(
                    self._state_of(device_id),
                    len(activations),
                    sum(each.in_flight for each in activations),
                )
                for device_id, activations in self.ledger.devices.items()
            },
        )

    @property
    def set_size(self) -> int:
        """Batches that an activation may hold, the running one included; 0 before any device."""
        return self.ledger.set_size

    def is_quarantined(self, device_id: int) -> bool:
        """Whether a device that was opened is given nothing until it has been reloaded."""
        return self.health.is_out(device_id)

    def was_slow(self, device_id: int) -> bool:
        """Whether the last quarantine of a device was for being far slower than the others."""
        return self.health.is_slow(device_id)

    def _state_of(self, device_id: int) -> str:
        state = self.health.state_of(device_id)
        is_leaving = device_id in self.ledger.leaving and state is not DeviceState.QUARANTINED
        return "retiring" if is_leaving else state.value

    @property
    def num_first_inferences(self) -> int:
        """Inferences that repeated nothing."""
        return self.num_batches - self.num_retries - self.num_hedges

    def _resolve(self, request: Request, state: RequestState) -> None:
        if request.cursor < request.samples:
            self.admission.withdraw(request, state)
        elif request.state is _IN_FLIGHT:
            self.num_in_flight -= 1
        for part in request.retrying:
            self.retries.remove(part)
        request.state = state
        self.deadlines.forget(request)
        del self.requests[request.id]
        self.totals[state] += 1
        self._commands.resolve.append(request)

    def _expire(self) -> None:
        while (request := self.deadlines.overdue(self.now)) is not None:
            self._resolve(request, RequestState.EXPIRED)

    def _late_s(self, activation: Activation) -> float:
        after = self.policy.hedge_after
        if after is None:
            return _TIMEOUT_S
        batch = activation.held[0]
        # What was sent before anything was measured is judged by what is known now.
        expected_s = batch.expected_s or self.ledger.mean_s(activation.device_id, batch.size)
        if not expected_s:
            return _TIMEOUT_S
        return max(after * expected_s, LEAST_LATE_S)

    def _timeout_s(self, _activation: Activation) -> float:
        if self.policy.dispatch_timeout_s is not None:
            return self.policy.dispatch_timeout_s
        if self._mean_execute_s is None:
            return _TIMEOUT_S
        return max(_LEAST_TIMEOUT_S, _TIMEOUT * self._mean_execute_s)
