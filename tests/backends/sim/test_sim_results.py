"""What simulated cards answer: outputs, random times and faults."""

from __future__ import annotations

import itertools
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qaic_sched.backends.base import Executable
from qaic_sched.backends.sim import SimBackend
from qaic_sched.errors import DeviceError
from tests.backends.sim.sim_cards import Make, Recorder, maker, rows, run_queued, virtually


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a backend with some keys of its file changed."""
    return maker(tmp_path)


def _outputs(backend: SimBackend, inputs: dict[str, object]) -> dict[str, Any]:
    async def main(executable: Executable) -> Any:
        answers = Recorder()
        executable.submit(0, inputs, answers)
        await answers.wait(1)
        return answers.results[0]

    outputs: dict[str, Any] = virtually(backend, main)
    return outputs


def test_outputs_hold_the_mean_of_their_row(make: Make) -> None:
    """Each element of row i is the float64 mean of row i, in the output's shape and type."""
    wanted: dict[str, tuple[list[int], str]] = {
        "flat": ([4], "float64"),
        "cube": ([4, 2, 3], "float32"),
        "half": ([4, 1], "float16"),
        "whole": ([4, 2], "int32"),
        "truth": ([4, 2], "bool"),
    }
    outputs = {name: {"shape": shape, "dtype": dtype} for name, (shape, dtype) in wanted.items()}
    data = np.random.default_rng(1).normal(5, 10, (2, 3)).astype(np.float32)
    mean = data.mean(axis=1, dtype=np.float64)

    result = _outputs(make(outputs=outputs), {"data": data})

    assert list(result) == list(outputs)
    for name, (shape, dtype) in wanted.items():
        column = mean.astype(dtype).reshape(2, *[1] * (len(shape) - 1))
        assert result[name].dtype == dtype
        np.testing.assert_array_equal(result[name], np.broadcast_to(column, (2, *shape[1:])))
        assert result[name].flags.writeable
        assert result[name].base is None


def test_the_mean_is_over_all_inputs_exactly_in_float64(make: Make) -> None:
    """Inputs of other types and shapes are added as float64, each element with one weight."""
    inputs = {
        "big": {"shape": [4, 2], "dtype": "int64"},
        "small": {"shape": [4], "dtype": "float16"},
        "cube": {"shape": [4, 1, 3], "dtype": "bool"},
    }
    outputs = {"mean": {"shape": [4], "dtype": "float64"}}
    sent: dict[str, object] = {
        "big": np.array([[2**40, 1], [-5, 7]]),
        "small": np.array([0.5, -2], np.float16),
        "cube": np.array([[[True, True, False]], [[False, False, False]]]),
    }

    result = _outputs(make(inputs=inputs, outputs=outputs), sent)

    assert result["mean"].tolist() == [(2**40 + 1 + 0.5 + 2) / 6, 0.0]


def test_rows_do_not_depend_on_their_company(make: Make) -> None:
    """A row has the same result, to the last bit, alone and in a batch."""
    data = np.random.default_rng(2).random((4, 3)).astype(np.float32)

    together = _outputs(make(), {"data": data})["prob"]
    alone = [_outputs(make(), {"data": data[i : i + 1]})["prob"] for i in range(4)]

    np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint64", "bool"])
def test_strange_numbers_neither_warn_nor_raise(make: Make, dtype: str) -> None:
    """NaN, infinities and overflow pass through any cast without a warning."""
    backend = make(
        inputs={"data": {"shape": [4, 2], "dtype": "float64"}},
        outputs={"out": {"shape": [4, 2], "dtype": dtype}},
    )
    data = np.array([[math.nan, 1], [math.inf, -math.inf], [1e308, 1e308], [1, 3]])

    result = _outputs(backend, {"data": data})

    assert result["out"].dtype == dtype
    assert result["out"][3].tolist() == np.full(2, 2, dtype).tolist()


def _noisy_ends(
    backend: SimBackend, device_id: int, count: int, activation: int = 0
) -> list[float]:
    async def main(executable: Executable) -> list[float]:
        answers = Recorder()
        for _ in range(count):
            executable.submit(activation, rows(1), answers)
        await answers.wait(count)
        return answers.ends

    ends: list[float] = virtually(backend, main, device_id=device_id, num_activations=2)
    return ends


def test_noise_has_the_mean_and_variation_asked_for(make: Make) -> None:
    """Service times are lognormal about the given mean with the given coefficient."""
    ends = _noisy_ends(make(service_time_s=1, service_time_cv=0.5), 0, 4000)
    times = [end - start for start, end in itertools.pairwise([0.0, *ends])]

    assert statistics.fmean(times) == pytest.approx(1, rel=0.03)
    assert statistics.stdev(times) == pytest.approx(0.5, rel=0.06)
    assert statistics.fmean(map(math.log, times)) == pytest.approx(-math.log(1.25) / 2, abs=0.03)


def test_each_activation_has_its_own_stream_of_the_seed(make: Make) -> None:
    """The same seed repeats, and seeds, devices and activations differ."""
    noisy = {"service_time_s": 1, "service_time_cv": 0.5}
    ends = _noisy_ends(make(**noisy, seed=1), 0, 5)

    assert _noisy_ends(make(**noisy, seed=1), 0, 5) == ends
    assert _noisy_ends(make(**noisy, seed=2), 0, 5) != ends
    assert _noisy_ends(make(**noisy, seed=1), 1, 5) != ends
    assert _noisy_ends(make(**noisy, seed=1), 0, 5, activation=1) != ends


def test_a_second_load_goes_on_with_the_stream(make: Make) -> None:
    """A device that was loaded again does not draw the same numbers again."""
    noisy = {"service_time_s": 1, "service_time_cv": 0.5}
    backend = make(**noisy)
    first = _noisy_ends(backend, 0, 3)
    second = _noisy_ends(backend, 0, 3)

    assert [*first, *(first[-1] + end for end in second)] == pytest.approx(
        _noisy_ends(make(**noisy), 0, 6)
    )


def test_a_card_s_draws_do_not_depend_on_another_s_faults(make: Make) -> None:
    """A fault on one device leaves the times of the others as they were."""
    noisy = {"service_time_s": 1, "service_time_cv": 0.5}
    stall = {"kind": "stall", "probability": 0.5, "for_s": 9, "device": 1}
    ends = _noisy_ends(make(**noisy), 0, 5)

    assert _noisy_ends(make(**noisy, faults=[stall]), 0, 5) == ends
    assert _noisy_ends(make(**noisy, faults=[stall]), 1, 5) != _noisy_ends(make(**noisy), 1, 5)


def test_stalls_are_added_to_the_service_time(make: Make) -> None:
    """With probability 1 every inference takes that much longer, at any speed."""
    stall = {"kind": "stall", "probability": 1, "for_s": 0.5}
    backend = make(service_time_s=1, faults=[stall], overrides={0: {"speed": 4}})

    answers = virtually(backend, lambda executable: run_queued(executable, [1, 1]))

    assert answers.ends == [0.75, 1.5]


def test_error_faults_fail_inferences_when_they_would_have_ended(make: Make) -> None:
    """A DeviceError names the device, at the time of the answer that it replaces."""
    fault = {"kind": "error", "probability": 1, "device": 2}
    backend = make(faults=[fault])

    answers = virtually(backend, lambda each: run_queued(each, [1, 2]), device_id=2)
    healthy = virtually(backend, lambda each: run_queued(each, [1]), device_id=1)

    assert answers.ends == [0.004, 0.004 + 0.005]
    assert [type(error) for error in answers.results] == [DeviceError, DeviceError]
    assert answers.results[0].device_id == 2
    assert "sim device 2 failed" in str(answers.results[0])
    assert isinstance(healthy.results[0], dict)


def test_errors_come_as_often_as_their_probability(make: Make) -> None:
    """A probability of 0.2 fails about every fifth inference, and only those."""
    backend = make(faults=[{"kind": "error", "probability": 0.2}])

    answers = virtually(backend, lambda executable: run_queued(executable, [1] * 1000))
    failed = sum(isinstance(result, DeviceError) for result in answers.results)

    assert 150 < failed < 250
