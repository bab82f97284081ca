"""Who has been served how much: weights and guaranteed shares of the tenants of one queue.

Rules of this file:
- Each tenant has a clock that runs as it is served, the slower the higher its weight. Among
  requests of one priority, the tenant whose clock is behind is next (start-time fair queueing).
- Who comes back after having had nothing queued starts at the clock of whoever is served then: it
  is owed nothing for the time when it wanted nothing, and pays what it took ahead of others.
- A guaranteed share earns credit with every sample that is served while the tenant waits, whoever
  gets it. A tenant with a whole sample of credit is next, before any priority.
- A tenant that nobody configured has weight 1 and no share; so has who names none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qaic_sched.core.model import Tenant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qaic_sched.core.model import Request

__all__ = ["Account", "Tenants"]

_DEFAULT = Tenant()
_FEW = 64
"""So many accounts are kept without asking whether anybody still needs them."""


class Account:
    """One tenant's part of a queue."""

    __slots__ = ("clock", "credit", "num_bytes", "num_requests", "samples", "tenant")

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.clock = 0.0
        """Samples served, over the weight, in the queue's virtual time."""
        self.credit = 0.0
        """Samples that the guaranteed share is behind."""
        self.num_requests = self.samples = self.num_bytes = 0


class Tenants:
    """The accounts of one queue; told of each request that comes, goes or is served."""

    __slots__ = (
        "_accounts",
        "_active_weight",
        "_clock",
        "_configured",
        "_guaranteed",
        "_num_strangers",
        "_too_many",
        "num_active",
    )

    def __init__(self, configured: Mapping[str, Tenant]) -> None:
        self._configured = configured
        self._accounts: dict[str | None, Account] = {}
        self._clock = 0.0
        self._too_many = _FEW
        self.num_active = 0
        """Tenants that have something queued; of those `_num_strangers` are not configured."""
        self._num_strangers = 0
        self._active_weight = 0.0
        self._guaranteed = [self.account(name) for name, its in configured.items() if its.share]

    def account(self, name: str | None) -> Account:
        """The account of a tenant, new if need be."""
        account = self._accounts.get(name)
        if account is None:
            if len(self._accounts) >= self._too_many:
                self._forget_idle()
            tenant = self._configured.get(name, _DEFAULT) if name is not None else _DEFAULT
            account = self._accounts[name] = Account(tenant)
        return account

    def enter(self, account: Account, request: Request) -> None:
        """A request of the tenant is queued now."""
        if not account.num_requests:
            self._turn_up(account, 1)
            account.clock = max(account.clock, self._clock)
        account.num_requests += 1
        account.samples += request.samples
        account.num_bytes += request.num_bytes

    def leave(self, request: Request) -> None:
        """A request is queued no more, with the samples that are left of it."""
        account = self._accounts[request.tenant]
        account.num_requests -= 1
        account.samples -= request.samples - request.cursor
        account.num_bytes -= request.num_bytes
        if not account.num_requests:
            self._turn_up(account, -1)

    def serve(self, account: Account, samples: int) -> None:
        """So many samples of the tenant are being taken."""
        for each in self._guaranteed:
            if each.num_requests:
                each.credit += each.tenant.share * samples
        if self._guaranteed:
            # Only what it got for its share makes it wait for the next time.
            is_owed = account.credit >= 1
            spent = account.credit - samples
            account.credit = spent if is_owed else max(spent, min(account.credit, 0.0))
        if self.num_active > 1:
            self._clock = account.clock
            account.clock += samples / account.tenant.weight

    def owed(self) -> Account | None:
        """The tenant whose guaranteed share is furthest behind, if one is by a sample."""
        waiting = (each for each in self._guaranteed if each.num_requests and each.credit >= 1)
        return max(waiting, key=lambda each: each.credit, default=None)

    def part_of(self, account: Account) -> float:
        """Which part of the queue is the tenant's to fill, whoever else is here.

        Its share, and its weight's part of what no share is guaranteed of.
        """
        configured = self._configured.values()
        weights = sum(each.weight for each in configured) + self._num_strangers
        if account.tenant is _DEFAULT and not account.num_requests:
            weights += _DEFAULT.weight
        rest = 1 - sum(each.share for each in configured)
        return account.tenant.share + rest * account.tenant.weight / weights

    def fraction_of(self, account: Account) -> float:
        """Which part of what is served goes to the tenant while all those here stay."""
        others = self._active_weight - (account.tenant.weight if account.num_requests else 0.0)
        return account.tenant.weight / (max(others, 0.0) + account.tenant.weight)

    def _turn_up(self, account: Account, sign: int) -> None:
        self.num_active += sign
        self._active_weight += sign * account.tenant.weight
        if account.tenant is _DEFAULT:
            self._num_strangers += sign

    def _forget_idle(self) -> None:
        """Forget who has nothing queued and has taken nothing ahead of others."""
        self._accounts = {
            name: each
            for name, each in self._accounts.items()
            if each.num_requests or each.clock > self._clock or each in self._guaranteed
        }
        self._too_many = max(_FEW, 2 * len(self._accounts))
