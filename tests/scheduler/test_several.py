"""Requests, opening, closing and metrics of several models in one scheduler."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qaic_sched.backends.sim.backend import SimBackend
from qaic_sched.backends.sim.executable import SimExecutable
from qaic_sched.core.model import DeviceStatistics, Statistics
from qaic_sched.errors import (
    DeviceError,
    InputError,
    NoDeviceError,
    SchedulerClosedError,
)
from qaic_sched.scheduler.blocking import blocking
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.scheduler.replay import replay
from qaic_sched.scheduler.several import merged_statistics
from qaic_sched.testing import run_virtual
from tests.hosts import expected, host, now, rows, two_hosts


def statistics_of(**changes: Any) -> Statistics:
    """Return gauges that are 0 except for `changes`."""
    names = "accepted done failed cancelled expired rejected waiting queued in_flight"
    zeros = dict.fromkeys([*names.split(), "queued_samples", "queued_bytes"], 0)
    return Statistics(**{**zeros, "devices": {}, **changes})


def test_an_overloaded_model_delays_no_other(tmp_path: Path) -> None:
    """A model's requests wait for its own activations only, however long another's queue is."""
    models = two_hosts(tmp_path)

    async def main() -> None:
        async with Scheduler(models, queue={"max_samples": 100}) as scheduler:
            flood = [scheduler.submit(rows(8), model="slow") for _ in range(1000)]
            for turn in range(1, 6):
                await scheduler.run(rows(8), model="fast")
                assert now() == pytest.approx(0.010 * turn)
            gauges = scheduler.statistics(model="slow")
            assert gauges.waiting > 900
            for request in flood:
                request.cancel()

    run_virtual(main)


def test_a_stream_goes_to_the_model_that_is_named(tmp_path: Path) -> None:
    """`map` is bounded by the model's own slots, and yields its outputs in order."""
    models = two_hosts(tmp_path)

    async def main() -> None:
        own = {"model": models["fast"], "set_size": 3}
        async with Scheduler({"fast": own, "slow": models["slow"]}, devices=1) as scheduler:
            assert scheduler.samples_to_keep_busy_of("fast") == 2 * 3 * 8
            assert scheduler.samples_to_keep_busy_of("slow") == 2 * 2 * 8
            stream = [rows(4, seed) for seed in range(9)]
            answers = [each["mean"] async for each in scheduler.map(stream, model="fast")]

            np.testing.assert_array_equal(answers, [expected(inputs) for inputs in stream])
            assert scheduler.statistics(model="fast").done == 9
            assert scheduler.statistics(model="slow").accepted == 0

    run_virtual(main)


def test_a_lone_model_with_a_name_needs_none(tmp_path: Path) -> None:
    """A single named model may be called with its name or without; metrics have the name."""
    model = host(tmp_path)

    async def main() -> None:
        async with Scheduler({"only": model}) as scheduler:
            await scheduler.run(rows(1))
            await scheduler.run(rows(1), model="only")

            assert scheduler.statistics().done == 2
            assert scheduler.get_metrics()["models"]["only"]["num_of_inferences"] == 2
            assert scheduler.program is scheduler.programs["only"]
            assert scheduler.config is scheduler.configs["only"]
            with pytest.raises(InputError, match="did you mean only"):
                await scheduler.run(rows(1), model="onyl")

    run_virtual(main)


def test_a_name_must_be_known(tmp_path: Path) -> None:
    """With several models a name is required; for a wrong name, the error suggests the nearest."""
    models = two_hosts(tmp_path)

    async def main() -> None:
        async with Scheduler(models) as scheduler:
            with pytest.raises(InputError, match=r"model: missing, .* several: fast, slow"):
                await scheduler.run(rows(1))
            with pytest.raises(InputError, match=r"no 'slwo' \(did you mean slow\?\), only fast,"):
                scheduler.submit(rows(1), model="slwo")
            with pytest.raises((InputError, TypeError), match=r"there is no 3|got int"):
                scheduler.map([], model=3)  # type: ignore[arg-type]
            for what in ("program", "config", "samples_to_keep_busy"):
                with pytest.raises(InputError, match="runs several: fast, slow"):
                    getattr(scheduler, what)
        with pytest.raises(SchedulerClosedError):
            scheduler.submit(rows(1))

    run_virtual(main)


def test_a_model_without_a_name_cannot_be_named(tmp_path: Path) -> None:
    """`run` without a name means the only model."""
    model = host(tmp_path)

    async def main() -> None:
        async with Scheduler(model) as scheduler:
            with pytest.raises(InputError, match="'fast' asked for, but the only model"):
                await scheduler.run(rows(1), model="fast")
            assert "models" not in scheduler.get_metrics()

    run_virtual(main)


# Opening and closing


def test_all_models_are_drained(tmp_path: Path) -> None:
    """Leaving the scheduler waits for the accepted requests of every model."""
    models = two_hosts(tmp_path)

    async def main() -> None:
        async with Scheduler(models) as scheduler:
            requests = [scheduler.submit(rows(8), model=name) for name in models for _ in range(3)]

        assert all(request.done() for request in requests)
        assert now() == pytest.approx(0.150)
        states = {each["state"] for each in scheduler.get_metrics()["devices"].values()}
        assert states == {"closed"}

    run_virtual(main)


def test_all_models_are_closed(tmp_path: Path) -> None:
    """Closing cancels the accepted requests of every model at once."""
    models = two_hosts(tmp_path)

    async def main() -> None:
        async with Scheduler(models) as scheduler:
            requests = [scheduler.submit(rows(8), model=name) for name in models]
            await asyncio.sleep(0.001)
            await scheduler.aclose()

            for request in requests:
                with pytest.raises(SchedulerClosedError):
                    await request
            assert now() == 0.001

    run_virtual(main)


def test_one_model_that_cannot_be_opened_closes_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one model fails to open, nothing stays loaded and the scheduler is closed."""
    models = two_hosts(
        tmp_path, devices=2, fast={"devices": 2}, faults=[{"kind": "lost", "at_s": 0}]
    )
    loaded: list[SimExecutable] = []
    load = SimBackend.load

    async def watched(self: SimBackend, *what: Any) -> SimExecutable:
        loaded.append(await load(self, *what))
        return loaded[-1]

    monkeypatch.setattr(SimBackend, "load", watched)

    async def main() -> None:
        scheduler = Scheduler(models)
        with pytest.raises(DeviceError, match="is lost"):
            async with scheduler:
                raise AssertionError("it opened")

        assert [each.device_id for each in loaded] == [0, 1]
        for executable in loaded:
            with pytest.raises(SchedulerClosedError):
                executable.submit(0, rows(8), lambda *_: None)
        with pytest.raises(SchedulerClosedError, match="closed"):
            scheduler.submit(rows(1), model="fast")

    run_virtual(main)


def test_a_device_shows_the_worst_state_that_any_model_sees(tmp_path: Path) -> None:
    """It can be loaded again for one model, and not yet for the other; that one continues."""
    models = two_hosts(tmp_path, faults=[{"kind": "lost", "at_s": 0.01, "for_s": 9}])

    async def main() -> None:
        async with Scheduler(models) as scheduler:
            with pytest.raises(NoDeviceError):
                await scheduler.run(rows(8), model="slow")
            with pytest.raises(NoDeviceError):
                await scheduler.run(rows(8), model="fast")
            await asyncio.sleep(0.2)
            for _ in range(3):
                await scheduler.run(rows(8), model="fast")

            states = {name: scheduler.statistics(model=name).devices[0].state for name in models}
            assert states == {"fast": "ready", "slow": "quarantined"}
            assert scheduler.statistics().devices[0].state == "quarantined"
            assert scheduler.get_metrics()["devices"][0]["state"] == "quarantined"

    run_virtual(main)


def test_each_model_has_an_event_log_that_replays(tmp_path: Path) -> None:
    """Each model has its own log, and each log replays."""
    models = two_hosts(tmp_path)

    async def main() -> None:
        async with Scheduler(models, event_log=str(tmp_path / "run.jsonl")) as scheduler:
            await asyncio.gather(
                *(scheduler.run(rows(3), model=name) for name in ("fast", "slow", "fast"))
            )

    run_virtual(main)
    results = {name: replay(tmp_path / f"run.{name}.jsonl") for name in models}
    assert {name: result.requests for name, result in results.items()} == {"fast": 2, "slow": 1}
    assert [result.difference for result in results.values()] == [None, None]
    assert {name: result.model for name, result in results.items()} == models


# Metrics


def test_metrics_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole is the sum of the models, with the percentiles of all inferences together."""
    models = two_hosts(tmp_path, devices=2, fast={"devices": 2})

    async def main() -> dict[str, Any]:
        async with Scheduler(models, num_activations=2) as scheduler:
            calls = [("fast", 8)] * 9 + [("slow", 4)] * 1
            await asyncio.gather(*(scheduler.run(rows(n), model=name) for name, n in calls))
            scheduler.print_metrics()
            return scheduler.get_metrics()

    metrics = run_virtual(main)
    parts = metrics["models"].values()
    for key in ("num_of_inferences", "total_inference_time"):
        assert metrics[key] == pytest.approx(sum(each[key] for each in parts))
    assert metrics["requests"]["done"] == sum(each["requests"]["done"] for each in parts) == 10
    for device_id, device in metrics["devices"].items():
        for key in ("batches", "samples", "activations"):
            assert device[key] == sum(each["devices"][device_id][key] for each in parts)
        own = [each["devices"][device_id]["utilisation"] for each in parts]
        assert device["utilisation"] == pytest.approx(sum(own) / 2)
    # Nine inferences of 10 ms and one of 50: an average of the models' medians would be 30.
    assert metrics["P50"] == pytest.approx(0.010, rel=0.005)
    assert (metrics["min_latency"], metrics["max_latency"]) == pytest.approx((0.010, 0.050))
    assert metrics["models"]["slow"]["P50"] == pytest.approx(0.050)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [
        ["model", "device"],
        *([name, device] for name in ("fast", "slow", "all") for device in ("0", "1", "total")),
    ]


def test_totals_add_up(tmp_path: Path) -> None:
    """Inferences, busy seconds and queued samples are of one model, or of all together."""
    models = two_hosts(tmp_path)

    async def main() -> None:
        async with Scheduler(models, set_size=1) as scheduler:
            await scheduler.run(rows(8), model="fast")
            requests = [scheduler.submit(rows(8), model=name) for name in models for _ in range(2)]
            await asyncio.sleep(0.001)
            by_model = {name: scheduler.totals(model=name) for name in models}

            assert by_model == {
                "fast": (8, {0: (1, pytest.approx(0.010))}),
                "slow": (8, {0: (0, 0.0)}),
            }
            assert scheduler.totals() == (16, {0: (1, pytest.approx(0.010))})
            await asyncio.gather(*requests)
            assert scheduler.totals() == (0, {0: (5, pytest.approx(0.130))})

    run_virtual(main)


def test_gauges_add_up() -> None:
    """Counts and activations are summed, and a device shows its worst state."""
    several = [
        statistics_of(accepted=3, done=1, devices={0: DeviceStatistics("probation", 1, 1)}),
        statistics_of(accepted=2, queued=2, devices={0: DeviceStatistics("ready", 2, 3)}),
    ]
    merged = merged_statistics(several)

    assert (merged.accepted, merged.done, merged.queued, merged.in_flight) == (5, 1, 2, 0)
    assert merged.devices == {0: DeviceStatistics("probation", 3, 4)}


@pytest.mark.slow
def test_synchronous_code_names_models_too(tmp_path: Path) -> None:
    """`run`, `map` and `statistics` of the blocking front take a model's name."""
    with blocking(Scheduler(two_hosts(tmp_path))) as scheduler:
        outputs = scheduler.run(rows(3), model="slow")
        np.testing.assert_array_equal(outputs["mean"], expected(rows(3)))
        stream = [rows(3, seed) for seed in range(20)]
        answers = [each["mean"] for each in scheduler.map(stream, model="fast")]
        np.testing.assert_array_equal(answers, [expected(inputs) for inputs in stream])
        done = [scheduler.statistics(model=name).done for name in ("fast", "slow")]
        assert (done, scheduler.statistics().done) == ([20, 1], 21)
        with pytest.raises(InputError, match="runs several"):
            scheduler.run(rows(3))
