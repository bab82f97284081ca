"""Parts that failed and will be sent again, in groups, and the budget for that."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qaic_sched.core.model import Part, Policy, RetryGroup

__all__ = ["Retries", "RetryBudget"]

_RESERVE_BATCHES: Final = 16
"""Full batches whose every sample may be retried even without any earlier inference: more than a
device holds that fails everything on its way into quarantine."""
_ROUNDING: Final = 1e-6
"""Tolerance for the sum of many fractions of a retry."""


class Retries:
    """Groups of parts to be sent again, in one queue per device that failed them.

    So the groups that must avoid one device never delay the groups that must avoid another.
    `Request.retrying` lists a request's own parts here.
    """

    __slots__ = ("_by_device",)

    def __init__(self) -> None:
        self._by_device: dict[int, OrderedDict[RetryGroup, None]] = {}
        """Device -> the groups that it failed last, the longest waiting first; never empty."""

    def __len__(self) -> int:
        """Count the groups."""
        return sum(map(len, self._by_device.values()))

    def __iter__(self) -> Iterator[RetryGroup]:
        """Iterate over all groups, by device."""
        for groups in self._by_device.values():
            yield from groups

    def devices(self) -> tuple[int, ...]:
        """Return the devices that some group should avoid; -1 stands for none."""
        return tuple(self._by_device)

    def first(self, device_id: int) -> RetryGroup | None:
        """Return the longest waiting group that a device failed."""
        groups = self._by_device.get(device_id)
        return next(iter(groups)) if groups else None

    def add(self, group: RetryGroup) -> None:
        """Add a group behind those that failed on the same device."""
        self._by_device.setdefault(group.failed_on, OrderedDict())[group] = None
        for part in group.parts:
            part.group = group
            part.request.retrying += (part,)

    def take(self, group: RetryGroup) -> None:
        """Remove a group that is sent again."""
        self._remove(group)
        for part in group.parts:
            _forget(part)

    def drop(self, part: Part) -> None:
        """Remove a part whose request is resolved; the rest of its group stays."""
        group = part.group
        assert group is not None
        group.parts.remove(part)
        _forget(part)
        failure = group.failure
        if failure is not None:
            failure.may_be_requests = True
        if not group.parts:
            self._remove(group)
            if failure is not None:
                failure.num_open -= 1

    def _remove(self, group: RetryGroup) -> None:
        groups = self._by_device[group.failed_on]
        del groups[group]
        if not groups:
            del self._by_device[group.failed_on]


def _forget(part: Part) -> None:
    request = part.request
    request.retrying = tuple(each for each in request.retrying if each is not part)


class RetryBudget:
    """Keeps a host whose inferences fail from doubling its own load.

    Each inference earns a fraction of a retry. No more than the reserve can be saved, and the
    reserve is there from the start: an hour without a failure does not pay for a minute of failures
    only.
    """

    __slots__ = ("_earned", "_fraction", "_inferences", "_left", "_reserve", "num_spent")

    def __init__(self, policy: Policy) -> None:
        self._fraction = policy.retry_max_extra
        """Retries that one inference earns."""
        self._reserve = float(_RESERVE_BATCHES * policy.max_batch_size)
        """Most retries that can be saved."""
        self._left = self._reserve
        """Retries that may be spent now."""
        self._inferences = 0
        """Inferences that have earned already; retries and hedges are not among them."""
        self._earned = 0.0
        """Retries ever earned, the reserve excluded."""
        self.num_spent = 0
        """Retries ever spent."""

    def change(self, policy: Policy, inferences: int) -> None:
        """Earn another fraction from now on, after `inferences` that repeated nothing."""
        self._earn(inferences)
        self._fraction = policy.retry_max_extra

    def spend(self, inferences: int) -> bool:
        """Spend one retry if there is one, after `inferences` that repeated nothing."""
        self._earn(inferences)
        if self._left < 1:
            return False
        self._left -= 1
        self.num_spent += 1
        return True

    def _earn(self, inferences: int) -> None:
        earned = self._fraction * (inferences - self._inferences)
        self._inferences = inferences
        self._earned += earned
        self._left = min(self._left + earned, self._reserve)

    def check(self) -> None:
        """Assert that no more was spent or saved than the budget allows."""
        most = self._reserve + self._earned + _ROUNDING
        assert self.num_spent <= most, "more retries than the budget has"
        assert 0 <= self._left <= self._reserve, "more saved up than the reserve"
