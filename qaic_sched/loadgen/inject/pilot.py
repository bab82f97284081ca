"""Requests before the load: single answers, the shortest latency, the rate of a burst."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Protocol

from qaic_sched.clock import clock_of
from qaic_sched.errors import DeviceError
from qaic_sched.loadgen.targets.base import Outcome, Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qaic_sched.loadgen.targets.base import Target
    from qaic_sched.program import Tensors

__all__ = ["Inputs", "ask", "ask_all", "measure_latency", "measure_rate"]

PILOT_S = 0.25
"""Duration of a pilot."""
PATIENCE_S = 60.0
"""Longest wait for an answer."""
MAX_ROUNDS = 100


class Inputs(Protocol):
    """A fixed number of distinct requests."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensors: ...


async def ask_all(
    target: Target, requests: Sequence[Tensors], patience_s: float = PATIENCE_S
) -> list[Reply]:
    """Send requests together and await the replies; one that is missing in time is UNRESOLVED."""
    all_replied = asyncio.get_running_loop().create_future()
    replies: dict[int, Reply] = {}

    def done(number: int, reply: Reply) -> None:
        replies[number] = reply
        if len(replies) == len(requests) and not all_replied.done():
            all_replied.set_result(None)

    for number, tensors in enumerate(requests):
        target.send(tensors, None, partial(done, number))
    await asyncio.wait([all_replied], timeout=patience_s)
    missing = Reply(Outcome.UNRESOLVED, problem=f"no answer within {patience_s:g} s")
    return [replies.get(number, missing) for number in range(len(requests))]


async def ask(target: Target, tensors: Tensors, patience_s: float = PATIENCE_S) -> Reply:
    """Send one request and await its reply; UNRESOLVED if there is none in time."""
    (reply,) = await ask_all(target, [tensors], patience_s)
    return reply


async def measure_latency(target: Target, inputs: Inputs, at_once: int = 1) -> float:
    """Return the shortest time, in seconds, in which `at_once` requests were answered.

    Raises `DeviceError` if a request fails.
    """
    shortest = await _timed_round(target, inputs, at_once)
    clock = clock_of(asyncio.get_running_loop())
    end = clock() + PILOT_S
    for _ in range(MAX_ROUNDS):
        if clock() >= end:
            break
        shortest = min(shortest, await _timed_round(target, inputs, at_once))
    return shortest


async def measure_rate(target: Target, inputs: Inputs) -> float:
    """Return the requests per second of a burst that lasts at least `PILOT_S`.

    Raises `DeviceError` if a request fails.
    """
    count = 64
    while True:
        took = await _timed_round(target, inputs, count)
        if took >= PILOT_S:
            return count / took
        count *= 2


async def _timed_round(target: Target, inputs: Inputs, count: int) -> float:
    clock = clock_of(asyncio.get_running_loop())
    begun = clock()
    replies = await ask_all(target, [inputs[i % len(inputs)] for i in range(count)])
    for reply in replies:
        if reply.outcome is not Outcome.DONE:
            raise DeviceError(f"a request before the load failed: {reply.problem}")
    return clock() - begun
