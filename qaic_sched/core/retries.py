"""Parts that a device failed and that are to be tried again, by the device to avoid."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qaic_sched.core.model import Part

__all__ = ["Retries"]


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
