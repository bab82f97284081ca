"""A call costs what is queued, logarithmically at most, and never what ever came."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from qaic_sched.core.events import Cancelled, Completed, DeviceOpened
from qaic_sched.core.model import Policy, Request, Tenant
from qaic_sched.core.state import SchedulerState

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

pytestmark = pytest.mark.interpreted
"""Lines are counted, which compiled code does not report."""


class _Host:
    """A core with one device, which answers its batches when told to."""

    def __init__(self, **policy: Any) -> None:
        policy.setdefault("batch_sizes", (8,))
        self.core = SchedulerState(Policy(max_samples=10**9, **policy))
        self.core.handle(0.0, [DeviceOpened(0, 1, 1)])
        self.now = 0.0
        self.count = 0
        self.batches: list[int] = []

    def handle(self, *events: Any) -> None:
        self.now += 0.001
        commands = self.core.handle(self.now, events)
        self.batches += [batch.id for batch in commands.dispatch]

    def submit(self, **fields: Any) -> None:
        self.count += 1
        self.handle(Request(self.count, 1, self.now, **fields))

    def cancel(self, request_id: int) -> None:
        self.handle(Cancelled(request_id))

    def answer_all(self) -> None:
        while self.batches:
            self.handle(Completed(self.batches.pop(0), self.now))


def _lines(work: Callable[[], None]) -> int:
    """Return the number of lines that a function runs: a measure that no load disturbs."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def _lines_each(count: int, submit: Callable[[_Host, int], None], **policy: Any) -> float:
    """Return the lines per request to queue so many, and to serve all of them."""
    host = _Host(**policy)

    def work() -> None:
        for number in range(count):
            submit(host, number)
        host.answer_all()

    return _lines(work) / count


def _by_priority(host: _Host, number: int) -> None:
    host.submit(priority=number * 37 % 4096)


def _by_priority_and_deadline(host: _Host, number: int) -> None:
    host.submit(priority=number * 37 % 4096, deadline=host.now + 1e6 + number)


def _by_tenant(host: _Host, number: int) -> None:
    host.submit(tenant=f"tenant-{number}")


def _by_both(host: _Host, number: int) -> None:
    host.submit(tenant=f"tenant-{number % 50}", priority=number)


@pytest.mark.parametrize("submit", [_by_priority, _by_priority_and_deadline, _by_tenant, _by_both])
def test_what_is_queued_costs_a_logarithm(submit: Callable[[_Host, int], None]) -> None:
    """Sixteen times as many queued priorities or tenants cost less than twice as much each."""
    few, many = (_lines_each(count, submit) for count in (128, 2048))

    assert many < 2 * few


def test_a_guaranteed_share_among_many_priorities_costs_a_logarithm() -> None:
    """The tenant that is owed is found without looking at each priority."""
    tenants = {"tenant-7": Tenant(share=0.3)}
    few, many = (_lines_each(count, _by_both, tenants=tenants) for count in (128, 2048))

    assert many < 2 * few


def test_a_partial_batch_that_waits_costs_a_logarithm() -> None:
    """Each arrival asks when the batch closes, and does not look at all requests for that."""

    def submit(host: _Host, _number: int) -> None:
        host.submit(deadline=host.now + 1e6)

    sizes = {"batch_sizes": (4096,), "max_queue_delay_s": 1e3}
    few, many = (_lines_each(count, submit, **sizes) for count in (128, 2048))

    assert many < 2 * few


def _come(host: _Host, kind: str, first: int, count: int) -> None:
    """Requests come and go, each with a priority or tenant that nobody had before."""
    for number in range(first, first + count):
        fields = {"tenant": {"tenant": f"t{number}"}, "priority": {"priority": number}}[kind]
        host.submit(**fields)
        if number % 3 == 0:
            host.submit(**fields)
            host.cancel(host.count)
        host.answer_all()


@pytest.mark.parametrize("delay_s", [0.0, 0.0005])
@pytest.mark.parametrize("kind", ["tenant", "priority"])
def test_what_is_gone_costs_nothing(kind: str, delay_s: float) -> None:
    """After a thousand tenants or priorities that came once, a call costs what it did before."""
    host = _Host(max_queue_delay_s=delay_s)
    _come(host, kind, 0, 300)
    before = _lines(lambda: _come(host, kind, 300, 100))
    _come(host, kind, 400, 1000)
    after = _lines(lambda: _come(host, kind, 1400, 100))

    assert after < 1.2 * before


@pytest.mark.parametrize("kind", ["tenant", "priority"])
def test_what_is_gone_leaves_no_memory(kind: str) -> None:
    """A thousand tenants or priorities more leave no more than a few kilobytes together."""
    host = _Host()
    tracemalloc.start()
    try:
        _come(host, kind, 0, 500)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        _come(host, kind, 500, 1000)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert after - before < 16_000


def test_tenants_in_turn_cost_the_same_after_many_calls() -> None:
    """Two hundred tenants take turns: thousands of calls later they cost no more than at first."""
    host = _Host()

    def calls() -> None:
        for number in range(400):
            host.submit(tenant=f"tenant-{number % 200}")
            if number % 8 == 7:
                host.answer_all()

    calls()
    first = _lines(calls)
    for _ in range(8):
        calls()

    assert _lines(calls) < 1.2 * first
