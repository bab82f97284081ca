"""Fair service between the tenants of one queue: weights and guaranteed shares.

Rules of this file:
- Each tenant has a clock that runs as it is served, the slower the higher its weight. Among the
  requests of one priority, the tenant with the earliest clock is next (start-time fair queueing).
- A tenant that takes less than its part falls behind, by at most `MAX_SAVED_SAMPLES`. So its bursts
  are served as if it were alone, and it is owed little for a time when it wanted nothing.
- A guaranteed share earns credit with every sample served to any tenant, up to that bound. A queued
  tenant with a whole sample of credit is next, before any priority.
- A tenant that is not configured has weight 1 and no share, and so do requests without a tenant.
- A tenant whose request made an inference fail is isolated for a while: its requests share
  inferences with no other tenant's. It is served as much less as it costs to find such requests.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

from qaic_sched.core.model import Tenant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qaic_sched.core.model import Request

__all__ = ["MAX_SAVED_SAMPLES", "Account", "Tenants"]

MAX_SAVED_SAMPLES: Final = 100.0
"""Samples that a tenant may save up. Bursts within its part are mostly shorter: with random
arrivals at nine tenths of it, one request in a thousand would find this many of its own ahead."""
_LEAST_COMPACT_SIZE: Final = 16
"""A heap of priorities is not compacted below this number of entries."""
_NO_PRIORITIES: Final[list[int]] = []
"""Shared by all accounts that do not keep their priorities; never changed."""
_DEFAULT = Tenant()
_ISOLATION_S: Final = 10.0
"""Seconds for which a tenant is isolated after each request of it that made an inference fail."""
_MAX_ISOLATED: Final = 64
"""Most tenants that are isolated; the one isolated longest makes room for another."""
_MAX_IDLE_ACCOUNTS = 32
"""Accounts of tenants with nothing queued that are kept when idle accounts are dropped."""


class Account:
    """One tenant's part of a queue."""

    __slots__ = (
        "_by_urgency",
        "_priorities",
        "clock",
        "credit",
        "is_isolated",
        "num_bytes",
        "num_requests",
        "samples",
        "tenant",
    )

    def __init__(self, tenant: Tenant, clock: float) -> None:
        self.tenant = tenant
        """Its weight and share, the default ones if it is not configured."""
        self.clock = clock
        """Samples served to it over its weight, in the queue's virtual time."""
        self.credit = 0.0
        """Samples by which its guaranteed share is behind; 0 without a share."""
        self.num_requests = 0
        """Its requests in the queue; stale entries are not counted."""
        self.samples = 0
        """Samples of these never dispatched."""
        self.num_bytes = 0
        """Input bytes of these, each request's until its last sample is taken."""
        self.is_isolated = False
        """Whether its requests share inferences with no other tenant's."""
        self._priorities: set[int] | None = None
        """The priorities in which it has a queue, once someone has asked for the highest."""
        self._by_urgency: list[int] = _NO_PRIORITIES
        """A heap with lazy removal: these priorities, negated."""

    def add_priority(self, priority: int) -> None:
        """Note that the tenant has a queue of this priority now."""
        if self._priorities is None:
            return
        self._priorities.add(priority)
        heappush(self._by_urgency, -priority)
        if len(self._by_urgency) > 2 * len(self._priorities) + _LEAST_COMPACT_SIZE:
            self._by_urgency = [-each for each in self._priorities]
            heapify(self._by_urgency)

    def drop_priority(self, priority: int) -> None:
        """Note that it has none any more."""
        if self._priorities is not None:
            self._priorities.remove(priority)

    def keep_priorities(self, priorities: Iterable[int] | None) -> None:
        """Keep the priorities from now on, which are these so far; None is not to keep them."""
        self._priorities = None if priorities is None else set(priorities)
        self._by_urgency = [-each for each in self._priorities or ()]
        heapify(self._by_urgency)

    def highest(self) -> int | None:
        """Return the highest priority in which it has a queue; None if they are not kept."""
        if self._priorities is None:
            return None
        while -self._by_urgency[0] not in self._priorities:
            heappop(self._by_urgency)
        return -self._by_urgency[0]


class Tenants:
    """The accounts of one queue; call it for each request that comes, goes or is served."""

    __slots__ = (
        "_accounts",
        "_active_weight",
        "_clock",
        "_configured",
        "_configured_weight",
        "_max_accounts",
        "_num_strangers",
        "_unshared",
        "guaranteed",
        "isolated",
        "num_active",
    )

    def __init__(self, configured: Mapping[str, Tenant]) -> None:
        self._configured = configured
        """Configured tenants by name."""
        self._accounts: dict[str | None, Account] = {}
        """By tenant name; idle tenants that are not configured may be absent."""
        self._clock = 0.0
        """The queue's virtual time: the clock of the tenant served last."""
        self._max_accounts = 2 * _MAX_IDLE_ACCOUNTS
        """Accounts from which on idle ones are dropped."""
        self.num_active = 0
        """Tenants with something queued."""
        self._num_strangers = 0
        """Those of them that are not configured."""
        self._active_weight = 0.0
        """Weight of all tenants with something queued."""
        self.isolated: dict[str | None, float] = {}
        """When the isolation of each isolated tenant ends, by name, the earliest first."""
        self._guarantee()

    def account(self, name: str | None) -> Account:
        """Return the account of a tenant, a new one if it has none."""
        account = self._accounts.get(name)
        if account is None:
            if len(self._accounts) >= self._max_accounts:
                self._drop_idle()
            account = self._accounts[name] = Account(self._tenant(name), self._clock)
        return account

    def change(self, configured: Mapping[str, Tenant]) -> None:
        """Follow other weights and shares from now on; past service still counts."""
        self._configured = configured
        for name, account in self._accounts.items():
            if account.num_requests:
                self._count_active(account, -1)
            account.tenant = self._tenant(name)
            account.keep_priorities(None)
            if account.num_requests:
                self._count_active(account, 1)
            if not account.tenant.share:
                account.credit = 0.0
        self._guarantee()

    def _guarantee(self) -> None:
        configured = self._configured.values()
        self._configured_weight = sum((each.weight for each in configured), 0.0)
        """Weight of all configured tenants, queued or not."""
        self._unshared = 1 - sum((each.share for each in configured), 0.0)
        """The fraction of all samples that no tenant is guaranteed."""
        # Extended one by one: `account` may drop idle accounts that are not in here.
        self.guaranteed: list[Account] = []
        """Accounts with a guaranteed share, queued or not."""
        for name, its in self._configured.items():
            if its.share:
                self.guaranteed.append(self.account(name))

    def _tenant(self, name: str | None) -> Tenant:
        return self._configured.get(name, _DEFAULT) if name is not None else _DEFAULT

    def enter(self, account: Account, request: Request) -> None:
        """Count a request of the tenant that is queued now."""
        if not account.num_requests:
            self._count_active(account, 1)
            earliest = self._clock - MAX_SAVED_SAMPLES / account.tenant.weight
            account.clock = max(account.clock, earliest)
        account.num_requests += 1
        account.samples += request.samples
        account.num_bytes += request.num_bytes

    def leave(self, request: Request) -> None:
        """Count out a request that leaves the queue, with the samples that are left of it."""
        account = self._accounts[request.tenant]
        account.num_requests -= 1
        account.samples -= request.samples - request.cursor
        account.num_bytes -= request.num_bytes
        if not account.num_requests:
            self._count_active(account, -1)

    def serve(self, account: Account, samples: int) -> None:
        """Count samples of the tenant that are taken from the queue."""
        for each in self.guaranteed:
            each.credit = min(each.credit + each.tenant.share * samples, MAX_SAVED_SAMPLES)
        if self.guaranteed:
            # Only samples served for its share make a tenant wait for the next credit.
            is_owed = account.credit >= 1
            spent = account.credit - samples
            account.credit = spent if is_owed else max(spent, min(account.credit, 0.0))
        if len(self._accounts) > 1:
            self._clock = account.clock
            account.clock += samples / account.tenant.weight

    def isolate(self, name: str | None, now: float, cost: int) -> None:
        """Isolate a tenant for a while, and count `cost` samples as served to it."""
        account = self.account(name)
        account.is_isolated = True
        account.clock += cost / account.tenant.weight
        self.isolated.pop(name, None)
        self.isolated[name] = now + _ISOLATION_S
        if len(self.isolated) > _MAX_ISOLATED:
            self._readmit(next(iter(self.isolated)))

    def end_isolation(self, now: float) -> None:
        """End the isolation of every tenant whose time is over."""
        for name, until in tuple(self.isolated.items()):
            if until > now:
                return
            self._readmit(name)

    def _readmit(self, name: str | None) -> None:
        del self.isolated[name]
        self._accounts[name].is_isolated = False

    def owed(self) -> Account | None:
        """Return the queued tenant with the most credit, if that is at least a sample."""
        waiting = (each for each in self.guaranteed if each.num_requests and each.credit >= 1)
        return max(waiting, key=lambda each: each.credit, default=None)

    def part_of(self, account: Account) -> float:
        """Return the fraction of the queue that the tenant may fill, however full the rest is.

        It is the tenant's share, and its weight's part of the fraction without a guarantee.
        """
        weights = self._configured_weight + self._num_strangers
        if account.tenant is _DEFAULT and not account.num_requests:
            weights += _DEFAULT.weight
        return account.tenant.share + self._unshared * account.tenant.weight / weights

    def fraction_of(self, account: Account) -> float:
        """Return the fraction of the service that the tenant gets while all queued ones stay."""
        others = self._active_weight - (account.tenant.weight if account.num_requests else 0.0)
        return account.tenant.weight / (max(others, 0.0) + account.tenant.weight)

    def _count_active(self, account: Account, sign: int) -> None:
        self.num_active += sign
        self._active_weight += sign * account.tenant.weight
        if account.tenant is _DEFAULT:
            self._num_strangers += sign

    def _drop_idle(self) -> None:
        """Drop accounts with nothing queued, except for isolated ones and a few furthest ahead."""
        kept, idle = {}, []
        for name, each in self._accounts.items():
            if each.num_requests or each.is_isolated or each.tenant.share:
                kept[name] = each
            elif each.clock > self._clock:
                idle.append((each.clock, name, each))
        idle.sort(key=lambda entry: entry[0])
        kept.update((name, each) for _, name, each in idle[-_MAX_IDLE_ACCOUNTS:])
        self._accounts = kept
        self._max_accounts = 2 * max(_MAX_IDLE_ACCOUNTS, len(kept))
