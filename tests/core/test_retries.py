"""Parts to be tried again, by the device to avoid."""

from __future__ import annotations

from qaic_sched.core.model import Part, Request
from qaic_sched.core.retries import Retries


def _part(request: Request, failed_on: int) -> Part:
    return Part(request, 0, 1, attempts=1, failed_on=failed_on)


def test_parts_line_up_by_the_device_that_failed_them() -> None:
    """Each device's line is served in order, and holds up no other."""
    retries = Retries()
    request = Request(0, 9, 0.0)
    first, second, other = _part(request, 3), _part(request, 3), _part(request, 1)
    for part in (first, second, other):
        retries.add(part)

    assert retries.devices() == (3, 1)
    assert (retries.first(3), retries.first(1), retries.first(2)) == (first, other, None)
    assert list(retries) == [first, second, other]
    assert request.retrying == (first, second, other)


def test_what_is_removed_leaves_nothing_behind() -> None:
    """From the front, the middle or as the last: the line, the count and the request follow."""
    retries = Retries()
    request = Request(0, 9, 0.0)
    parts = [_part(request, 0) for _ in range(3)]
    for part in parts:
        retries.add(part)
    retries.remove(parts[1])
    retries.remove(parts[0])

    assert (len(retries), retries.first(0), request.retrying) == (1, parts[2], (parts[2],))
    retries.remove(parts[2])
    assert (len(retries), retries.devices(), request.retrying) == (0, (), ())
