"""Parts that a device failed and that are to be tried again, and how many may be."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qaic_sched.core.model import Part, Policy

__all__ = ["Retries", "RetryBudget"]

_RESERVE = 16
"""Full batches whose every sample may be tried again, however few inferences there were: more
than one device holds that fails all of them on its way into quarantine."""
_ROUNDING = 1e-6
"""Shares of a retry that are earned one by one do not add up to just as many."""


class Retries:
    """One line per device that failed them, so that those which wait for another hold up nobody.

    A request in `retrying` lists its own parts here.
    """

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[int, OrderedDict[Part, None]] = {}

    def __len__(self) -> int:
        """How many parts wait here."""
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Part]:
        """All parts, by device."""
        for line in self._lines.values():
            yield from line

    def devices(self) -> tuple[int, ...]:
        """The devices that some parts here are to avoid."""
        return tuple(self._lines)

    def first(self, device_id: int) -> Part | None:
        """The part that has waited longest to be anywhere but on this device."""
        line = self._lines.get(device_id)
        return next(iter(line)) if line else None

    def add(self, part: Part) -> None:
        """Line up a part behind those that failed on the same device."""
        self._lines.setdefault(part.failed_on, OrderedDict())[part] = None
        part.request.retrying += (part,)

    def remove(self, part: Part) -> None:
        """Take a part out: it is being tried, or its request is resolved."""
        line = self._lines[part.failed_on]
        del line[part]
        if not line:
            del self._lines[part.failed_on]
        request = part.request
        request.retrying = tuple(each for each in request.retrying if each is not part)


class RetryBudget:
    """Keeps a host whose inferences fail from doubling its own load.

    Each inference earns a share of a retry. Nobody saves up more than the reserve, which is there
    from the start: an hour without a failure does not pay for a minute of nothing else.
    """

    __slots__ = ("_earned", "_inferences", "_left", "_reserve", "_share", "num_spent")

    def __init__(self, policy: Policy) -> None:
        self._share = policy.retry_max_extra
        self._reserve = self._left = float(_RESERVE * policy.max_batch_size)
        self._inferences = 0
        self._earned = 0.0
        self.num_spent = 0

    def change(self, policy: Policy, inferences: int) -> None:
        """Earn another share from now on, after so many inferences that were no retries."""
        self._earn(inferences)
        self._share = policy.retry_max_extra

    def spend(self, inferences: int) -> bool:
        """Take one retry, if there is one, after so many inferences that were none themselves."""
        self._earn(inferences)
        if self._left < 1:
            return False
        self._left -= 1
        self.num_spent += 1
        return True

    def _earn(self, inferences: int) -> None:
        earned = self._share * (inferences - self._inferences)
        self._inferences = inferences
        self._earned += earned
        self._left = min(self._left + earned, self._reserve)

    def check(self) -> None:
        """Assert that no more was spent than was there and was earned."""
        most = self._reserve + self._earned + _ROUNDING
        assert self.num_spent <= most, "more retries than the budget has"
        assert 0 <= self._left <= self._reserve, "more saved up than the reserve"
