"""Measurements before the load, exact in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qaic_sched.errors import DeviceError
from qaic_sched.loadgen.inject.pilot import Inputs, ask, measure_latency, measure_rate
from qaic_sched.loadgen.targets.base import Outcome, Reply
from qaic_sched.testing import run_virtual
from tests.hosts import host
from tests.loadgen.loadgen_targets import CountingTarget, library_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


def measured(
    measure: Callable[[CountingTarget, Inputs], Awaitable[Any]], folder: Path, **changes: Any
) -> Any:
    """Take a measurement on one simulated device of 10 ms and batches of 8."""

    async def main() -> Any:
        target = CountingTarget(host(folder, **changes))
        inputs = library_of(await target.open())
        try:
            return await measure(target, inputs)
        finally:
            await target.aclose()

    return run_virtual(main)


def test_a_rate_is_measured_by_a_burst(tmp_path: Path) -> None:
    """Batches of 8 in 10 ms give 800 requests per second."""
    assert measured(measure_rate, tmp_path) == pytest.approx(800.0, rel=0.02)


@pytest.mark.parametrize(("at_once", "latency_s"), [(1, 0.010), (8, 0.010), (9, 0.020)])
def test_a_latency_is_that_of_a_round(tmp_path: Path, at_once: int, latency_s: float) -> None:
    """A full batch of requests takes one inference, one request more takes two."""
    found = measured(lambda target, inputs: measure_latency(target, inputs, at_once), tmp_path)

    assert found == pytest.approx(latency_s)


def test_the_shortest_round_counts(tmp_path: Path) -> None:
    """The shortest round counts, so stalls of some inferences have no effect."""
    stall = {"kind": "stall", "probability": 0.5, "for_s": 0.060}
    found = measured(measure_latency, tmp_path, faults=[stall])

    assert found == pytest.approx(0.010)


def test_what_fails_before_the_load_is_an_error(tmp_path: Path) -> None:
    """The error has the target's message."""
    with pytest.raises(DeviceError, match="a request before the load failed: "):
        measured(measure_latency, tmp_path, faults=[{"kind": "error", "probability": 1.0}])


def test_a_request_without_an_answer_is_unresolved(tmp_path: Path) -> None:
    """A request without an answer is unresolved after `patience_s`."""

    async def impatient(target: CountingTarget, inputs: Inputs) -> Reply:
        return await ask(target, inputs[0], patience_s=0.005)

    reply = measured(impatient, tmp_path)

    assert reply.outcome is Outcome.UNRESOLVED
    assert reply.problem == "no answer within 0.005 s"
