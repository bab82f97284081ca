"""Admission: which requests are queued at once, which wait for room, which are rejected.

The bounds are on samples and bytes that are queued, not on those in flight. A request beyond them
waits or is rejected. One that is larger than a bound is admitted alone, when the queue is empty.
A request never overtakes one of equal or higher priority that waits.

If requests beyond the bounds are rejected and tenants are configured, each tenant may fill only
its own part of the queue; otherwise the tenant that sends most would fill all of it. Requests that
wait instead do so in fair order and need no such parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qaic_sched.core.model import RequestState
from qaic_sched.core.request_queue import RequestQueue

if TYPE_CHECKING:
    from qaic_sched.core.model import Policy, Request

__all__ = ["Admission"]


class Admission:
    """The bounded queue, and the requests that wait for room in it."""

    __slots__ = ("last_of_old_policy", "policy", "queued", "waiting")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        """The policy in force."""
        self.queued = RequestQueue(RequestState.QUEUED, policy.tenants)
        """Queued requests with samples never dispatched; those only to be retried are absent."""
        self.waiting = RequestQueue(RequestState.WAITING, policy.tenants)
        """Requests that wait for room; nothing of them has been dispatched."""
        self.last_of_old_policy = -1
        """The last request that arrived under an earlier policy, whose bounds it obeyed."""

    def arrive(self, request: Request) -> bool:
        """Queue a request or let it wait; return False if it must be rejected."""
        head = self.waiting.head() if self.waiting.num_requests else None
        if (head is None or head.priority < request.priority) and self.has_room(request):
            self.queued.push(request)
        elif self.policy.waits_when_full:
            self.waiting.push(request)
        else:
            return False
        return True

    def change(self, policy: Policy, last_request_id: int) -> None:
        """Follow another policy after `last_request_id`; requests that were admitted stay."""
        self.policy = policy
        self.last_of_old_policy = last_request_id
        self.queued.tenants.change(policy.tenants)
        self.waiting.tenants.change(policy.tenants)

    def admit_waiting(self) -> None:
        """Queue waiting requests in order, as far as there is room."""
        while self.waiting.num_requests:
            head = self.waiting.head()
            if head is None or not self.has_room(head):
                return
            self.waiting.pop(head)
            self.queued.push(head)

    def withdraw(self, request: Request, state: RequestState) -> None:
        """Remove a request that is resolved with samples left, wherever it is."""
        queue = self.waiting if request.state is RequestState.WAITING else self.queued
        queue.leave(request, state)

    def has_room(self, request: Request) -> bool:
        """Return whether a request fits the bounds now."""
        queued = self.queued
        if not queued.num_requests:
            return True
        max_bytes = self.policy.max_bytes
        if queued.samples + request.samples > self.policy.max_samples:
            return False
        if max_bytes is not None and queued.num_bytes + request.num_bytes > max_bytes:
            return False
        return self.policy.waits_when_full or not self.policy.tenants or self._is_within(request)

    def samples_before(self, request: Request) -> float:
        """Return the samples that will certainly be served before a newcomer, as things are."""
        before = self.queued.samples_before(request)
        return before + self.waiting.samples_before(request) if self.waiting.samples else before

    def requests_before(self, request: Request) -> int:
        """Return the requests that will certainly be served before a newcomer, as things are."""
        return self.queued.requests_before(request) + self.waiting.requests_before(request)

    def _is_within(self, request: Request) -> bool:
        """Return whether a request fits its tenant's part of the queue; a first one always does."""
        tenants, max_bytes = self.queued.tenants, self.policy.max_bytes
        account = tenants.account(request.tenant)
        if not account.num_requests:
            return True
        part = tenants.part_of(account)
        return account.samples + request.samples <= part * self.policy.max_samples and (
            max_bytes is None or account.num_bytes + request.num_bytes <= part * max_bytes
        )

    def samples_over(self, request: Request) -> int:
        """Return the samples that must leave the queue before a request fits; at least 1."""
        over = self.queued.samples + request.samples - self.policy.max_samples
        return min(max(over, 1), self.queued.samples)
