"""Several models on the same devices: simulated ones in virtual time, real ones on the CPU."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qaic_sched.backends.base import CoreDemand
from qaic_sched.backends.choose import backend_for
from qaic_sched.backends.sim.backend import SimBackend
from qaic_sched.backends.sim.executable import SimExecutable
from qaic_sched.config.models import make_configs
from qaic_sched.core.model import DeviceStatistics, Statistics
from qaic_sched.errors import (
    ConfigError,
    DeviceError,
    InputError,
    NoDeviceError,
    SchedulerClosedError,
)
from qaic_sched.scheduler.blocking import blocking
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.scheduler.replay import replay
from qaic_sched.scheduler.several import merged_statistics, publish_demand, share_devices
from qaic_sched.testing import run_virtual
from tests.backends.aic.aic_cards import rows as card_rows
from tests.backends.aic.aic_cards import until
from tests.hosts import expected, host, rows
from tests.models import linear_inputs, linear_model, unbatched_model
from tests.standin.qpc import write_qpc


def now() -> float:
    """The virtual time."""
    return asyncio.get_running_loop().time()


def hosts(folder: Path, *, fast: dict[str, Any] | None = None, **slow: Any) -> dict[str, str]:
    """Two models that share simulated cards: `fast` takes 10 ms an inference, `slow` 50."""
    paths = {}
    for name, changes in (("fast", fast or {}), ("slow", {"service_time_s": 0.050, **slow})):
        (folder / name).mkdir(exist_ok=True)
        paths[name] = host(folder / name, **changes)
    return paths


def statistics_of(**changes: Any) -> Statistics:
    """Gauges that are 0 but for these."""
    names = "accepted done failed cancelled expired rejected waiting queued in_flight"
    zeros = dict.fromkeys([*names.split(), "queued_samples", "queued_bytes"], 0)
    return Statistics(**{**zeros, "devices": {}, **changes})


# Serving


def test_two_models_share_all_cores_of_a_device(tmp_path: Path) -> None:
    """Sixteen cores hold two activations of six and one of four, and each model answers."""
    models = hosts(tmp_path)

    async def main() -> None:
        own = {"slow": {"model": models["slow"], "num_activations": 2, "aic_num_cores": 6}}
        async with Scheduler({"fast": models["fast"], **own}, aic_num_cores=4) as scheduler:
            inputs = {name: rows(8, seed) for seed, name in enumerate(models)}
            answers = await asyncio.gather(
                scheduler.run(inputs["fast"], model="fast"),
                scheduler.run(inputs["slow"], model="slow"),
                scheduler.run(inputs["slow"], model="slow"),
            )

            assert now() == 0.050
            for name, outputs in zip(("fast", "slow", "slow"), answers, strict=True):
                np.testing.assert_array_equal(outputs["mean"], expected(inputs[name]))
            assert list(scheduler.programs) == ["fast", "slow"]
            assert repr(scheduler) == "<Scheduler fast, slow: open>"

    run_virtual(main)


def test_a_core_too_many_is_refused(tmp_path: Path) -> None:
    """The error says what each model demands, what the device has, and what would fit."""
    models = hosts(tmp_path)
    own = {"model": models["slow"], "num_activations": 2, "aic_num_cores": 4}

    async def main() -> None:
        async with Scheduler({"fast": models["fast"], "slow": own}, num_activations=9):
            raise AssertionError("it opened")

    with pytest.raises(ConfigError) as raised:
        run_virtual(main)
    assert str(raised.value) == (
        "num_activations: the models want 17 cores together: fast 9 (9 activations of 1), "
        "slow 8 (2 activations of 4); device 0 has 16 of 16 cores free; "
        "8 of fast or 1 of slow would fit beside the rest"
    )


def test_an_overloaded_model_delays_no_other(tmp_path: Path) -> None:
    """A model's requests wait for its own activations only, however much another has queued."""
    models = hosts(tmp_path)

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
    """`map` is bounded by that model's slots, and yields its outputs in order."""
    models = hosts(tmp_path)

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
    """Its name may be given, and its metrics stand under it."""
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
    """None is unclear where there are several, and a wrong one is told its nearest."""
    models = hosts(tmp_path)

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


def test_a_model_without_a_name_has_none_to_ask_for(tmp_path: Path) -> None:
    """Its scheduler's only model is what `run` means."""
    model = host(tmp_path)

    async def main() -> None:
        async with Scheduler(model) as scheduler:
            with pytest.raises(InputError, match="'fast' asked for, but the only model"):
                await scheduler.run(rows(1), model="fast")
            assert "models" not in scheduler.get_metrics()

    run_virtual(main)


# Opening and closing


def test_all_models_are_drained(tmp_path: Path) -> None:
    """Leaving the scheduler waits for what each of them has accepted."""
    models = hosts(tmp_path)

    async def main() -> None:
        async with Scheduler(models) as scheduler:
            requests = [scheduler.submit(rows(8), model=name) for name in models for _ in range(3)]

        assert all(request.done() for request in requests)
        assert now() == pytest.approx(0.150)
        states = {each["state"] for each in scheduler.get_metrics()["devices"].values()}
        assert states == {"closed"}

    run_virtual(main)


def test_all_models_are_closed(tmp_path: Path) -> None:
    """Closing cancels what any of them has accepted, at once."""
    models = hosts(tmp_path)

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
    """Nothing stays loaded, and the scheduler is closed."""
    models = hosts(tmp_path, devices=2, fast={"devices": 2}, faults=[{"kind": "lost", "at_s": 0}])
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


def test_models_run_on_the_same_devices(tmp_path: Path) -> None:
    """Where their files describe others, or other cores, the error names both."""

    async def opened(models: dict[str, str], devices: Any = "all") -> list[int]:
        async with Scheduler(models, devices=devices) as scheduler:
            return list(scheduler.statistics().devices)

    more = hosts(tmp_path, devices=3, fast={"devices": 2})
    assert run_virtual(opened, more, 2) == [0, 1]
    with pytest.raises(ConfigError, match=r"all means \[0, 1\] to fast, but \[0, 1, 2\] to slow"):
        run_virtual(opened, more)
    others = hosts(tmp_path, cores=8)
    with pytest.raises(ConfigError, match=r"models\.slow: .* of \[8\] cores, .* of \[16\]"):
        run_virtual(opened, others)


def test_models_are_found_before_anything_is_opened(tmp_path: Path) -> None:
    """A model that is not there, or is for another kind of device, is named at once."""
    models = hosts(tmp_path)
    mixed = {"fast": models["fast"], "real": linear_model(tmp_path / "m.onnx")}
    with pytest.raises(ConfigError, match="one kind of device, not fast on sim, real on cpu"):
        Scheduler(mixed)
    with pytest.raises(ConfigError, match=r"^models\.b: .*none\.onnx"):
        Scheduler({"a": models["fast"], "b": "none.onnx"})


def test_each_model_finds_out_by_itself_that_a_device_is_lost(tmp_path: Path) -> None:
    """The whole tells of the model that fares worst; the others go on."""
    models = hosts(tmp_path, faults=[{"kind": "lost", "at_s": 0.01, "for_s": 9}])

    async def main() -> None:
        async with Scheduler(models) as scheduler:
            with pytest.raises(NoDeviceError):
                await scheduler.run(rows(8), model="slow")
            await scheduler.run(rows(8), model="fast")

            states = {name: scheduler.statistics(model=name).devices[0].state for name in models}
            assert states == {"fast": "ready", "slow": "quarantined"}
            assert scheduler.statistics().devices[0].state == "quarantined"
            assert scheduler.get_metrics()["devices"][0]["state"] == "quarantined"

    run_virtual(main)


def test_each_model_has_an_event_log_that_replays(tmp_path: Path) -> None:
    """A log is of one core, so each of them decides the same again."""
    models = hosts(tmp_path)

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


# Telling


def test_metrics_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole is the models' sum, its percentiles are those of all inferences together."""
    models = hosts(tmp_path, devices=2, fast={"devices": 2})

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


def test_gauges_add_up() -> None:
    """Counts are summed, a device's activations too, and its worst state is told."""
    several = [
        statistics_of(accepted=3, done=1, devices={0: DeviceStatistics("probation", 1, 1)}),
        statistics_of(accepted=2, queued=2, devices={0: DeviceStatistics("ready", 2, 3)}),
    ]
    merged = merged_statistics(several)

    assert (merged.accepted, merged.done, merged.queued, merged.in_flight) == (5, 1, 2, 0)
    assert merged.devices == {0: DeviceStatistics("probation", 3, 4)}


# Sharing cores


def test_a_change_of_one_model_is_held_against_the_others(tmp_path: Path) -> None:
    """What another model is announced to demand is not free to be loaded on."""
    configs = make_configs(hosts(tmp_path), aic_num_cores=4)
    backends = {name: backend_for(config) for name, config in configs.items()}

    async def main() -> None:
        await share_devices(configs, backends)
        assert (await backends["fast"].load(0, 3, 2)).num_activations == 3
        with pytest.raises(ConfigError, match="12 of 16 cores free; 3 would fit"):
            await backends["fast"].load(0, 4, 2)
        publish_demand(backends, "slow", CoreDemand(3, 4))
        with pytest.raises(ConfigError, match="4 of 16 cores free; 1 would fit"):
            await backends["fast"].load(0, 3, 2)

    run_virtual(main)


def test_models_on_the_cpu_answer_as_onnxruntime_does(tmp_path: Path) -> None:
    """Two real models at once, on the same cores, give bit for bit what it gives alone."""
    ort = pytest.importorskip("onnxruntime")
    linear, product = linear_model(tmp_path / "a.onnx"), unbatched_model(tmp_path / "b.onnx")
    random = np.random.default_rng(0)
    of_product = [
        {name: random.random(shape, np.float32) for name, shape in (("x", (2, 3)), ("w", (3,)))}
        for _ in range(20)
    ]
    of_linear = [linear_inputs(1 + seed % 5, seed) for seed in range(20)]

    async def main() -> list[list[dict[str, Any]]]:
        own = {"model": linear, "onnx_define_symbol": {"N": 4}}
        models = {"linear": own, "product": product}
        async with Scheduler(models, backend="cpu") as scheduler:
            calls = {"linear": of_linear, "product": of_product}
            return await asyncio.gather(
                *(
                    asyncio.gather(*(scheduler.run(each, model=name) for each in inputs))
                    for name, inputs in calls.items()
                )
            )

    for path, inputs, answers in zip(
        (linear, product), (of_linear, of_product), asyncio.run(main()), strict=True
    ):
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        for each, outputs in zip(inputs, answers, strict=True):
            np.testing.assert_array_equal(outputs["y"], session.run(None, each)[0])


def test_too_many_activations_on_the_cpu_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of all models count together, and they share the cores."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    models = {name: unbatched_model(tmp_path / f"{name}.onnx") for name in ("a", "b")}

    async def main() -> None:
        async with Scheduler(models, backend="cpu"):
            pass

    with caplog.at_level(logging.WARNING, "qaic_sched"):
        asyncio.run(main())
    assert caplog.messages == ["cpu device 0: 2 activations share 1 core(s): use fewer activations"]


def test_models_share_a_card(tmp_path: Path, cards: Any) -> None:
    """Both are loaded on each device, and what they demand beyond its cores is refused before."""
    models = {name: write_qpc(tmp_path / name, cores=4) for name in ("a", "b")}

    async def run(**options: Any) -> set[int]:
        async with Scheduler(models, backend="aic", aic_num_cores=4, **options) as scheduler:
            for name in models:
                await scheduler.run(card_rows(8), model=name)
            return {device.cores_free for device in cards.values()}

    assert asyncio.run(run(num_activations=2)) == {0}
    until(lambda: all(device.cores_free == 16 for device in cards.values()))
    with pytest.raises(ConfigError, match=r"want 24 cores together: a 12 .* 1 of a or 1 of b"):
        asyncio.run(run(num_activations=3))


def test_a_card_that_is_not_ready_is_not_said_to_lack_cores(tmp_path: Path, cards: Any) -> None:
    """Asked for by its id, it fails for what is wrong with it, and nothing stays loaded."""
    models = {name: write_qpc(tmp_path / name) for name in ("a", "b")}
    cards[1].dev_status = 2
    cards[1].cores_free = 0

    async def main() -> None:
        async with Scheduler(models, backend="aic", devices=[0, 1]):
            raise AssertionError("it opened")

    with pytest.raises(DeviceError, match="aic device 1 is not ready"):
        asyncio.run(main())
    until(lambda: cards[0].cores_free == cards[0].cores)


@pytest.mark.slow
def test_synchronous_code_names_models_too(tmp_path: Path) -> None:
    """`run`, `map` and `statistics` pass the name on."""
    with blocking(Scheduler(hosts(tmp_path))) as scheduler:
        outputs = scheduler.run(rows(3), model="slow")
        np.testing.assert_array_equal(outputs["mean"], expected(rows(3)))
        stream = [rows(3, seed) for seed in range(20)]
        answers = [each["mean"] for each in scheduler.map(stream, model="fast")]
        np.testing.assert_array_equal(answers, [expected(inputs) for inputs in stream])
        done = [scheduler.statistics(model=name).done for name in ("fast", "slow")]
        assert (done, scheduler.statistics().done) == ([20, 1], 21)
        with pytest.raises(InputError, match="runs several"):
            scheduler.run(rows(3))
