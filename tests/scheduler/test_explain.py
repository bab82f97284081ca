"""`explain()`: where the parts of a request ran and where its time went, in virtual time."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

from qaic_sched.core.model import Request
from qaic_sched.errors import InternalError, SchedulerClosedError
from qaic_sched.scheduler.explain import Explanation, PartExplanation
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.scheduler.request import ScheduledRequest
from qaic_sched.testing import run_virtual
from tests.hosts import answer_twice, host, rows


def phases(explanation: Explanation) -> list[float]:
    """Return queue, dispatch, execute and resolve, after checking that they add up to the total."""
    split = [
        explanation.queue_s,
        explanation.dispatch_s,
        explanation.execute_s,
        explanation.resolve_s,
    ]
    assert sum(split) == pytest.approx(explanation.total_s, rel=1e-12, abs=1e-15)
    return split


async def ended(request: ScheduledRequest) -> Explanation:
    """Wait until a request is resolved, with or without outputs, and explain it."""
    await asyncio.gather(request, return_exceptions=True)
    return request.explain()


def test_a_request_that_is_alone(tmp_path: Path) -> None:
    """All its time is execution, and its padded batch shows in `fill`."""

    async def main() -> None:
        model = host(tmp_path, batch=4, batch_sizes=[2, 4])
        async with Scheduler(model) as scheduler:
            request = scheduler.submit(rows(3))
            with pytest.raises(asyncio.InvalidStateError, match="not done"):
                request.explain()
            await request
            explanation = request.explain()
            assert phases(explanation) == pytest.approx([0, 0, 0.010, 0])
            assert explanation.outcome == "done"
            assert explanation.problem is None
            assert explanation.parts == (PartExplanation(0, 0, 4, 0.75, 3),)
            assert (explanation.retries, explanation.hedges) == (0, 0)
            assert str(explanation) == (
                "done in 10.000 ms: "
                "queue 0.000 ms, dispatch 0.000 ms, execute 10.000 ms, resolve 0.000 ms\n"
                "  3 samples on device 0, activation 0, in a batch of 4 (75% full)"
            )

    run_virtual(main)


def test_the_phases_are_those_of_the_part_that_completed_last(tmp_path: Path) -> None:
    """Of three batches in a row, the last waits for a slot, then behind the second."""

    async def main() -> None:
        model = host(tmp_path, batch=4, host_turnaround_s=0.001)
        async with Scheduler(model) as scheduler:
            first = scheduler.submit(rows(4))
            await asyncio.sleep(0.001)
            explanation = await ended(scheduler.submit(rows(9)))
            assert [part.samples for part in explanation.parts] == [4, 4, 1]
            assert [part.fill for part in explanation.parts] == [1.0, 1.0, 0.25]
            assert (await ended(first)).total_s == pytest.approx(0.010)

            queue_s, dispatch_s, execute_s, resolve_s = phases(explanation)
            assert queue_s > 0.01
            assert dispatch_s + execute_s == pytest.approx(explanation.total_s - queue_s)
            assert resolve_s == pytest.approx(0)
            assert execute_s <= 0.0111

    run_virtual(main)


def test_waiting_behind_another_inference_is_dispatch(tmp_path: Path) -> None:
    """A batch that is sent while another one runs waits at its activation."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, batch=1)) as scheduler:
            scheduler.submit(rows(1))
            explanation = await ended(scheduler.submit(rows(1)))
            queue_s, dispatch_s, execute_s, _ = phases(explanation)
            assert queue_s + dispatch_s == pytest.approx(0.010)
            assert dispatch_s > 0
            assert execute_s == pytest.approx(0.010)

    run_virtual(main)


def test_a_retried_part_is_explained_where_it_succeeded(tmp_path: Path) -> None:
    """Each failed attempt counts as a retry and its time as queueing."""

    async def main() -> None:
        faults = [{"kind": "error", "device": 1, "probability": 1.0}]
        model = host(tmp_path, batch=2, devices=2, faults=faults)
        async with Scheduler(model) as scheduler:
            explanation = await ended(scheduler.submit(rows(4)))
            assert explanation.outcome == "done"
            assert [part.device_id for part in explanation.parts] == [0, 0]
            assert explanation.retries == 1
            assert phases(explanation) == pytest.approx([0.010, 0, 0.010, 0], abs=1e-9)
            assert str(explanation).endswith("\n  retries: 1, hedges: 0")
            assert scheduler.get_metrics()["devices"][0]["retries"] == 1

    run_virtual(main)


def test_a_hedged_part_is_explained_where_it_completed_first(tmp_path: Path) -> None:
    """A hedge does not count as a retry, and the batch that completed later is left out."""

    async def main() -> None:
        faults = [{"kind": "hang", "device": 1, "at_s": 0.5, "for_s": 0.2}]
        model = host(tmp_path, batch=2, devices=2, faults=faults)
        async with Scheduler(model) as scheduler:
            for _ in range(30):
                await scheduler.run(rows(4))
            await asyncio.sleep(0.501 - asyncio.get_running_loop().time())
            single, several = scheduler.submit(rows(2)), scheduler.submit(rows(4))
            explanations = await asyncio.gather(ended(single), ended(several))
            for explanation in explanations:
                assert explanation.outcome == "done"
                assert {part.device_id for part in explanation.parts} == {0}
                assert explanation.retries == 0
                assert explanation.total_s < 0.2
                assert phases(explanation)[2] == pytest.approx(0.010, rel=0.2)
            assert [len(explanation.parts) for explanation in explanations] == [1, 2]
            assert sum(explanation.hedges for explanation in explanations) >= 1

    run_virtual(main)


def test_failed_requests_are_explained(tmp_path: Path) -> None:
    """The phases are those of the batch that failed last, and `problem` is the error's message."""

    async def main() -> None:
        model = host(tmp_path, faults=[{"kind": "error", "probability": 1.0}])
        async with Scheduler(model, retry={"max_attempts": 2}) as scheduler:
            explanation = await ended(scheduler.submit(rows(1)))
            assert explanation.outcome == "failed"
            assert explanation.retries == 1
            assert phases(explanation) == pytest.approx([0.010, 0, 0.010, 0], abs=1e-9)
            assert explanation.problem is not None
            assert str(explanation).splitlines()[1] == f"  {explanation.problem}"
            assert "sim device 0 failed an inference" in explanation.problem

    run_virtual(main)


def test_a_request_that_was_stuck_is_explained(tmp_path: Path) -> None:
    """If no device answered, all time since the request was sent is dispatch."""

    async def main() -> None:
        model = host(tmp_path, faults=[{"kind": "hang", "at_s": 0.1}])
        async with Scheduler(model, retry={"max_attempts": 1}) as scheduler:
            await scheduler.run(rows(1))
            await asyncio.sleep(0.2)
            explanation = await ended(scheduler.submit(rows(1)))
            assert explanation.outcome == "failed"
            assert phases(explanation)[1] == explanation.total_s > 0.1
            assert len(explanation.parts) == 1

            explanation = await ended(scheduler.submit(rows(1)))
            assert explanation.parts == ()
            assert phases(explanation)[0] == explanation.total_s
            assert explanation.problem is not None
            assert "quarantine" in explanation.problem

    run_virtual(main)


def test_requests_that_were_given_up_are_explained(tmp_path: Path) -> None:
    """Expired and cancelled requests: time in the queue is queueing, time on a device dispatch."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, batch=1)) as scheduler:
            sent = [scheduler.submit(rows(1), timeout_s=0.004) for _ in range(2)]
            queued = scheduler.submit(rows(1), timeout_s=0.005)
            large = scheduler.submit(rows(9))
            gone = [await ended(sent[0]), await ended(queued)]
            assert [each.outcome for each in gone] == ["expired", "expired"]
            assert phases(gone[0]) == pytest.approx([0, 0.004, 0, 0])
            assert [part.device_id for part in gone[0].parts] == [0]
            assert phases(gone[1]) == pytest.approx([gone[1].total_s, 0, 0, 0])
            assert gone[1].parts == ()
            await asyncio.sleep(0.036)
            large.cancel()
            explanation = await ended(large)
            assert explanation.outcome == "cancelled"
            assert explanation.problem is None
            assert 0 < len(explanation.parts) < 9
            assert phases(explanation) == [explanation.total_s, 0, 0, 0]

    run_virtual(main)


def test_rejected_and_closed_requests_are_explained(tmp_path: Path) -> None:
    """A request that was never sent has no parts, and `problem` says why."""

    async def main() -> None:
        queue = {"max_samples": 1, "when_full": "reject"}
        async with Scheduler(host(tmp_path, batch=1), queue=queue) as scheduler:
            requests = [scheduler.submit(rows(1)) for _ in range(5)]
            rejected = await ended(requests[-1])
            assert rejected.outcome == "rejected"
            assert rejected.parts == ()
            assert rejected.problem is not None
            assert "no room" in rejected.problem
            assert phases(rejected) == [0, 0, 0, 0]
            await scheduler.aclose()
            closed = await ended(requests[0])
            assert closed.outcome == "cancelled"
            with pytest.raises(SchedulerClosedError) as raised:
                requests[0].result()
            assert closed.problem == str(raised.value)

    run_virtual(main)


def test_requests_of_a_broken_scheduler_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of the package ends all requests, and is their problem."""
    answer_twice(monkeypatch)

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            scheduler.submit(rows(8))
            request = scheduler.submit(rows(1))
            explanation = await ended(request)
            with pytest.raises(InternalError):
                request.result()
            assert explanation.outcome == "failed"
            assert phases(explanation) == pytest.approx([0.010, 0, 0, 0])

    run_virtual(main)


def test_a_request_that_is_kept_keeps_no_others(tmp_path: Path) -> None:
    """Batches link requests to each other: keeping one request must not keep all others alive."""

    async def main() -> None:
        async with Scheduler(host(tmp_path)) as scheduler:
            first, *others = [scheduler.submit(rows(5)) for _ in range(50)]
            await asyncio.gather(first, *others)
            del others
        assert count() == before + 1
        assert first.explain().parts

    def count() -> int:
        gc.collect()
        return sum(isinstance(each, Request) for each in gc.get_objects())

    before = count()
    run_virtual(main)
