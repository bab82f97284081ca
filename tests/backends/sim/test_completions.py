"""Completions of simulated devices: their order, callbacks that fail, and the loop's timers."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import numpy as np
import pytest
import uvloop

from qaic_sched.backends.base import Executable
from qaic_sched.clock import clock_of
from qaic_sched.errors import DeviceError
from qaic_sched.testing import run_virtual
from tests.backends.sim.sim_cards import Make, Recorder, rows, virtually


def test_activations_and_devices_work_side_by_side(make: Make) -> None:
    """Inferences complete in the order of their ends across devices; ties in order of submit."""
    backend = make(overrides={1: {"speed": 2.0}})

    async def main() -> list[tuple[str, float]]:
        log: list[tuple[str, float]] = []

        def note(name: str, _: object, end: float) -> None:
            log.append((name, end))

        executables = [await backend.load(device_id, 2, 1) for device_id in (0, 1)]
        for device_id, activation, size in ((0, 0, 4), (0, 1, 1), (1, 1, 1), (1, 0, 1), (0, 1, 2)):
            name = f"{device_id}/{activation}"
            executables[device_id].submit(activation, rows(size), partial(note, name))
        await asyncio.sleep(1)
        return log

    assert run_virtual(main) == [
        ("1/1", 0.002),
        ("1/0", 0.002),
        ("0/1", 0.004),
        ("0/0", 0.007),
        ("0/1", 0.004 + 0.005),
    ]


def test_execution_time_zero_completes_at_once_but_not_inside_submit(make: Make) -> None:
    """Nothing completes inside `submit`; one turn of the loop completes everything due."""

    async def burst(executable: Executable) -> tuple[int, list[float], list[float]]:
        recorder = Recorder()
        for _ in range(3):
            executable.submit(0, rows(1), recorder)
        inside = len(recorder.ends)
        await asyncio.sleep(0)
        return inside, recorder.ends, recorder.seen

    assert virtually(make(service_time_s=0), burst) == (0, [0.0] * 3, [0.0] * 3)


def test_resubmitting_at_execution_time_zero_leaves_the_loop_alive(make: Make) -> None:
    """A callback that submits the next inference at once does not starve the loop."""

    async def forever(executable: Executable) -> int:
        count = 0

        def again(*_: object) -> None:
            nonlocal count
            count += 1
            executable.submit(0, rows(1), again)

        again()
        for _ in range(10):
            await asyncio.sleep(0)
        return count

    assert 5 <= virtually(make(service_time_s=0), forever) <= 11


def test_a_failing_callback_does_not_lose_the_others(make: Make) -> None:
    """An exception of a callback goes to the loop's handler; later inferences still complete."""

    async def main(executable: Executable) -> tuple[list[float], list[str]]:
        reports: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(str(context["exception"])))
        recorder = Recorder()

        def broken(*_: object) -> None:
            raise ValueError("broken callback")

        executable.submit(0, rows(1), broken)
        executable.submit(1, rows(1), recorder)
        await recorder.wait(1)
        return recorder.ends, reports

    assert virtually(make(), main, num_activations=2) == ([0.004], ["broken callback"])


def test_a_failing_callback_loses_none_that_were_computed_with_it(make: Make) -> None:
    """Inferences due at the same time complete once each, in order, each with the right rows."""

    async def main(executable: Executable) -> list[float]:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        recorder = Recorder()

        def broken(*_: object) -> None:
            raise ValueError("broken callback")

        for value, callback in enumerate([recorder, broken, recorder, broken, recorder]):
            executable.submit(0, {"data": np.full((1, 3), value, np.float32)}, callback)
        await recorder.wait(3)
        await asyncio.sleep(1)
        return [float(each["prob"][0, 0]) for each in recorder.results]

    assert virtually(make(service_time_s=0), main) == [0.0, 2.0, 4.0]


def test_inferences_due_together_complete_in_order_whatever_their_size(make: Make) -> None:
    """Sizes and failures may alternate; more may be due than are computed in one call."""
    sizes = [1, 1, 4, 4, 4, 2, 1, *[4] * 150, 2]
    faults = [{"kind": "error", "probability": 0.1}]

    async def main(executable: Executable) -> Recorder:
        recorder = Recorder()
        for value, size in enumerate(sizes):
            executable.submit(0, {"data": np.full((size, 3), value, np.float32)}, recorder)
        await recorder.wait(len(sizes))
        return recorder

    recorder = virtually(make(service_time_s=0, faults=faults), main)

    failed = 0
    for value, (size, result) in enumerate(zip(sizes, recorder.results, strict=True)):
        if isinstance(result, DeviceError):
            failed += 1
        else:
            assert result["prob"].tolist() == [[value, value]] * size
    assert 0 < failed < len(sizes) / 2


def test_closing_leaves_no_timer_behind(make: Make) -> None:
    """After the last device is closed, no timer is left on the loop."""

    async def main(executable: Executable) -> int:
        executable.submit(0, rows(1), Recorder())
        await executable.aclose()
        loop: Any = asyncio.get_running_loop()
        return sum(not handle.cancelled() for handle in loop._scheduled)

    assert virtually(make(), main) == 0


@pytest.mark.slow
def test_uvloop_s_coarse_timers_do_not_make_it_slow(make: Make) -> None:
    """200 inferences of 1 ms, two in flight, follow each other exactly and take about 200 ms."""
    backend = make(service_time_s=0.001)
    submitted: list[float] = []
    ends: list[float] = []

    async def main() -> float:
        executable = await backend.load(0, 1, 2)
        clock = clock_of(asyncio.get_running_loop())
        over = asyncio.Event()

        def submit() -> None:
            executable.submit(0, rows(1), on_completed)
            submitted.append(clock())

        def on_completed(_: object, end: float) -> None:
            ends.append(end)
            if len(submitted) < 200:
                submit()
            elif len(ends) == 200:
                over.set()

        submit()
        submit()
        await over.wait()
        return clock() - ends[-1]

    loop = uvloop.new_event_loop()
    lag = loop.run_until_complete(main())
    loop.close()

    # Each starts when the previous one ended, or when it was submitted if a busy host was late.
    for previous, end, came in zip(ends, ends[1:], submitted[1:], strict=False):
        assert previous + 0.001 <= end <= max(previous, came) + 0.001
    assert 0.199 <= ends[-1] - submitted[0] < 1.0
    assert 0 <= lag < 0.5


def test_an_inference_that_cannot_be_computed_fails_alone(make: Make) -> None:
    """Those that are computed together with it are computed again without it."""
    backend = make(service_time_s=0.01)

    async def main() -> list[Any]:
        answers: list[Any] = []
        executables = [await backend.load(device_id, 2, 1) for device_id in (0, 1)]
        for device_id, executable in enumerate(executables):
            for activation in (0, 1):
                inputs: dict[str, Any] = {**rows(2)}
                executable.submit(activation, inputs, lambda answer, _: answers.append(answer))
                if device_id == activation == 1:
                    inputs.update(dict.fromkeys(inputs))  # its caller takes them back
        await asyncio.sleep(1)
        return answers

    *good, bad = sorted(run_virtual(main), key=lambda each: isinstance(each, DeviceError))
    assert len(good) == 3
    assert all(isinstance(each, dict) for each in good)
    assert isinstance(bad, DeviceError)
    assert "a simulated inference failed: " in str(bad)
