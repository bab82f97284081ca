"""Who has been served how much: weights and guaranteed shares of the tenants of one queue.

Rules of this file:
- Each tenant has a clock that runs as it is served, the slower the higher its weight. Among
  requests of one priority, the tenant whose clock is behind is next (start-time fair queueing).
- A tenant that takes less than its part falls behind, but by no more than `SAVED` samples: so its
  bursts are served as if it were alone, and it is owed little for a time when it wanted nothing.
- A guaranteed share earns credit with every sample that is served, whoever gets it, up to `SAVED`.
  A tenant that has something queued and a whole sample of credit is next, before any priority.
- A tenant that nobody configured has weight 1 and no share; so has who names none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qaic_sched.core.model import Tenant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qaic_sched.core.model import Request

__all__ = ["SAVED", "Account", "Tenants"]

SAVED: Final = 100.0
"""Samples that a tenant may save up. Bursts within its part are shorter, as a rule: were arrivals
random at nine tenths of it, one in a thousand would find so many of its own before it."""
_DEFAULT = Tenant()
_FEW = 64
"""So many accounts of tenants that have nothing queued are kept, once there are too many."""


class Account:
    """One tenant's part of a queue."""

    __slots__ = ("clock", "credit", "num_bytes", "num_requests", "samples", "tenant")

    def __init__(self, tenant: Tenant, clock: float) -> None:
        self.tenant = tenant
        self.clock = clock
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
        "_num_strangers",
        "_too_many",
        "guaranteed",
        "num_active",
    )

    def __init__(self, configured: Mapping[str, Tenant]) -> None:
        self._configured = configured
        self._accounts: dict[str | None, Account] = {}
        self._clock = 0.0
        self._too_many = 2 * _FEW
        self.num_active = 0
        """Tenants that have something queued; of those `_num_strangers` are not configured."""
        self._num_strangers = 0
        self._active_weight = 0.0
        self._guarantee()

    def account(self, name: str | None) -> Account:
        """The account of a tenant, new if need be."""
        account = self._accounts.get(name)
        if account is None:
            if len(self._accounts) >= self._too_many:
                self._forget_idle()
            account = self._accounts[name] = Account(self._tenant(name), self._clock)
        return account

    def change(self, configured: Mapping[str, Tenant]) -> None:
        """Other weights and shares from now on; what everyone has been served still counts."""
        self._configured = configured
        for name, account in self._accounts.items():
            if account.num_requests:
                self._turn_up(account, -1)
            account.tenant = self._tenant(name)
            if account.num_requests:
                self._turn_up(account, 1)
            if not account.tenant.share:
                account.credit = 0.0
        self._guarantee()

    def _guarantee(self) -> None:
        # One by one: an account may be forgotten for the next one, unless it stands here.
        self.guaranteed: list[Account] = []
        for name, its in self._configured.items():
            if its.share:
                self.guaranteed.append(self.account(name))

    def _tenant(self, name: str | None) -> Tenant:
        return self._configured.get(name, _DEFAULT) if name is not None else _DEFAULT

    def enter(self, account: Account, request: Request) -> None:
        """A request of the tenant is queued now."""
        if not account.num_requests:
            self._turn_up(account, 1)
            account.clock = max(account.clock, self._clock - SAVED / account.tenant.weight)
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
        for each in self.guaranteed:
            each.credit = min(each.credit + each.tenant.share * samples, SAVED)
        if self.guaranteed:
            # Only what it got for its share makes it wait for the next time.
            is_owed = account.credit >= 1
            spent = account.credit - samples
            account.credit = spent if is_owed else max(spent, min(account.credit, 0.0))
        if len(self._accounts) > 1:
            self._clock = account.clock
            account.clock += samples / account.tenant.weight

    def owed(self) -> Account | None:
        """The tenant whose guaranteed share is furthest behind, if one is by a sample."""
        waiting = (each for each in self.guaranteed if each.num_requests and each.credit >= 1)
        return max(waiting, key=lambda each: each.credit, default=None)

    def part_of(self, account: Account) -> float:
        """Which part of the queue is the tenant's to fill, whoever else is here.

        Its share, and its weight's part of what no share is guaranteed of.
        """
        configured = self._configured.values()
        weights = sum((each.weight for each in configured), 0.0) + self._num_strangers
        if account.tenant is _DEFAULT and not account.num_requests:
            weights += _DEFAULT.weight
        rest = 1 - sum((each.share for each in configured), 0.0)
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
        """Forget who has nothing queued, but for the few that took most ahead of others."""
        kept, idle = {}, []
        for name, each in self._accounts.items():
            if each.num_requests or each in self.guaranteed:
                kept[name] = each
            elif each.clock > self._clock:
                idle.append((each.clock, name, each))
        idle.sort(key=lambda entry: entry[0])
        kept.update((name, each) for _, name, each in idle[-_FEW:])
        self._accounts = kept
        self._too_many = 2 * max(_FEW, len(kept))
