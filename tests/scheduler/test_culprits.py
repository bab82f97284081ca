"""Bad values fail their own request alone, and values that nobody sent fail none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import pytest
from onnx import TensorProto, helper

from qaic_sched import DeviceError, InputError, Scheduler
from qaic_sched.testing import run_virtual
from tests.hosts import expected, host, rows
from tests.models import gather_model, save_model, tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

BAD = 10**9


async def _run_together(scheduler: Scheduler, several: Sequence[Mapping[str, Any]]) -> list[Any]:
    with anyio.fail_after(60):
        return await asyncio.gather(*map(scheduler.run, several), return_exceptions=True)


def _states(scheduler: Scheduler) -> set[str]:
    return {each["state"] for each in scheduler.get_metrics()["devices"].values()}


@pytest.mark.parametrize("max_attempts", [1, 2])
def test_an_id_out_of_range_is_its_own_callers_error(tmp_path: Path, max_attempts: int) -> None:
    """A quarter of all requests is bad: each gets an `InputError`, and each other its answer."""
    path = gather_model(tmp_path / "model.onnx", batch=4, output_batch=4)
    ids = [BAD if number % 4 == 2 else number % 4 for number in range(80)]

    async def main() -> None:
        options: dict[str, Any] = {"devices": 2, "retry": {"max_attempts": max_attempts}}
        async with Scheduler(path, **options) as scheduler:
            answers = await _run_together(scheduler, [{"x": np.array([each])} for each in ids])
            for number, answer in zip(ids, answers, strict=True):
                if number == BAD:
                    assert isinstance(answer, InputError)
                    assert "values of the inputs were rejected" in str(answer)
                    assert "out of data bounds" in str(answer)
                    assert isinstance(answer.__cause__, DeviceError)
                else:
                    np.testing.assert_array_equal(answer["y"], [number])
            assert _states(scheduler) == {"ready"}

    asyncio.run(main())


@pytest.mark.parametrize("error", ["input", "inference"])
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_bad_values_fail_their_own_request_on_cards(
    tmp_path: Path, devices: int, error: str
) -> None:
    """Requests of any size, whatever the runtime calls it; no device leaves `ready`."""
    faults = [{"kind": "reject", "above": 50.0, "error": error}]
    model = host(tmp_path, devices=devices, faults=faults, batch_sizes=[1, 2, 4, 8])

    async def main() -> None:
        async with Scheduler(model, num_activations=2) as scheduler:
            several = [rows(1 + seed % 11, seed) for seed in range(120)]
            for inputs in several[::7]:
                inputs["data"][-1, 2] = 99.0
            answers = await _run_together(scheduler, several)
            for number, (inputs, answer) in enumerate(zip(several, answers, strict=True)):
                if number % 7 == 0:
                    assert type(answer) is (InputError if error == "input" else DeviceError)
                else:
                    np.testing.assert_array_equal(answer["mean"], expected(inputs))
            assert _states(scheduler) == {"ready"}

    run_virtual(main)


def test_bad_values_of_a_program_that_is_not_batched_are_an_input_error(tmp_path: Path) -> None:
    """Nothing is shared there, so nothing is split: one inference per bad request."""
    path = gather_model(tmp_path / "model.onnx", batch=3, output_batch=3)

    async def main() -> None:
        async with Scheduler(path, devices=1) as scheduler:
            for _ in range(8):
                with pytest.raises(InputError, match="out of data bounds"):
                    await scheduler.run({"x": np.array([1, 2, 77])})
            assert scheduler.get_metrics()["devices"][0]["errors"] == 8
            assert _states(scheduler) == {"ready"}

    asyncio.run(main())


# Values that nobody sent


def _save_division(path: Path) -> str:
    nodes = [helper.make_node("Div", ["a", "b"], ["y"])]
    values = [tensor(name, [4], TensorProto.INT64) for name in "aby"]
    return save_model(path, nodes, values[:2], values[2:])


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_padding_divides_nothing_by_zero(tmp_path: Path, count: int) -> None:
    """A partial batch is filled up with values that a caller sent."""
    path = _save_division(tmp_path / "model.onnx")

    async def main() -> None:
        async with Scheduler(path, devices=1) as scheduler:
            inputs = {"a": np.full(count, 9), "b": np.arange(1, count + 1)}
            outputs = await scheduler.run(inputs)
            np.testing.assert_array_equal(outputs["y"], inputs["a"] // inputs["b"])

    asyncio.run(main())


@pytest.mark.parametrize("error", ["input", "inference"])
def test_a_device_comes_back_whatever_values_a_program_takes(tmp_path: Path, error: str) -> None:
    """The probe after a loss has inputs that have worked; without any, the device is tried out."""
    faults = [
        {"kind": "lost", "device": 0, "at_s": 1.0, "for_s": 1.0},
        {"kind": "reject", "above": 0.5, "error": error},
    ]
    model = host(tmp_path, faults=faults)
    quiet = {"data": np.full((8, 4), 0.25, np.float32)}

    async def main(*, runs_before: bool) -> None:
        async with Scheduler(model) as scheduler:
            if runs_before:
                await scheduler.run(quiet)
            await asyncio.sleep(1.0)
            await _run_together(scheduler, [quiet])
            assert _states(scheduler) == {"quarantined"}
            await asyncio.sleep(5.0)
            for _ in range(3):
                outputs = await scheduler.run(quiet)
                np.testing.assert_array_equal(outputs["mean"], expected(quiet))
            assert _states(scheduler) == {"ready"}

    for runs_before in (True, False):
        run_virtual(lambda runs_before=runs_before: main(runs_before=runs_before))
