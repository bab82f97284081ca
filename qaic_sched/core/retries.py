"""Parts that failed and will be sent again, and the budget for that."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qaic_sched.core.model import Part, Policy

__all__ = ["Retries", "RetryBudget"]

_RESERVE_BATCHES: Final = 16
"""Full batches whose every sample may be retried even without any earlier inference: more than a
device holds that fails everything on its way into quarantine."""
_ROUNDING: Final = 1e-6
"""Tolerance for the sum of many fractions of a retry."""


class Retries:
    """Parts to be sent again, in one queue per device that failed them.

    So the parts that must avoid one device never delay the parts that must avoid another.
    `Request.retrying` lists a request's own parts here.
    """

    __slots__ = ("_by_device",)

    def __init__(self) -> None:
        self._by_device: dict[int, OrderedDict[Part, None]] = {}
        """Device -> the parts that it failed last, the longest waiting first; never empty."""

    def __len__(self) -> int:
        """Count the parts."""
        return sum(map(len, self._by_device.values()))

    def __iter__(self) -> Iterator[Part]:
        """Iterate over all parts, by device."""
        for parts in self._by_device.values():
            yield from parts

    def devices(self) -> tuple[int, ...]:
        """Return the devices that some part should avoid."""
        return tuple(self._by_device)

    def first(self, device_id: int) -> Part | None:
        """Return the longest waiting part that a device failed."""
        parts = self._by_device.get(device_id)
        return next(iter(parts)) if parts else None

    def add(self, part: Part) -> None:
        """Add a part behind the others that its device failed."""
        self._by_device.setdefault(part.failed_on, OrderedDict())[part] = None
        part.request.retrying += (part,)

    def remove(self, part: Part) -> None:
        """Remove a part that is sent again, or whose request is resolved."""
        parts = self._by_device[part.failed_on]
        del parts[part]
        if not parts:
            del self._by_device[part.failed_on]
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
