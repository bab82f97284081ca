"""Programs on simulated devices: exact times, random times, faults, threads and closing."""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import threading
from collections.abc import Callable
from typing import Any

import pytest

from qaic_sched.backends.base import Executable
from qaic_sched.backends.sim import SimBackend
from qaic_sched.errors import ConfigError, DeviceError, SchedulerClosedError
from qaic_sched.testing import run_virtual
from tests.backends.sim.sim_cards import Make, Recorder, rows, run_queued, virtually


def test_queued_inferences_follow_each_other_without_a_gap(make: Make) -> None:
    """Each inference starts when the previous one ends, and completes exactly on time."""
    recorder = virtually(
        make(host_turnaround_s=0.25), lambda executable: run_queued(executable, [1, 2, 4, 1])
    )

    assert recorder.ends == [0.004, 0.004 + 0.005, 0.004 + 0.005 + 0.007, 0.016 + 0.004]
    assert recorder.seen == recorder.ends


def test_an_idle_activation_first_turns_around(make: Make) -> None:
    """An inference submitted on completion of the last one starts a turnaround later."""

    async def one_by_one(executable: Executable) -> list[float]:
        recorder = Recorder()
        for count in (1, 2, 3):
            executable.submit(0, rows(1), recorder)
            await recorder.wait(count)
        return recorder.ends

    ends = virtually(make(host_turnaround_s=0.25), one_by_one)

    assert ends == [0.004, 0.004 + 0.25 + 0.004, 0.004 + 0.25 + 0.004 + 0.25 + 0.004]


def test_after_a_pause_the_turnaround_is_over(make: Make) -> None:
    """An inference submitted after end + turnaround starts at once; before that, it waits."""

    async def with_pauses(executable: Executable) -> list[float]:
        recorder = Recorder()
        for at in (0.0, 1.0, 1.125):
            await asyncio.sleep(at - asyncio.get_running_loop().time())
            executable.submit(0, rows(1), recorder)
        await recorder.wait(3)
        return recorder.ends

    ends = virtually(make(host_turnaround_s=0.25, service_time_s=0.0625), with_pauses)

    assert ends == [0.0625, 1.0625, 1.0625 + 0.25 + 0.0625]


def test_speed_divides_the_execution_time(make: Make) -> None:
    """A device of half the speed takes twice as long."""
    recorder = virtually(
        make(overrides={3: {"speed": 0.5}}),
        lambda executable: run_queued(executable, [1, 4]),
        device_id=3,
    )

    assert recorder.ends == [0.008, 0.008 + 0.014]


def _noisy_ends(
    backend: SimBackend, device_id: int, count: int, activation: int = 0
) -> list[float]:
    async def main(executable: Executable) -> list[float]:
        recorder = Recorder()
        for _ in range(count):
            executable.submit(activation, rows(1), recorder)
        await recorder.wait(count)
        return recorder.ends

    ends: list[float] = virtually(backend, main, device_id=device_id, num_activations=2)
    return ends


def test_noise_has_the_mean_and_variation_asked_for(make: Make) -> None:
    """Execution times are lognormal, with the mean and the coefficient of variation of the file."""
    ends = _noisy_ends(make(service_time_s=1, service_time_cv=0.5), 0, 4000)
    times = [end - start for start, end in itertools.pairwise([0.0, *ends])]

    assert statistics.fmean(times) == pytest.approx(1, rel=0.03)
    assert statistics.stdev(times) == pytest.approx(0.5, rel=0.06)
    assert statistics.fmean(map(math.log, times)) == pytest.approx(-math.log(1.25) / 2, abs=0.03)


def test_each_activation_has_its_own_stream_of_the_seed(make: Make) -> None:
    """A seed gives the same times again; other seeds, devices and activations give others."""
    noisy = {"service_time_s": 1, "service_time_cv": 0.5}
    ends = _noisy_ends(make(**noisy, seed=1), 0, 5)

    assert _noisy_ends(make(**noisy, seed=1), 0, 5) == ends
    assert _noisy_ends(make(**noisy, seed=2), 0, 5) != ends
    assert _noisy_ends(make(**noisy, seed=1), 1, 5) != ends
    assert _noisy_ends(make(**noisy, seed=1), 0, 5, activation=1) != ends


def test_a_second_load_goes_on_with_the_stream(make: Make) -> None:
    """A device that is loaded again continues its random stream instead of repeating it."""
    noisy = {"service_time_s": 1, "service_time_cv": 0.5}
    backend = make(**noisy)
    first = _noisy_ends(backend, 0, 3)
    second = _noisy_ends(backend, 0, 3)

    assert [*first, *(first[-1] + end for end in second)] == pytest.approx(
        _noisy_ends(make(**noisy), 0, 6)
    )


def test_the_draws_of_a_device_do_not_depend_on_faults_of_another(make: Make) -> None:
    """A fault on one device leaves the execution times of the others unchanged."""
    noisy = {"service_time_s": 1, "service_time_cv": 0.5}
    stall = {"kind": "stall", "probability": 0.5, "for_s": 9, "device": 1}
    ends = _noisy_ends(make(**noisy), 0, 5)

    assert _noisy_ends(make(**noisy, faults=[stall]), 0, 5) == ends
    assert _noisy_ends(make(**noisy, faults=[stall]), 1, 5) != _noisy_ends(make(**noisy), 1, 5)


def test_stalls_are_added_to_the_execution_time(make: Make) -> None:
    """At probability 1 every inference takes `for_s` longer, whatever the speed."""
    stall = {"kind": "stall", "probability": 1, "for_s": 0.5}
    backend = make(service_time_s=1, faults=[stall], overrides={0: {"speed": 4}})

    recorder = virtually(backend, lambda executable: run_queued(executable, [1, 1]))

    assert recorder.ends == [0.75, 1.5]


def test_error_faults_fail_inferences_when_they_would_have_ended(make: Make) -> None:
    """The `DeviceError` names the device and comes when the outputs would have come."""
    fault = {"kind": "error", "probability": 1, "device": 2}
    backend = make(faults=[fault])

    recorder = virtually(backend, lambda each: run_queued(each, [1, 2]), device_id=2)
    healthy = virtually(backend, lambda each: run_queued(each, [1]), device_id=1)

    assert recorder.ends == [0.004, 0.004 + 0.005]
    assert [type(error) for error in recorder.results] == [DeviceError, DeviceError]
    assert recorder.results[0].device_id == 2
    assert "sim device 2 failed" in str(recorder.results[0])
    assert isinstance(healthy.results[0], dict)


@pytest.mark.parametrize("kind", ["input", "inference"])
def test_values_above_a_bound_are_rejected(make: Make, kind: str) -> None:
    """An inference with such a value fails when it would have ended; the next one is well."""
    backend = make(faults=[{"kind": "reject", "above": 9.5, "error": kind}])

    async def run(executable: Executable) -> Recorder:
        recorder = Recorder()
        bad, good = rows(2), rows(2)
        bad["data"][1, 2] = 9.75  # type: ignore[index]
        executable.submit(0, bad, recorder)
        executable.submit(0, good, recorder)
        await recorder.wait(2)
        return recorder

    recorder = virtually(backend, run)
    error, outputs = recorder.results
    assert (error.kind, error.device_id) == (kind, 0)
    assert "rejected input 'data': it has a value above 9.5" in str(error)
    assert recorder.ends == [0.005, 0.010]
    assert set(outputs) == {"prob"}


def test_errors_come_as_often_as_their_probability(make: Make) -> None:
    """A probability of 0.2 fails about every fifth inference."""
    backend = make(faults=[{"kind": "error", "probability": 0.2}])

    recorder = virtually(backend, lambda executable: run_queued(executable, [1] * 1000))
    failed = sum(isinstance(result, DeviceError) for result in recorder.results)

    assert 150 < failed < 250


def test_closing_fails_what_is_in_flight(make: Make) -> None:
    """`aclose` fails inferences in flight at once, in order, and may be repeated; others go on."""
    backend = make()

    async def main() -> tuple[Recorder, Recorder, float]:
        closed, kept = Recorder(), Recorder()
        first, second = await backend.load(0, 1, 2), await backend.load(1, 1, 2)
        first.submit(0, rows(1), closed)
        second.submit(0, rows(4), kept)
        first.submit(0, rows(1), closed)
        await asyncio.sleep(0.001)
        await first.aclose()
        await first.aclose()
        with pytest.raises(SchedulerClosedError, match="sim device 0 was closed"):
            first.submit(0, rows(1), closed)
        await kept.wait(1)
        await asyncio.sleep(1)
        return closed, kept, asyncio.get_running_loop().time()

    closed, kept, _ = run_virtual(main)

    assert closed.ends == [0.001, 0.001]
    assert [error.device_id for error in closed.results] == [0, 0]
    assert "closed with this inference in flight" in str(closed.results[0])
    assert kept.ends == [0.007]


def _call_in_thread(function: Callable[..., object], *args: object) -> None:
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


@pytest.mark.slow
def test_other_threads_may_submit(make: Make) -> None:
    """An inference submitted from another thread completes on the loop."""

    async def main() -> Any:
        executable = await make().load(0, 1, 1)
        recorder = Recorder()
        _call_in_thread(executable.submit, 0, rows(1), recorder)
        await recorder.wait(1)
        return recorder.results[0]

    assert asyncio.run(main())["prob"].tolist() == [[1.0, 1.0]]


@pytest.mark.slow
def test_closing_overtakes_what_another_thread_submitted(make: Make) -> None:
    """An inference that the loop has not received when the device closes fails."""

    async def main() -> list[Any]:
        executable = await make().load(0, 1, 1)
        recorder = Recorder()
        _call_in_thread(executable.submit, 0, rows(1), recorder)
        await executable.aclose()
        return recorder.results

    (error,) = asyncio.run(main())

    assert isinstance(error, DeviceError)
    assert "closed before this inference began" in str(error)


def test_activations_come_and_go(make: Make) -> None:
    """New activations take the load time each and get the lowest unused indexes."""

    async def main() -> tuple[list[int], list[int], float, list[float]]:
        executable = await make(load_time_s=0.5, cores=4).load(0, 2, 2)
        first = [*await executable.load_more(2, 2)]
        now = asyncio.get_running_loop().time()
        await executable.unload([0, 2])
        second = [*await executable.load_more(1, 2)]
        recorder = Recorder()
        for activation in executable.room:
            executable.submit(activation, rows(1), recorder)
        await recorder.wait(3)
        with pytest.raises(ConfigError, match=r"5 of 1 cores .* do not fit"):
            await executable.load_more(2, 2)
        return first, second, now, recorder.ends

    assert run_virtual(main) == ([2, 3], [0], 2.0, [2.504] * 3)


def test_a_lost_device_loads_no_more(make: Make) -> None:
    """`load_more` finds the loss when the load would end, even if nothing ran since."""
    faults = [{"kind": "lost", "device": 0, "at_s": 0.2, "for_s": 0.1}]
    backend = make(load_time_s=0.5, cores=4, faults=faults)

    async def grow(executable: Executable) -> None:
        with pytest.raises(DeviceError, match="was lost") as lost:
            await executable.load_more(1, 2)
        assert lost.value.kind == "lost"
        assert executable.num_activations == 1
        await executable.aclose()
        with pytest.raises(SchedulerClosedError):
            await executable.load_more(1, 2)

    virtually(backend, grow)
