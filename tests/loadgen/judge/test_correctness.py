"""Correctness under load: corruption and caches are found, and nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qaic_sched.errors import DeviceError
from qaic_sched.loadgen.inject.pilot import ask
from qaic_sched.loadgen.judge.correctness import OutputChecker, repeated_input_test
from qaic_sched.loadgen.targets.base import Outcome, Reply
from qaic_sched.testing import run_virtual
from tests.hosts import host
from tests.loadgen.loadgen_targets import CountingTarget, library_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qaic_sched.program import Tensors

REQUESTS = 1000


class CorruptingTarget(CountingTarget):
    """Changes one number of every 50th answer when switched on."""

    corrupts = False
    num_corrupted = 0
    _answers = 0

    def reply(self, reply: Reply) -> Reply:
        self._answers += self.corrupts
        if self.corrupts and self._answers % 50 == 0 and reply.outputs is not None:
            changed = {name: array.copy() for name, array in reply.outputs.items()}
            changed["mean"][0, 0] += 0.25
            self.num_corrupted += 1
            return Reply(reply.outcome, changed)
        return reply


class CachingTarget(CountingTarget):
    """Answers a repeated input from its memory."""

    _last: tuple[bytes, Reply] | None = None

    def send(self, inputs: Tensors, timeout_s: float | None, done: Callable[[Reply], None]) -> None:
        key = inputs["data"].tobytes()
        if self._last is not None and self._last[0] == key:
            asyncio.get_running_loop().call_later(0.001, done, self._last[1])
            return

        def keep(reply: Reply) -> None:
            self._last = (key, reply)
            done(reply)

        super().send(inputs, timeout_s, keep)


async def load(target: CountingTarget, checker: OutputChecker, requests: int = REQUESTS) -> None:
    """Learn, then send many requests at once and check the replies."""
    info = await target.open()
    library = library_of(info)
    await checker.learn(target, library)
    if isinstance(target, CorruptingTarget):
        target.corrupts = True
    for number in range(requests):
        index = number % len(library)
        target.send(library[index], None, lambda reply, index=index: checker.on_reply(index, reply))
    await target.scheduler.drain()
    await asyncio.sleep(0)
    await target.aclose()


def checked(target: CountingTarget, **options: Any) -> dict[str, Any]:
    """Return a checker's results for a target under load, in virtual time."""
    checker = OutputChecker(**options)
    run_virtual(load, target, checker)
    return checker.result()


def test_a_scheduler_answers_under_load_as_it_does_alone(tmp_path: Path) -> None:
    """Batching and padding do not mix the rows of requests."""
    found = checked(CountingTarget(host(tmp_path)), every=1)

    assert (found["replies"], found["compared"], found["equal"]) == (REQUESTS,) * 3
    assert found["is_correct"]
    assert found["mismatches"] == []


def test_a_corrupted_answer_in_fifty_is_found(tmp_path: Path) -> None:
    """If every reply is compared, all corrupted ones are found, with their details."""
    target = CorruptingTarget(host(tmp_path))
    found = checked(target, every=1)

    assert found["wrong"] == target.num_corrupted == REQUESTS // 50
    assert not found["is_correct"]
    assert len(found["mismatches"]) == 5
    first = found["mismatches"][0]
    assert first["output"] == "mean"
    assert first["max_error"] == pytest.approx(0.25, abs=1e-6)
    assert 0 <= first["input"] < 16


def test_a_sample_of_the_replies_finds_corruption_too(tmp_path: Path) -> None:
    """Comparing every fifth reply finds a corruption of every 50th."""
    found = checked(CorruptingTarget(host(tmp_path)), every=5)

    assert 150 < found["compared"] < 260
    assert 0 < found["wrong"] < 20
    assert found["equal"] == found["compared"] - found["wrong"]


def test_the_choice_is_the_seeds() -> None:
    """The seed determines the compared replies, on average every k-th."""

    def compared(seed: int) -> list[int]:
        checker = OutputChecker(every=10, seed=seed)
        checker._expected = [{"y": np.zeros(1)}]
        chosen = []
        for number in range(5_000):
            before = checker.result()["compared"]
            checker.on_reply(0, Reply(Outcome.DONE, {"y": np.zeros(1)}))
            if checker.result()["compared"] > before:
                chosen.append(number)
        return chosen

    assert compared(1) == compared(1)
    assert compared(1) != compared(2)
    assert len(compared(1)) == pytest.approx(500, rel=0.1)


@pytest.mark.parametrize(
    ("expected", "output", "problem", "max_error"),
    [
        (np.array([1, 2]), np.array([1, 2]), None, None),
        (np.array([1, 2]), np.array([1, 5]), "not equal", 3.0),
        (np.array([1.0, np.nan]), np.array([1.0 + 1e-6, np.nan]), None, None),
        (np.array([1.0]), np.array([1.001]), "beyond rtol 1e-05 and atol 1e-07", 0.001),
        (np.array([1.0]), np.array([np.nan]), "beyond rtol 1e-05 and atol 1e-07", None),
        (np.zeros(2, np.float32), np.zeros(2), "float64, not float32", 0.0),
        (np.zeros((1, 2)), np.zeros((2, 1)), "shape (2, 1), not (1, 2)", None),
        (np.array(["a"]), np.array(["b"]), "not equal", None),
        (np.array([True]), np.array([False]), "not equal", None),
    ],
)
def test_numbers_are_compared_by_their_kind(
    expected: np.ndarray[Any, Any],
    output: np.ndarray[Any, Any],
    problem: str | None,
    max_error: float | None,
) -> None:
    """Integers must be equal, floats within tolerances, types and shapes equal."""
    checker = OutputChecker(every=1)
    checker._expected = [{"y": expected}]
    checker.on_reply(0, Reply(Outcome.DONE, {"y": output}))
    found = checker.result()

    assert [each["problem"] for each in found["mismatches"]] == ([problem] if problem else [])
    if max_error is not None:
        assert found["mismatches"][0]["max_error"] == pytest.approx(max_error)
    elif problem:
        assert found["mismatches"][0]["max_error"] is None


def test_outputs_have_the_names_of_the_reference() -> None:
    """A missing and an additional output are wrong."""
    checker = OutputChecker(every=1)
    checker._expected = [{"y": np.zeros(1)}]
    checker.on_reply(0, Reply(Outcome.DONE, {}))
    checker.on_reply(0, Reply(Outcome.DONE, {"y": np.zeros(1), "z": np.zeros(1)}))

    assert [(each["output"], each["problem"]) for each in checker.result()["mismatches"]] == [
        ("y", "missing"),
        ("z", "not in the reference"),
    ]


def test_a_check_without_comparisons_is_not_correct() -> None:
    """Failed replies are not compared, and a check without comparisons is not correct."""
    checker = OutputChecker(every=1)
    checker.on_reply(0, Reply(Outcome.FAILED, problem="broken"))

    assert checker.result()["compared"] == 0
    assert not checker.result()["is_correct"]


def test_a_target_without_reference_answers_is_refused(tmp_path: Path) -> None:
    """A target that fails a single request raises `DeviceError` before the load."""
    broken = host(tmp_path, faults=[{"kind": "error", "probability": 1.0}])

    with pytest.raises(DeviceError, match="input 0 has no outputs even without load"):
        run_virtual(load, CountingTarget(broken), OutputChecker())


async def caching(target: CountingTarget) -> dict[str, Any]:
    """Run the repeated-input test on a target, one request after another."""
    library = library_of(await target.open(), count=8)

    async def measure(is_repeated: bool) -> float:
        begun = asyncio.get_running_loop().time()
        for number in range(40):
            await ask(target, library[0 if is_repeated else number % len(library)])
        return 40 / (asyncio.get_running_loop().time() - begun)

    found = await repeated_input_test(measure)
    await target.aclose()
    return found


def test_a_cache_is_found(tmp_path: Path) -> None:
    """A target that is ten times as fast with one repeated input has a cache."""
    found = run_virtual(caching, CachingTarget(host(tmp_path)))

    assert found["is_caching"]
    assert found["gain"] > 5
    assert "caches" in found["text"]


def test_a_scheduler_does_not_cache(tmp_path: Path) -> None:
    """Simulated cards are not faster with one repeated input."""
    found = run_virtual(caching, CountingTarget(host(tmp_path)))

    assert found["is_caching"] is False
    assert found["gain"] == pytest.approx(0.0, abs=0.01)
    assert (len(found["distinct_rates"]), len(found["repeated_rates"])) == (3, 3)


def test_medians_are_compared_in_turns() -> None:
    """Medians are compared, and the order of the two runs alternates."""
    order: list[bool] = []

    async def measure(is_repeated: bool) -> float:
        order.append(is_repeated)
        return 500.0 if is_repeated and len(order) == 2 else 100.0

    found = run_virtual(repeated_input_test, measure)

    assert order == [False, True, True, False, False, True]
    assert found["is_caching"] is False
    assert found["repeated_rates"] == [500.0, 100.0, 100.0]


def test_without_answers_the_cache_test_has_no_result() -> None:
    """A rate of 0 gives no result."""

    async def measure(is_repeated: bool) -> float:
        return 0.0

    found = run_virtual(repeated_input_test, measure)

    assert (found["gain"], found["is_caching"]) == (None, None)
    assert "no request was answered" in found["text"]
