"""Profiles of the runs of a session: calls, times, format and threads."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qaic_sched.errors import ConfigError, DeviceError
from qaic_sched.session import Session, profile
from qaic_sched.session.profile import Profiler
from tests.models import linear, linear_inputs, linear_model
from tests.session.scripted_device import PATIENCE_S, rows

if TYPE_CHECKING:
    from pathlib import Path

HEADING = "|  File-Line-Function  | |  num calls  | |  func time  | |  tot time  |"


def parsed(table: str) -> list[dict[str, tuple[int, float, float]]]:
    """For each run: function name -> (calls, own time, total time)."""
    runs: list[dict[str, tuple[int, float, float]]] = []
    for line in filter(None, table.splitlines()):
        if line == HEADING:
            runs.append({})
            continue
        function, calls, own, total = line.rsplit(" ", 3)
        runs[-1][eval(function)[2]] = int(calls), float(own), float(total)
    return runs


def countdown(number: int) -> int:
    """Call this function recursively, `number` times."""
    return countdown(number - 1) if number else len([])


def work(value: float) -> float:
    """Call a Python function, a function of a C module, and a method of a C type."""
    return float(np.empty(1).astype(int).size + helper(value) + sum(map(abs, [])))


def helper(value: float) -> float:
    """Fail on 0."""
    return 1 / value


def test_calls_are_counted_and_named_as_cprofile_does() -> None:
    """Calls are counted, and named as in cProfile: C functions have the file `~`."""
    profiler = Profiler()
    assert profiler.run(work, 1.0) == 2.0
    (run,) = parsed(profiler.table(1))
    assert {name: calls for name, (calls, _, _) in run.items()} == {
        "work": 1,
        "helper": 1,
        "<built-in method numpy.empty>": 1,
        "<method 'astype' of 'numpy.ndarray' objects>": 1,
        "<built-in method builtins.sum>": 1,
    }
    assert f"({__file__!r}, {work.__code__.co_firstlineno}, 'work') 1 " in profiler.table(1)
    assert "('~', 0, '<built-in method numpy.empty>') 1 " in profiler.table(1)


def test_methods_of_builtin_types_have_no_module() -> None:
    """Methods of builtin types are named as in cProfile: `'dict' objects`."""
    profiler = Profiler()
    profiler.run(lambda: {1: 2}.get(1))
    assert "<method 'get' of 'dict' objects>" in parsed(profiler.table(1))[0]


def test_the_events_of_the_interpreter_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls nest, an error in C ends a call, and a return without a call is ignored."""
    monkeypatch.setattr(profile, "perf_counter", iter(range(100)).__next__)
    calls = profile._RunProfile()
    frame = sys._getframe()
    calls(frame, "c_return", sys.setprofile)
    calls(frame, "call", None)
    calls(frame, "c_call", len)
    calls(frame, "c_return", len)
    calls(frame, "c_call", [].append)
    calls(frame, "c_exception", [].append)
    calls(frame, "call", None)
    calls(frame, "return", None)
    calls(frame, "return", None)
    (run,) = parsed("\n".join([HEADING, *calls.rows()]))
    assert run == {
        frame.f_code.co_name: (2, 5.0, 7.0),
        "<built-in method builtins.len>": (1, 1.0, 1.0),
        "<method 'append' of 'list' objects>": (1, 1.0, 1.0),
    }
    module_less = np.random.default_rng(0).random
    calls(frame, "c_call", module_less)
    calls(frame, "c_return", module_less)
    assert "numpy.random" in "".join(calls.rows())


def test_times_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Own times sum to the longest total, which comes first; recursion counts once in totals."""
    ticks = iter(range(1000))
    monkeypatch.setattr(profile, "perf_counter", lambda: next(ticks))
    profiler = Profiler()
    profiler.run(countdown, 3)
    (run,) = parsed(profiler.table(1))
    assert run == {"countdown": (4, 8.0, 9.0), "<built-in method builtins.len>": (1, 1.0, 1.0)}
    assert next(iter(run)) == "countdown"


def test_runs_are_shown_in_the_order_of_their_starts() -> None:
    """There is a table for each of the first runs, and for no more than there were."""
    profiler = Profiler()
    assert profiler.table(3) == ""
    profiler.run(lambda: profiler.run(len, ()))  # the inner one is part of the outer
    profiler.run(countdown, 0)
    assert [len(parsed(profiler.table(n))) for n in (1, 2, 9)] == [1, 2, 2]
    assert "run" in parsed(profiler.table(1))[0]
    assert "countdown" in parsed(profiler.table(2))[1]


def test_a_run_that_fails_is_not_kept() -> None:
    """The error of a failed run passes through, its profile is dropped, profiling ends."""
    profiler = Profiler()
    with pytest.raises(ZeroDivisionError):
        profiler.run(work, 0.0)
    assert sys.getprofile() is None
    assert profiler.table(1) == ""


def test_only_the_first_runs_are_profiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first `MAX_RUNS` runs are kept."""
    monkeypatch.setattr(profile, "MAX_RUNS", 2)
    profiler = Profiler()
    assert [profiler.run(work, 1.0) for _ in range(4)] == [2.0] * 4
    assert len(parsed(profiler.table(9))) == 2


def test_another_profiler_is_left_alone() -> None:
    """A thread that already has a profiler keeps it."""
    seen = []
    profiler = Profiler()
    sys.setprofile(lambda frame, event, argument: seen.append(frame.f_code.co_name))
    try:
        profiler.run(helper, 1.0)
    finally:
        sys.setprofile(None)
    assert "helper" in seen
    assert profiler.table(1) == ""


def test_profiles_of_threads_are_separate() -> None:
    """The profile of a run has no calls of a run on another thread."""
    profiler = Profiler()
    both = threading.Barrier(2)

    def first() -> None:
        both.wait(PATIENCE_S)
        helper(1.0)
        both.wait(PATIENCE_S)

    def second() -> None:
        both.wait(PATIENCE_S)
        countdown(1)
        both.wait(PATIENCE_S)

    with ThreadPoolExecutor(2) as threads:
        for running in [threads.submit(profiler.run, each) for each in (first, second)]:
            running.result(PATIENCE_S)
    one, other = sorted(parsed(profiler.table(2)), key=lambda run: "first" not in run)
    assert "helper" in one
    assert not one.keys() & {"second", "countdown"}
    assert "countdown" in other
    assert not other.keys() & {"first", "helper"}


@pytest.mark.interpreted
def test_a_session_prints_the_profile_of_its_first_runs(
    on_device: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """`print_profile_data(n)` prints successful runs; metrics work at the same time."""
    session, backend = on_device(enable_profiling=True)
    backend.error = DeviceError("device 0 is lost", 0)
    with pytest.raises(DeviceError):
        session.run(rows(1))
    backend.error = None
    for _ in range(3):
        session.run({"x": np.ones((1, 2))})
    session.reset()
    session.print_profile_data(n=2)
    shown = capsys.readouterr().out
    assert shown.startswith(HEADING + "\n\n(")
    first, second = parsed(shown)
    assert first["_run"][0] == second["_run"][0] == 1
    assert first["<method 'astype' of 'numpy.ndarray' objects>"][0] == 1  # the input was float64
    assert session.get_metrics()["num_of_inferences"] == 3


def test_a_session_without_profiling_refuses_to_print(on_device: Any) -> None:
    """Without `enable_profiling` there is one clear error, also with metrics."""
    for options in ({}, {"enable_metrics": True}):
        session, _ = on_device(**options)
        with pytest.raises(ConfigError, match=r"print_profile_data: .*enable_profiling=True"):
            session.print_profile_data(5)


@pytest.mark.parametrize("number", [0, -1, 2.0, "3", None])
def test_the_number_of_runs_is_checked(on_device: Any, number: Any) -> None:
    """`n` is an int of at least 1."""
    session, _ = on_device(enable_profiling=True)
    with pytest.raises(ConfigError, match=r"n: got .* at least 1"):
        session.print_profile_data(number)


def test_profiling_and_metrics_exclude_each_other(on_device: Any) -> None:
    """Profiling and metrics cannot both be enabled, as with the vendor's Session."""
    with pytest.raises(ConfigError, match="exclude each other"):
        on_device(enable_profiling=True, enable_metrics=True)


def test_64_threads_are_profiled_on_one_session(tmp_path: Path) -> None:
    """On the CPU, each of 64 threads gets its result, and each run has a profile."""
    model = linear_model(tmp_path / "m.onnx", batch=2)
    several = [linear_inputs(2, seed) for seed in range(192)]
    with Session(model, num_activations=1, enable_profiling=True) as session:
        with ThreadPoolExecutor(64) as threads:
            outputs = list(threads.map(session.run, several))
        for given, got in zip(several, outputs, strict=True):
            np.testing.assert_array_equal(got["y"], linear(**given))
        assert session._profiler is not None
        runs = parsed(session._profiler.table(192))
    assert [run["_run"][0] for run in runs] == [1] * 192


def test_profiles_do_not_count_the_load(on_device: Any) -> None:
    """The profile of the first run does not include loading."""
    session, _ = on_device(enable_profiling=True)
    session.run(rows(1))
    assert "_load" not in parsed(session._profiler.table(1))[0]
    session.reset()
