"""What hostile callers do: each act is one attack on a scheduler, whatever comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from qaic_sched import Scheduler

__all__ = ["ACTS", "Bed"]

Random = np.random.Generator
Inputs = Mapping[str, Any]

NEW_TENANTS = count()


@dataclass(frozen=True)
class Bed:
    """A model with its options, valid requests for it, and what they must give."""

    model: str
    options: Mapping[str, Any]
    make: Callable[[Random, int], dict[str, Any]]
    expected: Callable[[Inputs], np.ndarray[Any, Any]]
    output: str


Act = Callable[[Scheduler, Bed, Random], Awaitable[None]]


async def bad_values(scheduler: Scheduler, bed: Bed, random: Random) -> None:
    """Ids out of range, NaN and infinity, in one row of several."""
    inputs = bed.make(random, int(random.integers(1, 9)))
    for array in inputs.values():
        is_float = array.dtype.kind == "f"
        choices = [np.nan, np.inf, -np.inf, 3e38] if is_float else [10**12, -(10**12), 2**63 - 1]
        array[int(random.integers(len(array)))] = random.choice(choices)
    await scheduler.run(inputs)


async def wrong_inputs(scheduler: Scheduler, bed: Bed, random: Random) -> None:
    """Shapes, types, names and objects that are none."""
    good = bed.make(random, 2)
    name = next(iter(good))
    wrong: list[Any] = [
        {},
        None,
        [good],
        {**good, "other": good[name]},
        {name: good[name][:0] for name in good},
        {name: array[0, ...] for name, array in good.items()},
        {name: array.astype(object) for name, array in good.items()},
        {name: array.astype(str) for name, array in good.items()},
        {name: array.tolist() for name, array in good.items()},
        {name: array[..., None] for name, array in good.items()},
        {name: np.ma.masked_array(array) for name, array in good.items()},
    ]
    await scheduler.run(wrong[int(random.integers(len(wrong)))])


async def huge_request(scheduler: Scheduler, bed: Bed, random: Random) -> None:
    """Thousands of rows, given up after a moment."""
    request = scheduler.submit(bed.make(random, 3000), timeout_s=5)
    await asyncio.sleep(0.02)
    request.cancel()
    await request


async def odd_tenants(scheduler: Scheduler, bed: Bed, random: Random) -> None:
    """Names that are none, or cannot be written."""
    names: list[Any] = [["a"], {"a": 1}, np.str_("a"), "\ud800", "a\udcffb", 7, b"a", "x" * 10_000]
    await scheduler.run(bed.make(random, 1), tenant=names[int(random.integers(len(names)))])


async def many_tenants(scheduler: Scheduler, bed: Bed, random: Random) -> None:
    """A hundred calls, each of a tenant that never came before."""
    calls = [
        scheduler.run(bed.make(random, 1), tenant=f"tenant {next(NEW_TENANTS)}") for _ in range(100)
    ]
    await asyncio.gather(*calls, return_exceptions=True)


async def odd_priorities(scheduler: Scheduler, bed: Bed, random: Random) -> None:
    """Priorities of all types and sizes."""
    odd: list[Any] = ["1", 1.5, None, True, np.int64(3), 2**80, -(2**80), [1], np.array([1, 2])]
    await scheduler.run(bed.make(random, 1), priority=odd[int(random.integers(len(odd)))])


async def odd_timeouts(scheduler: Scheduler, bed: Bed, random: Random) -> None:
    """Times that are none, over already, or for ever."""
    odd: list[Any] = ["x", float("nan"), -1, 0, 1e-9, float("inf"), 1e300, [1], 1j]
    await scheduler.run(bed.make(random, 1), timeout_s=odd[int(random.integers(len(odd)))])


async def cancellations(scheduler: Scheduler, bed: Bed, random: Random) -> None:
    """Ten calls, each cancelled at a moment of its own."""

    async def one(delay_s: float) -> None:
        task = asyncio.ensure_future(scheduler.run(bed.make(random, int(random.integers(1, 30)))))
        await asyncio.sleep(delay_s)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    await asyncio.gather(*(one(delay_s) for delay_s in random.uniform(0, 0.03, 10)))


async def vanished_stream(scheduler: Scheduler, bed: Bed, random: Random) -> None:
    """Reads three outputs of a stream without end, and goes."""
    outputs = scheduler.map(_endless(bed, random))
    for _ in range(3):
        await anext(outputs)
    del outputs  # the loop closes what nobody holds


async def cancelled_stream(scheduler: Scheduler, bed: Bed, random: Random) -> None:
    """A task that reads a stream is cancelled."""

    async def read() -> None:
        async for _ in scheduler.map(_endless(bed, random), ordered=bool(random.integers(2))):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.02)
    task.cancel()
    await task


async def raising_stream(scheduler: Scheduler, bed: Bed, random: Random) -> None:
    """A stream that raises after three elements, `CancelledError` among others."""
    errors: list[BaseException] = [asyncio.CancelledError(), ValueError(), MemoryError()]
    error = errors[int(random.integers(len(errors)))]

    async def stream() -> AsyncIterator[Inputs]:
        for _ in range(3):
            yield bed.make(random, 1)
        raise error

    async for _ in scheduler.map(stream()):
        pass


async def changed_arrays(scheduler: Scheduler, bed: Bed, random: Random) -> None:
    """Changes its own arrays while they are in flight: values and shapes."""
    inputs = bed.make(random, 3)
    request = scheduler.submit(inputs)
    for array in inputs.values():
        array[:] = 0
        if random.integers(2):
            array.resize((1, *array.shape[1:]), refcheck=False)
    await request


ACTS: list[Act] = [
    bad_values,
    wrong_inputs,
    huge_request,
    odd_tenants,
    many_tenants,
    odd_priorities,
    odd_timeouts,
    cancellations,
    vanished_stream,
    cancelled_stream,
    raising_stream,
    changed_arrays,
]


async def _endless(bed: Bed, random: Random) -> AsyncIterator[Inputs]:
    with suppress(GeneratorExit):
        while True:
            yield bed.make(random, int(random.integers(1, 5)))
            await asyncio.sleep(0)
