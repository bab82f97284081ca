"""What may share an inference is decided when a model opens; requests get what they get alone."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qaic_sched.backends import loaded_trial
from qaic_sched.backends.row_trial import try_rows
from qaic_sched.errors import ConfigError, DeviceError, InputError
from qaic_sched.program import Program
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import expected, host
from tests.hosts import rows as sim_rows
from tests.models import FLOAT, linear_inputs, linear_model, save_model, tensor
from tests.standin import control
from tests.standin.qpc import write_qpc

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

INT64 = onnx.TensorProto.INT64
node = onnx.helper.make_node
Inputs = dict[str, Any]
COUNTS = (1, 4, 3, 1, 7, 2, 4)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def dynamic_quantization(path: Path, rows: int | str) -> str:
    """The example of int8 text models: the scale is that of the whole batch."""
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node("MatMulInteger", ["q", "w", "zero"], ["product"]),
        node("Cast", ["product"], ["cast"], to=FLOAT),
        node("Mul", ["cast", "scale"], ["y"]),
    ]
    weights = np.full((4, 1), 32, np.int8)
    return save_model(
        path, nodes, [tensor("x", [rows, 4])], [tensor("y", [rows, 1])], {"w": weights}
    )


def alone(path: str, requests: list[Inputs]) -> list[Any]:
    """What ONNX Runtime gives for each request by itself, or its error."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    answers: list[Any] = []
    for inputs in requests:
        try:
            answers.append(session.run(None, inputs)[0])
        except Exception as error:
            answers.append(error)
    return answers


async def together(scheduler: Scheduler, requests: list[Inputs]) -> list[Any]:
    """All requests at once: the first output or the error of each."""
    answers = await asyncio.gather(*map(scheduler.run, requests), return_exceptions=True)
    return [next(iter(each.values())) if isinstance(each, dict) else each for each in answers]


def check(path: str, requests: list[Inputs], **options: Any) -> dict[str, str]:
    """Compare each request with itself alone, or with an `InputError`; return what was decided."""

    async def main() -> dict[str, str]:
        async with Scheduler(path, devices=1, backend="cpu", **options) as scheduler:
            for found, wanted in zip(
                await together(scheduler, requests), alone(path, requests), strict=True
            ):
                if isinstance(wanted, Exception):
                    assert isinstance(found, InputError)
                else:
                    assert found.shape == wanted.shape
                    np.testing.assert_allclose(found, wanted, rtol=1e-4)
            report: dict[str, str] = scheduler.get_metrics()["batch_axis"]
            return report

    return asyncio.run(main())


def of_rows(counts: tuple[int, ...], *shape: int) -> list[Inputs]:
    """Requests of `x` with these row counts, small ones beside large ones."""
    random = np.random.default_rng(0)
    return [
        {"x": (100.0 ** (index % 2) * random.standard_normal((rows, *shape))).astype(np.float32)}
        for index, rows in enumerate(counts)
    ]


def test_a_small_row_beside_a_large_one_keeps_its_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A row of 0.01 beside a stranger's of 100 gives 1.27 as alone, and one warning says why."""
    path = dynamic_quantization(tmp_path / "model.onnx", "N")
    small, large = ({"x": np.full((1, 4), value, np.float32)} for value in (0.01, 100.0))
    with caplog.at_level(logging.WARNING, logger="qaic_sched"):
        report = check(
            path, [small, large, small, *of_rows(COUNTS, 4)], onnx_define_symbol={"N": 4}
        )

    assert alone(path, [small])[0][0, 0] == pytest.approx(1.27, rel=0.02)
    assert report["mode"] == "any"
    (warning,) = caplog.messages
    assert "with other companions a row of output 'y' differs by" in warning
    assert "`batching.rows: shared` overrides this" in warning


def test_a_fixed_batch_of_mixed_rows_is_padded_where_that_is_harmless(tmp_path: Path) -> None:
    """The scale of a batch that is filled up with its own rows is that of the rows."""

    async def main() -> None:
        path = dynamic_quantization(tmp_path / "model.onnx", 4)
        same = alone(dynamic_quantization(tmp_path / "open.onnx", "N"), of_rows((1, 3, 4, 2), 4))
        async with Scheduler(path, devices=1) as scheduler:
            for found, wanted in zip(
                await together(scheduler, of_rows((1, 3, 4, 2), 4)), same, strict=True
            ):
                np.testing.assert_allclose(found, wanted, rtol=1e-4)
            with pytest.raises(InputError, match="5 rows; wanted 1 to 4, because this model runs"):
                await scheduler.run({"x": np.ones((5, 4), np.float32)})

    asyncio.run(main())


def test_a_softmax_over_the_rows_runs_in_whole_batches_only(tmp_path: Path) -> None:
    """First dimensions that are equal by chance: any other row count is refused with a list."""
    nodes = [node("Softmax", ["x"], ["y"], axis=0)]
    shape = [2, 2]
    path = save_model(tmp_path / "model.onnx", nodes, [tensor("x", shape)], [tensor("y", shape)])
    report = check(path, of_rows((1, 2, 2, 3, 4, 2), 2))

    assert (report["mode"], report["row_counts"]) == ("exact", "2")


def test_a_product_of_two_matrices_runs_whole(tmp_path: Path) -> None:
    """Neither factor is a batch."""
    nodes = [node("MatMul", ["a", "b"], ["y"])]
    values = [tensor(name, [4, 4]) for name in "aby"]
    path = save_model(tmp_path / "model.onnx", nodes, values[:2], values[2:])
    random = np.random.default_rng(0)
    requests = [
        {name: random.standard_normal((rows, 4)).astype(np.float32) for name in "ab"}
        for rows in (4, 4, 1, 4, 8)
    ]

    assert check(path, requests)["mode"] == "exact"


def test_time_steps_are_no_rows(tmp_path: Path) -> None:
    """A recurrent layer in the order of ONNX: the symbol is on another axis."""
    random = np.random.default_rng(0)
    weights = {
        "w": random.standard_normal((1, 2, 3)).astype(np.float32),
        "r": random.standard_normal((1, 2, 2)).astype(np.float32),
    }
    path = save_model(
        tmp_path / "model.onnx",
        [node("RNN", ["x", "w", "r"], ["y"], hidden_size=2)],
        [tensor("x", [4, "batch", 3])],
        [tensor("y", [4, 1, "batch", 2])],
        weights,
    )
    report = check(path, of_rows((4, 4, 1, 4), 2, 3), onnx_define_symbol={"batch": 2})

    assert report["mode"] == "unbatched"
    assert "the fixed size 4 on axis 0" in report["reason"]


OUTPUTS: dict[str, tuple[list[Any], list[Any], dict[str, Any]]] = {
    "Unique": ([node("Unique", ["x"], ["y"])], ["values"], {}),
    "NonZero": (
        [
            node("NonZero", ["x"], ["at"]),
            node("Transpose", ["at"], ["t"], perm=[1, 0]),
            node("Cast", ["t"], ["y"], to=FLOAT),
        ],
        ["found", 2],
        {},
    ),
    "Compress": (
        [
            node("ReduceMax", ["x"], ["most"], axes=[1], keepdims=0),
            node("Greater", ["most", "limit"], ["is_kept"]),
            node("Compress", ["x", "is_kept"], ["y"], axis=0),
        ],
        ["kept", 3],
        {"limit": np.array(0.5, np.float32)},
    ),
}


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_an_output_comes_with_the_shape_that_it_has(tmp_path: Path, kind: str, size: int) -> None:
    """Its size depends on the values: it is neither cut nor filled, whatever runs beside it."""
    nodes, shape, constants = OUTPUTS[kind]
    path = save_model(
        tmp_path / "model.onnx", nodes, [tensor("x", ["N", 3])], [tensor("y", shape)], constants
    )
    requests = of_rows(COUNTS, 3)
    for inputs in requests:
        inputs["x"][np.abs(inputs["x"]) < 0.5] = 0

    assert check(path, requests, onnx_define_symbol={"N": size})["mode"] == "any"


def test_a_constant_is_no_batch(tmp_path: Path) -> None:
    """A model without inputs gives its whole output."""
    constant = np.arange(8, dtype=np.float32).reshape(4, 2)
    nodes = [node("Identity", ["constant"], ["y"])]
    path = save_model(
        tmp_path / "model.onnx", nodes, [], [tensor("y", [4, 2])], {"constant": constant}
    )

    assert check(path, [{}, {}])["mode"] == "unbatched"


def test_independent_rows_share_inferences(tmp_path: Path) -> None:
    """Four requests of one row are one inference of four."""

    async def main() -> None:
        path = linear_model(tmp_path / "model.onnx")
        async with Scheduler(path, devices=1, onnx_define_symbol={"N": 4}) as scheduler:
            await asyncio.gather(*(scheduler.run(linear_inputs(1, seed)) for seed in range(4)))
            metrics = scheduler.get_metrics()
            assert metrics["batch_axis"]["mode"] == "shared"
            assert metrics["num_of_inferences"] == 1

    asyncio.run(main())


def test_the_user_decides_for_simulated_cards(tmp_path: Path) -> None:
    """`own` runs one request per inference, padded; nothing is tried, and nothing warns."""

    async def main() -> None:
        path = host(tmp_path, batch_sizes=[1, 8])
        async with Scheduler(path, batching={"rows": "own"}) as scheduler:
            requests = [scheduler.submit(sim_rows(3, seed)) for seed in range(4)]
            for seed, request in enumerate(requests):
                outputs = await request
                np.testing.assert_array_equal(outputs["mean"], expected(sim_rows(3, seed)))
                (part,) = request.explain().parts
                assert (part.samples, part.batch_size) == (3, 8)
            with pytest.raises(InputError, match="9 rows; wanted 1 to 8"):
                await scheduler.run(sim_rows(9))
            with pytest.raises(ConfigError, match=r"batching\.rows: cannot be changed"):
                await scheduler.update_backend_options(batching={"rows": "shared"})
            await scheduler.update_backend_options(batching={"max_queue_delay_s": 0.1})
            assert scheduler.get_metrics()["batch_axis"]["mode"] == "padded"

    run_virtual(main)


def test_a_stream_of_whole_requests_keeps_every_slot_busy(tmp_path: Path) -> None:
    """Each request is an inference, however many rows it has."""

    async def main() -> None:
        path = host(tmp_path, devices=4)
        async with Scheduler(path, batching={"rows": "own"}) as scheduler:
            stream = [sim_rows(1, seed) for seed in range(80)]
            began_at = asyncio.get_running_loop().time()
            assert len([each async for each in scheduler.map(stream)]) == 80
            took_s = asyncio.get_running_loop().time() - began_at
            assert took_s == pytest.approx(80 * 0.010 / 4, rel=0.05)

    run_virtual(main)


def test_each_model_says_how_it_uses_its_batch_axis(tmp_path: Path) -> None:
    """Of several models, the metrics of each have it."""

    async def main() -> None:
        path = host(tmp_path)
        models = {"one": path, "two": {"model": path, "batching": {"rows": "own"}}}
        async with Scheduler(models) as scheduler:
            modes = {
                name: its["batch_axis"]["mode"]
                for name, its in scheduler.get_metrics()["models"].items()
            }
            assert modes == {"one": "shared", "two": "padded"}

    run_virtual(main)


def test_cards_try_the_first_loaded_program_once(
    tmp_path: Path, cards: dict[int, control.Device]
) -> None:
    """What was found is remembered: another scheduler loads and runs nothing for it."""

    async def main() -> int:
        path = write_qpc(tmp_path / "qpc")
        async with Scheduler(path, backend="aic") as scheduler:
            report = scheduler.get_metrics()["batch_axis"]
            assert report["mode"] == "shared"
            assert report["reason"] == "rows do not depend on their companions"
            assert scheduler.get_metrics()["num_of_inferences"] == 0
            return sum(device.num_run for device in cards.values())

    first = asyncio.run(main())
    assert cards[1].num_run == 0
    assert 0 < first < 30
    assert asyncio.run(main()) == first


@pytest.mark.parametrize(("wish", "mode"), [("shared", "shared"), ("own", "padded")])
def test_the_user_decides_for_cards(
    tmp_path: Path, cards: dict[int, control.Device], wish: str, mode: str
) -> None:
    """Only whether padding is harmless is tried."""

    async def main() -> Program:
        path = write_qpc(tmp_path / "qpc")
        async with Scheduler(path, backend="aic", batching={"rows": wish}) as scheduler:
            return scheduler.program

    program = asyncio.run(main())
    assert program.rows_report["mode"] == mode
    assert (cards[0].num_run > 0) == (wish == "own")


def test_a_card_that_is_stuck_leaves_the_trial_to_another(
    tmp_path: Path, cards: dict[int, control.Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no other card, opening fails as it does when none can load."""
    monkeypatch.setattr("qaic_sched.backends.loaded_trial.ANSWER_LIMIT_S", 0.05)
    cards[0].execute_s = 0.5

    async def main(devices: list[int]) -> str:
        path = write_qpc(tmp_path / "qpc")
        async with Scheduler(path, backend="aic", devices=devices) as scheduler:
            mode: str = scheduler.get_metrics()["batch_axis"]["mode"]
            return mode

    with pytest.raises(DeviceError, match="device 0 did not answer its first inferences"):
        asyncio.run(main([0]))
    assert asyncio.run(main([0, 1])) == "shared"
    assert asyncio.run(main([0])) == "shared"  # it is remembered


def test_a_card_without_time_for_a_trial_is_unknown(
    tmp_path: Path, cards: dict[int, control.Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests share no inference then, and the next opening tries again."""
    monkeypatch.setattr(loaded_trial, "try_rows", partial(try_rows, limit_s=-1.0))

    async def main() -> dict[str, str]:
        path = write_qpc(tmp_path / "qpc")
        async with Scheduler(path, backend="aic", devices=[0]) as scheduler:
            report: dict[str, str] = scheduler.get_metrics()["batch_axis"]
            return report

    report = asyncio.run(main())
    assert report["mode"] == "exact"
    assert report["reason"] == "unknown: the trial took longer than -1 s"
    assert cards[0].num_run == 0
    monkeypatch.setattr(loaded_trial, "try_rows", try_rows)
    assert asyncio.run(main())["mode"] == "shared"
