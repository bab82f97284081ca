"""Arguments of calls: whatever is not one is an `InputError` for its caller, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qaic_sched.errors import DeadlineExceededError, InputError
from qaic_sched.scheduler.arguments import priority_of, tenant_of, timeout_of
from qaic_sched.scheduler.blocking import blocking
from qaic_sched.scheduler.event_log import EventLogReader
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import check_log, expected, host, rows


class Odd:
    """Raises whatever is asked of it."""

    def __index__(self) -> int:
        raise KeyError

    def __float__(self) -> float:
        raise OSError

    def __repr__(self) -> str:
        raise ValueError

    __hash__ = None  # type: ignore[assignment]


class Name(str):
    """A string that says that it is another."""

    __slots__ = ()

    def __str__(self) -> str:
        return "another"


class Level(IntEnum):
    """Priorities of somebody's own."""

    HIGH = 2


WRONG: list[dict[str, Any]] = [
    {"priority": "1"},
    {"priority": 1.5},
    {"priority": None},
    {"priority": [1]},
    {"priority": np.float64(1.0)},
    {"priority": np.timedelta64(1, "s")},
    {"priority": np.array([1])},
    {"priority": 2**63},
    {"priority": -(2**63) - 1},
    {"priority": 10**5000},
    {"priority": Odd()},
    {"timeout_s": "x"},
    {"timeout_s": "1"},
    {"timeout_s": b"1"},
    {"timeout_s": memoryview(b"1")},
    {"timeout_s": [1]},
    {"timeout_s": 1j},
    {"timeout_s": np.str_("1")},
    {"timeout_s": np.complex64(1)},
    {"timeout_s": np.timedelta64(1, "s")},
    {"timeout_s": nan},
    {"timeout_s": np.float32(nan)},
    {"timeout_s": 10**400},
    {"timeout_s": float},
    {"timeout_s": Odd()},
    {"tenant": ["a"]},
    {"tenant": {"a": 1}},
    {"tenant": 7},
    {"tenant": b"a"},
    {"tenant": np.array(["a"])},
    {"tenant": "a\ud800"},
    {"tenant": np.str_("\udcff")},
    {"tenant": Odd()},
    {"model": 3},
    {"model": ["a"]},
    {"model": "a\ud800"},
    {"model": Odd()},
]
NAMES = [f"{next(iter(each))} {index}" for index, each in enumerate(WRONG)]


@pytest.mark.parametrize("wrong", WRONG, ids=NAMES)
def test_an_argument_that_is_none_is_an_input_error_for_its_caller(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    """`run`, `submit` and `map` name the argument; who is served beside that is not touched."""
    (argument,) = wrong

    async def main() -> None:
        log = tmp_path / "log.jsonl"
        async with Scheduler(host(tmp_path), event_log=str(log)) as scheduler:
            beside = scheduler.submit(rows(2, 1))
            with pytest.raises(InputError, match=argument):
                await scheduler.run(rows(1), **wrong)
            with pytest.raises(InputError, match=argument):
                scheduler.submit(rows(1), **wrong)
            with pytest.raises(InputError, match=argument):
                scheduler.map([], **wrong)
            np.testing.assert_array_equal((await beside)["mean"], expected(rows(2, 1)))
            assert scheduler.statistics().accepted == 1
        check_log(log)

    run_virtual(main)


@pytest.mark.parametrize(
    ("given", "priority"),
    [
        (True, 1),
        (np.int8(-3), -3),
        (np.uint64(2**63 - 1), 2**63 - 1),
        (np.array(4), 4),
        (Level.HIGH, 2),
        (-(2**63), -(2**63)),
    ],
)
def test_integers_of_other_types_are_priorities(given: Any, priority: int) -> None:
    """They become plain integers, which the event log can write."""
    assert priority_of(given) == priority
    assert type(priority_of(given)) is int


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (2, 2.0),
        (True, 1.0),
        (np.float16(0.5), 0.5),
        (np.int64(3), 3.0),
        (np.array(1.5), 1.5),
        (Decimal("0.25"), 0.25),
        (Fraction(1, 2), 0.5),
        (inf, None),
        (np.float32(inf), None),
        (-inf, -inf),
        (1e308, 1e308),
    ],
)
def test_numbers_of_other_types_are_timeouts(given: Any, seconds: float | None) -> None:
    """They become plain floats; infinity is no limit."""
    assert timeout_of(given) == seconds
    assert type(timeout_of(given)) in (float, type(None))


@pytest.mark.parametrize("given", ["a", "", "é", np.str_("a"), np.str_("é"), Name("a")])
def test_strings_of_other_types_are_tenants(given: Any) -> None:
    """They become plain strings of the same characters."""
    assert tenant_of(given) == str.__str__(given)
    assert type(tenant_of(given)) is str


def test_the_event_log_has_the_plain_values(tmp_path: Path) -> None:
    """A log with arguments of every allowed type is read again, and replays."""
    log = tmp_path / "log.jsonl"

    async def main() -> None:
        async with Scheduler(host(tmp_path), event_log=str(log)) as scheduler:
            given: list[dict[str, Any]] = [
                {"priority": True, "tenant": np.str_("é")},
                {"priority": np.int8(3), "tenant": Name("a")},
                {"timeout_s": np.float32(8)},
                {"timeout_s": 1e308},
            ]
            await asyncio.gather(*(scheduler.run(rows(1), **each) for each in given))

    run_virtual(main)
    check_log(log)
    with EventLogReader(str(log)) as reader:
        events: list[Any] = [event for call in reader for event in call.events]
    requests = [each for each in events if hasattr(each, "tenant")]
    assert [each.tenant for each in requests] == ["é", "a", None, None]
    assert [each.priority for each in requests] == [1, 3, 0, 0]


@pytest.mark.parametrize("timeout_s", [0, -1, -inf, np.float64(-0.0)])
def test_a_timeout_of_nothing_expires_at_once(tmp_path: Path, timeout_s: Any) -> None:
    """As with other libraries: a deadline that has passed is no wrong argument."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            with pytest.raises(DeadlineExceededError):
                await scheduler.run(rows(1), timeout_s=timeout_s)
            assert asyncio.get_running_loop().time() == 0

    run_virtual(main)


@pytest.mark.parametrize("stream", [None, 5, Odd(), lambda: []])
def test_what_is_no_stream_is_an_input_error(tmp_path: Path, stream: Any) -> None:
    """`map` says so when it is called."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            with pytest.raises(InputError, match=r"stream: got .*; wanted an iterable of inputs"):
                scheduler.map(stream)

    run_virtual(main)


@pytest.mark.slow
def test_the_blocking_front_refuses_the_same(tmp_path: Path) -> None:
    """`run` and `map` of synchronous code raise `InputError`, and the scheduler goes on."""

    async def endless() -> AsyncIterator[Any]:
        yield rows(1)

    streams: list[Any] = [5, endless()]
    with blocking(Scheduler(host(tmp_path, service_time_s=0))) as scheduler:
        for wrong in WRONG:
            with pytest.raises(InputError):
                scheduler.run(rows(1), **wrong)
            with pytest.raises(InputError):
                scheduler.map([], **wrong)
        for stream in streams:
            with pytest.raises(InputError, match="stream"):
                scheduler.map(stream)
        np.testing.assert_array_equal(scheduler.run(rows(2))["mean"], expected(rows(2)))
