"""A KServe v2 server in another process as the target, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import numpy as np
import pytest

from qaic_sched.errors import ConfigError, NoDeviceError
from qaic_sched.loadgen.inject.injector import inject
from qaic_sched.loadgen.inject.records import Records
from qaic_sched.loadgen.plan.arrivals import schedule
from qaic_sched.loadgen.plan.inputs import InputLibrary
from qaic_sched.loadgen.plan.plan import Constant, Plan
from qaic_sched.loadgen.targets.base import Outcome, Reply, TargetInfo
from qaic_sched.loadgen.targets.server import ServerTarget
from tests.loadgen.kserve_server import running

KINDS = pytest.mark.parametrize("kind", ["http", "grpc"])


def open_info(url: str) -> TargetInfo:
    """Open a target and return its facts."""

    async def main() -> TargetInfo:
        target = ServerTarget(url)
        try:
            return await target.open()
        finally:
            await target.aclose()

    return asyncio.run(main())


def load(url: str, plan: Plan, rate: float | None = None, **options: Any) -> Records:
    """Run a plan against a server."""

    async def main() -> Records:
        target = ServerTarget(url)
        info = await target.open()
        planned_ns = None if rate is None else schedule(Constant(rate), plan.duration_s, 1)
        try:
            library = InputLibrary(info, plan.samples_per_request)
            return await inject(target, info, plan, planned_ns, library, **options)
        finally:
            await target.aclose()

    return asyncio.run(main())


def count(records: Records, outcome: Outcome) -> int:
    """Count the requests with an outcome."""
    return int((records.outcome == outcome).sum())


@pytest.mark.parametrize("url", ["ftp://host:1", "host:8000", "http://", "grpc:///model"])
def test_other_urls_are_refused(url: str) -> None:
    """The error for another URL shows the expected form."""
    with pytest.raises(ConfigError, match=r"expected http://host:port"):
        ServerTarget(url)


@pytest.mark.slow
@KINDS
def test_learns_the_only_model(kind: str) -> None:
    """Name, inputs and batch size come from the server."""
    with running(kind) as url:
        info = open_info(url)

    assert (info.name, info.max_batch_size, info.is_batched) == ("means", 8, True)
    assert [(each.name, each.shape, each.dtype) for each in info.inputs] == [
        ("data", (8, 4), np.dtype("float32"))
    ]
    assert info.activations == {}


@pytest.mark.slow
@KINDS
def test_a_server_without_a_configuration_takes_batches_of_unknown_size(kind: str) -> None:
    """A free first axis means batches, of a size that is not known."""
    with running(kind, max_batch_size=0) as url:
        info = open_info(f"{url}/means")

    assert (info.max_batch_size, info.is_batched, info.inputs[0].shape) == (1, True, (1, 4))


@pytest.mark.slow
@KINDS
def test_the_model_has_to_be_clear_and_there(kind: str) -> None:
    """Several models without a name, and an unknown name, raise `ConfigError`."""
    with running(kind, models="means,other") as url:
        with pytest.raises(ConfigError, match="add the name of a model after the port: means, oth"):
            open_info(url)
        with pytest.raises(ConfigError, match="no model nothing"):
            open_info(f"{url}/nothing")
        assert open_info(f"{url}/other").name == "other"


@pytest.mark.slow
@KINDS
def test_a_missing_server_is_one_sentence(kind: str) -> None:
    """A closed port raises `NoDeviceError` in one sentence."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(NoDeviceError, match=f"{kind}://127.0.0.1:{port}: no KServe v2 server"):
        open_info(f"{kind}://127.0.0.1:{port}")


@pytest.mark.slow
@KINDS
def test_answers_are_the_servers(kind: str) -> None:
    """Every reply has the means of the rows that were sent."""
    replies: dict[int, Reply] = {}
    plan = Plan(scenario="open", duration_s=1.0, samples_per_request=3)
    with running(kind) as url:
        records = load(url, plan, 200, on_reply=replies.__setitem__)
        info = open_info(url)
    library = InputLibrary(info, 3)

    assert count(records, Outcome.DONE) == len(records.planned_ns) == 200
    for row, reply in replies.items():
        sent = library[library.index_of(row)]["data"]
        assert reply.outputs is not None
        np.testing.assert_allclose(reply.outputs["mean"][:, 0], sent.mean(axis=1), atol=1e-6)


@pytest.mark.slow
@KINDS
def test_a_closed_loop_sees_the_servers_delay(kind: str) -> None:
    """With eight callers and a delay of 20 ms, every answer takes little more than that."""
    plan = Plan(scenario="closed", duration_s=1.0, concurrency=8)
    with running(kind, delay=0.020) as url:
        records = load(url, plan)

    latency_ms = (records.done_ns - records.planned_ns) / 1e6
    assert latency_ms.min() >= 20
    assert np.median(latency_ms) < 40
    assert count(records, Outcome.DONE) == len(records.planned_ns) > 150


@pytest.mark.slow
@KINDS
def test_errors_are_counted_by_what_they_are(kind: str) -> None:
    """Errors are counted by the server's message."""
    with running(kind, error_share=0.25) as url:
        records = load(url, Plan(scenario="open", duration_s=1.0), 200)

    assert (count(records, Outcome.FAILED), count(records, Outcome.DONE)) == (50, 150)
    assert [(text.count("was to fail"), n) for text, n in records.problems.items()] == [(1, 50)]


@pytest.mark.slow
def test_a_full_server_rejects() -> None:
    """A reply with status 503 is REJECTED."""
    with running(error_share=1.0, error_status=503) as url:
        records = load(url, Plan(scenario="open", duration_s=0.5), 100)

    assert count(records, Outcome.REJECTED) == 50


@pytest.mark.slow
@KINDS
def test_what_takes_too_long_is_expired(kind: str) -> None:
    """A request over its `timeout_s` is EXPIRED."""
    plan = Plan(scenario="open", duration_s=0.5, timeout_s=0.1)
    with running(kind, delay=5.0) as url:
        records = load(url, plan, 100)

    assert count(records, Outcome.EXPIRED) == 50
    assert ((records.done_ns - records.sent_ns) > 0.09e9).all()
    assert records.ended_ns < 2e9


@pytest.mark.slow
@KINDS
def test_a_server_that_dies_leaves_its_numbers(kind: str) -> None:
    """A dead server leaves its answers, the rest is FAILED, and the run ends."""
    with running(kind, die_after=120) as url:
        records = load(url, Plan(scenario="open", duration_s=1.0), 300)

    done, failed = count(records, Outcome.DONE), count(records, Outcome.FAILED)
    assert 100 <= done <= 120
    assert done + failed == 300
    assert 1 <= len(records.problems) <= 20
    assert records.ended_ns < 5e9
