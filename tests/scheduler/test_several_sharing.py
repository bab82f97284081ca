"""Several models share devices and cores: simulated devices, the CPU and cards."""

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
from qaic_sched.config.models import make_configs
from qaic_sched.errors import (
    ConfigError,
    DeviceError,
)
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.scheduler.several import publish_demand, share_devices
from qaic_sched.testing import run_virtual
from tests.backends.aic.aic_cards import rows as card_rows
from tests.backends.aic.aic_cards import until
from tests.hosts import expected, now, rows, two_hosts
from tests.models import linear_inputs, linear_model, unbatched_model
from tests.standin.qpc import write_qpc


def test_two_models_share_all_cores_of_a_device(tmp_path: Path) -> None:
    """Sixteen cores hold two activations of six cores and one of four, and each model answers."""
    models = two_hosts(tmp_path)

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
    """The error has the demand of each model, the device's cores, and what would fit."""
    models = two_hosts(tmp_path)
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


def test_models_run_on_the_same_devices(tmp_path: Path) -> None:
    """If the models describe different devices or cores, the error names both."""

    async def opened(models: dict[str, str], devices: Any = "all") -> list[int]:
        async with Scheduler(models, devices=devices) as scheduler:
            return list(scheduler.statistics().devices)

    more = two_hosts(tmp_path, devices=3, fast={"devices": 2})
    assert run_virtual(opened, more, 2) == [0, 1]
    with pytest.raises(ConfigError, match=r"all means \[0, 1\] to fast, but \[0, 1, 2\] to slow"):
        run_virtual(opened, more)
    others = two_hosts(tmp_path, cores=8)
    with pytest.raises(ConfigError, match=r"models\.slow: .* of \[8\] cores, .* of \[16\]"):
        run_virtual(opened, others)


def test_models_are_found_before_anything_is_opened(tmp_path: Path) -> None:
    """A missing model, and one for another kind of device, are refused before opening."""
    models = two_hosts(tmp_path)
    mixed = {"fast": models["fast"], "real": linear_model(tmp_path / "m.onnx")}
    with pytest.raises(ConfigError, match="one kind of device, not fast on sim, real on cpu"):
        Scheduler(mixed)
    with pytest.raises(ConfigError, match=r"^models\.b: .*none\.onnx"):
        Scheduler({"a": models["fast"], "b": "none.onnx"})


def test_a_change_of_one_model_respects_the_demand_of_the_others(tmp_path: Path) -> None:
    """Cores in the published demand of another model are not free."""
    configs = make_configs(two_hosts(tmp_path), aic_num_cores=4)
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
    """Two models on the same cores give the outputs of onnxruntime, bit for bit."""
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


def test_too_many_activations_on_the_cpu_are_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The activations of all models count together, since they share the cores."""
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
    """Both models are loaded on each device; a demand beyond its cores is refused beforehand."""
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


def test_a_card_that_is_not_ready_is_not_reported_as_full(tmp_path: Path, cards: Any) -> None:
    """A device chosen by id fails with its state as the reason, and nothing stays loaded."""
    models = {name: write_qpc(tmp_path / name) for name in ("a", "b")}
    cards[1].dev_status = 2
    cards[1].cores_free = 0

    async def main() -> None:
        async with Scheduler(models, backend="aic", devices=[0, 1]):
            raise AssertionError("it opened")

    with pytest.raises(DeviceError, match="aic device 1 is not ready"):
        asyncio.run(main())
    until(lambda: cards[0].cores_free == cards[0].cores)
