"""The backend of simulated devices: the devices of a file, and loading on them."""

from __future__ import annotations

import asyncio

import pytest

from qaic_sched.config.keys import ModelOptions
from qaic_sched.errors import ConfigError
from qaic_sched.testing import run_virtual
from tests.backends.sim.sim_cards import Make, run_queued, virtually


def test_find_gives_the_devices_of_the_file(make: Make) -> None:
    """Every device of the file is ready, and all its cores are free."""
    found = run_virtual(make(cores=14).find)

    assert [info.device_id for info in found] == [0, 1, 2, 3]
    assert {(info.kind, info.state, info.cores, info.cores_free) for info in found} == {
        ("sim", "ready", 14, 14)
    }


def test_describe_gives_the_program(make: Make) -> None:
    """The program has the tensors and the compiled batch sizes of the file."""
    program = run_virtual(make().describe)

    assert program.batch_sizes == (1, 2, 4)
    assert [spec.name for spec in (*program.inputs, *program.outputs)] == ["data", "prob"]


def test_loading_takes_its_time_per_activation(make: Make) -> None:
    """Three activations take three times `load_time_s`."""
    backend = make(load_time_s=0.5)

    async def main() -> tuple[float, int, int]:
        executable = await backend.load(2, 3, 1)
        now = asyncio.get_running_loop().time()
        return now, executable.num_activations, executable.device_id

    assert run_virtual(main) == (1.5, 3, 2)


def test_too_many_activations_say_how_many_would_fit(make: Make) -> None:
    """More than the free cores, num_activations × aic_num_cores, is a `ConfigError`."""
    backend = make(ModelOptions(aic_num_cores=3), cores=14)

    with pytest.raises(ConfigError, match=r"5 of 3 cores .* has 14 of 14 cores free; 4 would fit"):
        run_virtual(backend.load, 0, 5, 1)
    assert run_virtual(backend.load, 0, 4, 1).num_activations == 4


def test_a_device_that_does_not_exist_is_refused(make: Make) -> None:
    """The error names the file and the number of devices that it describes."""
    with pytest.raises(ConfigError, match=r"no sim device 4: .* describes 4"):
        run_virtual(make().load, 4, 1, 1)


def test_a_backend_may_be_used_on_a_second_loop(make: Make) -> None:
    """A backend that is loaded on another loop uses the clock and the timers of that loop."""
    backend = make()

    for _ in range(2):
        recorder = virtually(backend, lambda executable: run_queued(executable, [1]))
        assert recorder.ends == [0.004]
