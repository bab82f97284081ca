"""Simulated cards: devices, loading, exact times, threads and closing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from qaic_sched.backends.base import Executable
from qaic_sched.clock import clock_of
from qaic_sched.config.keys import ModelOptions
from qaic_sched.errors import ConfigError, DeviceError, SchedulerClosedError
from qaic_sched.testing import run_virtual
from tests.backends.sim.sim_cards import Make, Recorder, maker, rows, run_queued, virtually


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a backend with some keys of its file changed."""
    return maker(tmp_path)


def test_find_gives_the_devices_of_the_file(make: Make) -> None:
    """Every device is ready, with its cores all free."""
    found = run_virtual(make(cores=14).find)

    assert [info.device_id for info in found] == [0, 1, 2, 3]
    assert {(info.kind, info.state, info.cores, info.cores_free) for info in found} == {
        ("sim", "ready", 14, 14)
    }


def test_describe_gives_the_program(make: Make) -> None:
    """The program has the file's tensors and compiled batch sizes."""
    program = run_virtual(make().describe)

    assert program.batch_sizes == (1, 2, 4)
    assert [spec.name for spec in (*program.inputs, *program.outputs)] == ["data", "prob"]


def test_loading_takes_its_time_per_activation(make: Make) -> None:
    """Three activations take three times the load time."""
    backend = make(load_time_s=0.5)

    async def main() -> tuple[float, int, int]:
        executable = await backend.load(2, 3, 1)
        now = asyncio.get_running_loop().time()
        return now, executable.num_activations, executable.device_id

    assert run_virtual(main) == (1.5, 3, 2)


def test_too_many_activations_say_how_many_would_fit(make: Make) -> None:
    """num_activations × aic_num_cores beyond the cores is the operator's error."""
    backend = make(ModelOptions(aic_num_cores=3), cores=14)

    with pytest.raises(ConfigError, match=r"5 of 3 cores .* has 14 of 14 cores free; 4 would fit"):
        run_virtual(backend.load, 0, 5, 1)
    assert run_virtual(backend.load, 0, 4, 1).num_activations == 4


def test_a_device_that_does_not_exist_is_refused(make: Make) -> None:
    """The error says how many devices the file makes."""
    with pytest.raises(ConfigError, match=r"no sim device 4: .* makes 4"):
        run_virtual(make().load, 4, 1, 1)


def test_queued_inferences_follow_each_other_without_a_gap(make: Make) -> None:
    """Each starts when the one before was due, and is answered exactly then."""
    answers = virtually(
        make(host_turnaround_s=0.25), lambda executable: run_queued(executable, [1, 2, 4, 1])
    )

    assert answers.ends == [0.004, 0.004 + 0.005, 0.004 + 0.005 + 0.007, 0.016 + 0.004]
    assert answers.seen == answers.ends


def test_an_idle_activation_first_turns_around(make: Make) -> None:
    """Submitted on completion, an inference starts a turnaround after it; the first does not."""

    async def one_by_one(executable: Executable) -> list[float]:
        answers = Recorder()
        for count in (1, 2, 3):
            executable.submit(0, rows(1), answers)
            await answers.wait(count)
        return answers.ends

    ends = virtually(make(host_turnaround_s=0.25), one_by_one)

    assert ends == [0.004, 0.004 + 0.25 + 0.004, 0.004 + 0.25 + 0.004 + 0.25 + 0.004]


def test_after_a_pause_the_turnaround_is_over(make: Make) -> None:
    """Submitted later than end + turnaround, an inference starts at once; sooner, it waits."""

    async def with_pauses(executable: Executable) -> list[float]:
        answers = Recorder()
        for at in (0.0, 1.0, 1.125):
            await asyncio.sleep(at - asyncio.get_running_loop().time())
            executable.submit(0, rows(1), answers)
        await answers.wait(3)
        return answers.ends

    ends = virtually(make(host_turnaround_s=0.25, service_time_s=0.0625), with_pauses)

    assert ends == [0.0625, 1.0625, 1.0625 + 0.25 + 0.0625]


def test_speed_divides_the_service_time(make: Make) -> None:
    """A device of half the speed takes twice as long."""
    answers = virtually(
        make(overrides={3: {"speed": 0.5}}),
        lambda executable: run_queued(executable, [1, 4]),
        device_id=3,
    )

    assert answers.ends == [0.008, 0.008 + 0.014]


def test_activations_and_devices_work_side_by_side(make: Make) -> None:
    """Answers come in the order of their ends over all devices, ties in the order of submit."""
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


def test_service_time_zero_completes_at_once_but_not_inside_submit(make: Make) -> None:
    """Nothing is answered inside submit; then all that is due is answered in one callback."""

    async def burst(executable: Executable) -> tuple[int, list[float], list[float]]:
        answers = Recorder()
        for _ in range(3):
            executable.submit(0, rows(1), answers)
        inside = len(answers.ends)
        await asyncio.sleep(0)
        return inside, answers.ends, answers.seen

    assert virtually(make(service_time_s=0), burst) == (0, [0.0] * 3, [0.0] * 3)


def test_resubmitting_at_service_time_zero_leaves_the_loop_alive(make: Make) -> None:
    """An answer that submits the next inference at once does not keep the loop from others."""

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
    """What a callback raises goes to the loop; the inferences after it are answered."""

    async def main(executable: Executable) -> tuple[list[float], list[str]]:
        reports: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(str(context["exception"])))
        answers = Recorder()

        def broken(*_: object) -> None:
            raise ValueError("broken callback")

        executable.submit(0, rows(1), broken)
        executable.submit(1, rows(1), answers)
        await answers.wait(1)
        return answers.ends, reports

    assert virtually(make(), main, num_activations=2) == ([0.004], ["broken callback"])


def test_a_failing_callback_loses_none_that_were_computed_with_it(make: Make) -> None:
    """Those that are due with it are answered once each, in their order, with their own rows."""

    async def main(executable: Executable) -> list[float]:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        answers = Recorder()

        def broken(*_: object) -> None:
            raise ValueError("broken callback")

        for value, done in enumerate([answers, broken, answers, broken, answers]):
            executable.submit(0, {"data": np.full((1, 3), value, np.float32)}, done)
        await answers.wait(3)
        await asyncio.sleep(1)
        return [float(each["prob"][0, 0]) for each in answers.results]

    assert virtually(make(service_time_s=0), main) == [0.0, 2.0, 4.0]


def test_what_is_due_together_is_answered_in_order_whatever_its_size(make: Make) -> None:
    """Sizes and failures may alternate, and there may be more than are computed at once."""
    sizes = [1, 1, 4, 4, 4, 2, 1, *[4] * 150, 2]
    faults = [{"kind": "error", "probability": 0.1}]

    async def main(executable: Executable) -> Recorder:
        answers = Recorder()
        for value, size in enumerate(sizes):
            executable.submit(0, {"data": np.full((size, 3), value, np.float32)}, answers)
        await answers.wait(len(sizes))
        return answers

    answers = virtually(make(service_time_s=0, faults=faults), main)

    failed = 0
    for value, (size, result) in enumerate(zip(sizes, answers.results, strict=True)):
        if isinstance(result, DeviceError):
            failed += 1
        else:
            assert result["prob"].tolist() == [[value, value]] * size
    assert 0 < failed < len(sizes) / 2


def test_closing_answers_what_is_in_flight_with_an_error(make: Make) -> None:
    """On aclose inferences in flight fail now, in order; other devices go on; twice is fine."""
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


def test_closing_leaves_no_timer_behind(make: Make) -> None:
    """After the last device is closed nothing will ever wake the loop."""

    async def main(executable: Executable) -> int:
        executable.submit(0, rows(1), Recorder())
        await executable.aclose()
        loop: Any = asyncio.get_running_loop()
        return sum(not handle.cancelled() for handle in loop._scheduled)

    assert virtually(make(), main) == 0


def test_a_backend_may_be_used_on_a_second_loop(make: Make) -> None:
    """Loaded on another loop, the backend takes that loop's time and timers."""
    backend = make()

    for _ in range(2):
        answers = virtually(backend, lambda executable: run_queued(executable, [1]))
        assert answers.ends == [0.004]


def _call_in_thread(function: Callable[..., object], *args: object) -> None:
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


@pytest.mark.slow
def test_other_threads_may_submit(make: Make) -> None:
    """An inference submitted from another thread is answered on the loop."""

    async def main() -> Any:
        executable = await make().load(0, 1, 1)
        answers = Recorder()
        _call_in_thread(executable.submit, 0, rows(1), answers)
        await answers.wait(1)
        return answers.results[0]

    assert asyncio.run(main())["prob"].tolist() == [[1.0, 1.0]]


@pytest.mark.slow
def test_closing_overtakes_what_another_thread_submitted(make: Make) -> None:
    """An inference that the loop has not seen when the device closes has failed after it."""

    async def main() -> list[Any]:
        executable = await make().load(0, 1, 1)
        answers = Recorder()
        _call_in_thread(executable.submit, 0, rows(1), answers)
        await executable.aclose()
        return answers.results

    (error,) = asyncio.run(main())

    assert isinstance(error, DeviceError)
    assert "closed before this inference began" in str(error)


@pytest.mark.slow
def test_uvloop_s_coarse_timers_do_not_make_it_slow(make: Make) -> None:
    """200 inferences of 1 ms, two deep, follow each other exactly, and take about 200 ms."""
    backend = make(service_time_s=0.001)
    submitted: list[float] = []
    ends: list[float] = []

    async def main() -> float:
        executable = await backend.load(0, 1, 2)
        clock = clock_of(asyncio.get_running_loop())
        over = asyncio.Event()

        def submit() -> None:
            executable.submit(0, rows(1), answered)
            submitted.append(clock())

        def answered(_: object, end: float) -> None:
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

    # Each starts when the last was due, or when it came, if a busy machine brought it too late.
    for previous, end, came in zip(ends, ends[1:], submitted[1:], strict=False):
        assert previous + 0.001 <= end <= max(previous, came) + 0.001
    assert 0.199 <= ends[-1] - submitted[0] < 1.0
    assert 0 <= lag < 0.5


def test_activations_come_and_go(make: Make) -> None:
    """More take their load time each; the lowest unused indexes are theirs."""

    async def main() -> tuple[list[int], list[int], float, list[float]]:
        executable = await make(load_time_s=0.5, cores=4).load(0, 2, 2)
        first = [*await executable.load_more(2, 2)]
        now = asyncio.get_running_loop().time()
        await executable.unload([0, 2])
        second = [*await executable.load_more(1, 2)]
        answers = Recorder()
        for activation in executable.room:
            executable.submit(activation, rows(1), answers)
        await answers.wait(3)
        with pytest.raises(ConfigError, match=r"5 of 1 cores .* do not fit"):
            await executable.load_more(2, 2)
        return first, second, now, answers.ends

    assert run_virtual(main) == ([2, 3], [0], 2.0, [2.504] * 3)


def test_a_lost_device_loads_no_more(make: Make) -> None:
    """It is known when the load would end, whether or not anything ran."""
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
