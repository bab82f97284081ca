"""The bridge between LoadGen's thread and the event loop, with a recorder in place of LoadGen.

The real LoadGen needs real time, and runs in `test_run.py`.
"""

from __future__ import annotations

import asyncio
import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from qaic_sched.loadgen.mlperf.bridge import SENT_PER_TURN, Bridge
from qaic_sched.loadgen.targets.base import Outcome, Reply
from qaic_sched.testing import run_virtual
from tests.hosts import expected, host
from tests.loadgen.loadgen_targets import CountingTarget, library_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qaic_sched.program import Tensors


class Recorder:
    """Takes completions like LoadGen, and reads their data during the call."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.data: dict[int, bytes] = {}

    def QuerySampleResponse(self, query_id: int, address: int, size: int) -> tuple[int, int, int]:
        return query_id, address, size

    def QuerySamplesComplete(self, responses: list[tuple[int, int, int]]) -> None:
        self.calls.append([query_id for query_id, _, _ in responses])
        for query_id, address, size in responses:
            self.data[query_id] = ctypes.string_at(address, size)


class SilentTarget(CountingTarget):
    """Answers nothing."""

    def send(self, inputs: Tensors, timeout_s: float | None, done: Callable[[Reply], None]) -> None:
        self.num_sent += 1


class BrokenTarget(CountingTarget):
    """Raises a different error for each request."""

    def send(self, inputs: Tensors, timeout_s: float | None, done: Callable[[Reply], None]) -> None:
        self.num_sent += 1
        raise OSError(f"broken pipe {self.num_sent}")


def carried(
    target: CountingTarget,
    queries: int,
    then: Callable[[Bridge], None] = lambda bridge: None,
    **options: Any,
) -> tuple[Recorder, Bridge]:
    """Issue queries together, call `then` after a second, and wait another second."""
    recorder = Recorder()

    async def main() -> Bridge:
        library = library_of(await target.open())
        loop = asyncio.get_running_loop()
        options.setdefault("timeout_s", None)
        options.setdefault("on_reply", None)
        bridge = Bridge(loop, recorder, target, library, **options)
        bridge.issue(list(range(1000, 1000 + queries)), [n % 16 for n in range(queries)])
        await asyncio.sleep(1)
        then(bridge)
        await asyncio.sleep(1)
        await target.aclose()
        return bridge

    return recorder, run_virtual(main)


def test_every_query_is_completed_once_with_its_data(tmp_path: Path) -> None:
    """Every query is completed once, with the first output for its input."""
    target = CountingTarget(host(tmp_path))
    recorder, bridge = carried(target, 40)
    library = library_of(run_virtual(CountingTarget(host(tmp_path)).open))

    assert sorted(recorder.data) == list(range(1000, 1040))
    assert sum(map(len, recorder.calls)) == bridge.num_answered == 40
    assert bridge.num_out == 0
    assert bridge.failures == {}
    for query_id, data in recorder.data.items():
        answer = expected(library[(query_id - 1000) % 16])
        assert np.frombuffer(data, np.float32).tolist() == answer.ravel().tolist()


def test_what_is_answered_together_is_completed_together(tmp_path: Path) -> None:
    """The queries of a batch are completed in one call."""
    recorder, _ = carried(CountingTarget(host(tmp_path)), 40)

    assert [len(call) for call in recorder.calls] == [8] * 5


def test_a_burst_goes_out_in_pieces(tmp_path: Path) -> None:
    """A burst is sent in pieces, with answers handled in between."""
    target = SilentTarget(host(tmp_path))
    seen: list[int] = []

    async def main() -> None:
        library = library_of(await target.open())
        loop = asyncio.get_running_loop()
        bridge = Bridge(loop, Recorder(), target, library, None, None)
        bridge.issue(list(range(600)), [0] * 600)
        for _ in range(4):
            seen.append(target.num_sent)
            await asyncio.sleep(0)
        await target.aclose()

    run_virtual(main)

    assert seen == [0, SENT_PER_TURN, 2 * SENT_PER_TURN, 600]


def test_queries_of_one_turn_share_one_wake_up(tmp_path: Path) -> None:
    """Several calls of LoadGen's thread in one turn wake the loop once."""
    target = SilentTarget(host(tmp_path))
    wakeups = []

    async def main() -> None:
        library = library_of(await target.open())
        loop = asyncio.get_running_loop()
        bridge = Bridge(loop, Recorder(), target, library, None, None)
        real = loop.call_soon_threadsafe

        def counting(*args: Any) -> asyncio.Handle:
            wakeups.append(args)
            return real(*args)

        loop.call_soon_threadsafe = counting  # type: ignore[method-assign, assignment]
        for turn in range(2):
            for number in range(3):
                bridge.issue([turn * 3 + number], [0])
            await asyncio.sleep(0.1)
        await target.aclose()

    run_virtual(main)

    assert len(wakeups) == 2
    assert target.num_sent == 6


def test_failures_are_completed_without_data_and_counted(tmp_path: Path) -> None:
    """Failed queries are completed without data and counted."""
    failing = host(tmp_path, faults=[{"kind": "error", "probability": 1.0}])
    replies: list[tuple[int, Outcome]] = []
    recorder, bridge = carried(
        CountingTarget(failing),
        5,
        on_reply=lambda index, reply: replies.append((index, reply.outcome)),
    )

    assert recorder.data == dict.fromkeys(range(1000, 1005), b"")
    assert bridge.failures == {"failed": 5}
    assert sum(bridge.problems.values()) == 5
    assert sorted(replies) == [(index, Outcome.FAILED) for index in range(5)]


def test_a_deadline_is_given_to_each_request(tmp_path: Path) -> None:
    """Requests get the plan's deadline, and expire or are rejected."""
    _, bridge = carried(CountingTarget(host(tmp_path)), 80, timeout_s=0.035)

    assert bridge.num_answered == 80
    assert sum(bridge.failures.values()) == 80 - 3 * 8


def test_a_target_that_raises_does_not_stop_loadgen(tmp_path: Path) -> None:
    """A target that raises does not stop LoadGen; only the first kinds of problems are kept."""
    recorder, bridge = carried(BrokenTarget(host(tmp_path)), 30)

    assert len(recorder.data) == 30
    assert bridge.failures == {"failed": 30}
    assert len(bridge.problems) == 21
    assert bridge.problems["OSError: broken pipe 1"] == 1
    assert bridge.problems["others"] == 10


def test_a_target_that_is_given_up_fails_the_rest(tmp_path: Path) -> None:
    """After giving up, outstanding queries are failed at once, and later ones not sent."""

    def give_up(bridge: Bridge) -> None:
        assert bridge.num_out == 10
        bridge.give_up("no answer")
        bridge.issue([1, 2], [0, 0])

    target = SilentTarget(host(tmp_path))
    recorder, bridge = carried(target, 10, give_up)

    assert len(recorder.data) == 12
    assert bridge.failures == {"unresolved": 12}
    assert bridge.problems == {"no answer": 12}
    assert target.num_sent == 10


def test_an_answer_after_giving_up_is_not_reported_twice(tmp_path: Path) -> None:
    """An answer after giving up is not reported to LoadGen."""
    late = host(tmp_path, service_time_s=1.5)
    recorder, bridge = carried(CountingTarget(late), 8, lambda bridge: bridge.give_up("no answer"))

    assert sorted(query for call in recorder.calls for query in call) == list(range(1000, 1008))
    assert bridge.failures == {"unresolved": 8}


def test_after_leaving_nothing_is_reported(tmp_path: Path) -> None:
    """After leaving, no answer is reported to LoadGen."""
    late = host(tmp_path, service_time_s=1.5)
    recorder, bridge = carried(CountingTarget(late), 8, lambda bridge: bridge.leave())

    assert recorder.calls == []
    assert bridge.num_out == 0
