"""Alternating rounds, so that other load on the machine affects all contenders alike."""

from __future__ import annotations

import multiprocessing
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import uvloop

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["ROUNDS", "Contender", "alternate", "run_apart", "run_on_uvloop"]

ROUNDS = 5
"""The minimum number of rounds for a median."""

T = TypeVar("T")
Contender: TypeAlias = Callable[[], Awaitable[T]]


async def alternate(
    contenders: Mapping[str, Contender[T]], rounds: int = ROUNDS, *, warm_up: int = 1
) -> dict[str, list[T]]:
    """Run the contenders in turns and return the results of each; warm-up rounds are discarded.

    Every second round runs in reverse order, so that no contender always follows the same one.
    """
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for turn in range(-warm_up, rounds):
        names = list(contenders)
        for name in names if turn % 2 == 0 else reversed(names):
            result = await contenders[name]()
            if turn >= 0:
                results[name].append(result)
    return results


def run_apart(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a new process, which inherits no threads or memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def run_on_uvloop(job: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop, as a service would."""
    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(job)
    finally:
        loop.close()
