"""Session: loading, live changes, reset, failures and interruptions."""

from __future__ import annotations

import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from qaic_sched.errors import ConfigError, DeviceError
from qaic_sched.session import loaded
from tests.models import linear_model
from tests.session.scripted_device import (
    PATIENCE_S,
    ScriptedBackend,
    interrupted_when,
    rows,
    session_threads,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_setup_loads_early_and_once(on_device: Any) -> None:
    """`setup` loads once, and later runs use that program."""
    session, backend = on_device(num_activations=2, set_size=3, dev_id=1)
    assert backend.loads == []
    session.setup()
    session.setup()
    assert session.run(rows(5))["y"].tolist() == [5]
    assert backend.loads == [(1, 2, 3)]
    session.reset()


def test_reset_releases_the_device_until_the_next_run(on_device: Any) -> None:
    """`reset` ends the thread and frees the device; the next run loads again."""
    session, backend = on_device()
    session.reset()
    session.run(rows(1))
    assert len(session_threads()) == 1
    session.reset()
    session.reset()
    assert session_threads() == []
    assert backend.executables[0].is_closed
    assert session.run(rows(2))["y"].tolist() == [2]
    assert len(backend.loads) == 2
    session.reset()


def test_an_abandoned_session_releases_its_device(on_device: Any) -> None:
    """Without `reset`, garbage collection closes the program and ends the thread."""
    session, backend = on_device()
    session.run(rows(1))
    del session
    gc.collect()
    until(lambda: backend.executables[0].is_closed and not session_threads())


def test_a_failed_load_leaves_the_session_usable(on_device: Any) -> None:
    """The error of a load reaches the caller, and the next run tries again."""
    session, backend = on_device()
    backend.load_error = DeviceError("no memory", 0)
    with pytest.raises(DeviceError, match="no memory"):
        session.run(rows(1))
    assert session_threads() == []
    backend.load_error = None
    assert session.run(rows(3))["y"].tolist() == [3]
    session.reset()


def test_a_device_that_does_not_exist_is_named(on_device: Any) -> None:
    """A wrong `dev_id` fails when loading, and can be corrected on the session."""
    session, _ = on_device(dev_id=9)
    with pytest.raises(ConfigError, match=r"devices: \[9\] not on this host"):
        session.setup()
    session.update_backend_options(dev_id=3)
    assert session.run(rows(1))["y"].tolist() == [1]
    session.reset()


def test_a_failed_close_leaves_the_session_usable(on_device: Any) -> None:
    """The error of a close reaches the caller, and the next run loads again."""
    session, backend = on_device()
    session.setup()
    backend.close_error = DeviceError("will not close", 0)
    with pytest.raises(DeviceError, match="will not close"):
        session.reset()
    backend.close_error = None
    assert session.run(rows(1))["y"].tolist() == [1]
    session.reset()


def test_runs_in_flight_finish_before_a_reset(on_device: Any) -> None:
    """`reset` waits for inferences in flight; a run that comes meanwhile loads again."""
    session, backend = on_device(ScriptedBackend(completes_at_once=False))
    with ThreadPoolExecutor(3) as threads:
        early = threads.submit(session.run, rows(1))
        until(lambda: backend.executables)
        first = backend.executables[0].next()
        reset = threads.submit(session.reset)
        until(lambda: not session._loaded.slots.is_open)
        late = threads.submit(session.run, rows(2))
        assert not reset.done()
        assert not backend.executables[0].is_closed
        first.complete()
        assert early.result(PATIENCE_S)["y"].tolist() == [1]
        reset.result(PATIENCE_S)
        until(lambda: len(backend.executables) == 2)
        backend.executables[1].next().complete()
        assert late.result(PATIENCE_S)["y"].tolist() == [2]
    session.reset()


def test_a_hanging_device_does_not_hold_a_reset_for_ever(
    on_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `SILENCE_S` runs in flight fail, waiting runs load again, late results are dropped."""
    monkeypatch.setattr(loaded, "SILENCE_S", 0.01)
    session, backend = on_device(ScriptedBackend(completes_at_once=False), set_size=1)
    with ThreadPoolExecutor(2) as threads:
        stuck = threads.submit(session.run, rows(1))
        until(lambda: backend.executables)
        inference = backend.executables[0].next()
        waiting = threads.submit(session.run, rows(2))
        until(lambda: session._loaded.slots._waiting)
        session.reset()
        with pytest.raises(DeviceError, match=r"completed nothing for 0\.01 s") as caught:
            stuck.result(PATIENCE_S)
        assert caught.value.device_id == 0
        until(lambda: len(backend.executables) == 2)
        inference.complete()
        backend.executables[1].next().complete()
        assert waiting.result(PATIENCE_S)["y"].tolist() == [2]
    session.reset()


def test_live_options_can_be_read_and_changed(on_device: Any) -> None:
    """After a change the next run loads once, with the new options."""
    session, backend = on_device(num_activations=2)
    assert session.backend_options() == {"num_activations": 2, "set_size": 2, "dev_id": 0}
    session.run(rows(1))
    session.update_backend_options(num_activation=3, set_size=4, dev_id=2)
    assert backend.executables[0].is_closed
    assert session.backend_options() == {"num_activations": 3, "set_size": 4, "dev_id": 2}
    session.run(rows(1))
    assert backend.loads == [(0, 2, 2), (2, 3, 4)]
    session.backend_options()["dev_id"] = 9
    assert session.backend_options()["dev_id"] == 2
    session.reset()


def test_a_change_that_changes_nothing_loads_nothing(on_device: Any) -> None:
    """The program stays loaded if no value changes."""
    session, backend = on_device()
    session.run(rows(1))
    session.update_backend_options(set_size=2)
    session.update_backend_options()
    session.run(rows(1))
    assert len(backend.loads) == 1
    session.reset()


def test_runs_resets_and_changes_at_once_lose_nothing(on_device: Any) -> None:
    """Runs from many threads succeed while other threads reset and change the session."""
    session, backend = on_device()

    def run(value: int) -> list[float]:
        result: list[float] = session.run(rows(value))["y"].tolist()
        return result

    with ThreadPoolExecutor(16) as threads:
        runs = []
        for value in range(200):
            runs.append(threads.submit(run, value))
            if value % 20 == 0:
                threads.submit(session.reset)
            if value % 50 == 0:
                threads.submit(session.update_backend_options, set_size=1 + value // 50)
        assert [each.result(PATIENCE_S) for each in runs] == [[value] for value in range(200)]
    session.reset()
    assert all(each.is_closed for each in backend.executables)


def test_ctrl_c_ends_the_wait_for_an_inference(on_device: Any) -> None:
    """The slot of an interrupted run is free once the device completes the inference."""
    session, backend = on_device(ScriptedBackend(completes_at_once=False), set_size=1)
    with ThreadPoolExecutor(1) as threads:
        with interrupted_when(lambda: backend.num_submitted):
            session.run(rows(1))
        backend.executables[0].next().complete()
        second = threads.submit(session.run, rows(2))
        backend.executables[0].next().complete()
        assert second.result(PATIENCE_S)["y"].tolist() == [2]
    session.reset()


def test_ctrl_c_ends_a_load(on_device: Any) -> None:
    """A load that hangs can be interrupted and repeated."""
    session, backend = on_device()
    backend.hangs_on_load = True
    with interrupted_when(lambda: backend.loads):
        session.setup()
    assert session_threads() == []
    backend.hangs_on_load = False
    assert session.run(rows(1))["y"].tolist() == [1]
    session.reset()


def test_an_interrupted_reset_is_finished_by_the_next_run(on_device: Any) -> None:
    """After Ctrl-C in `reset`, the next run first finishes the release."""
    session, backend = on_device(ScriptedBackend(completes_at_once=False))
    with ThreadPoolExecutor(2) as threads:
        run = threads.submit(session.run, rows(1))
        until(lambda: backend.num_submitted)
        with interrupted_when(lambda: not session._loaded.slots.is_open):
            session.reset()
        backend.executables[0].next().complete()
        assert run.result(PATIENCE_S)["y"].tolist() == [1]
        backend.completes_at_once = True
        assert session.run(rows(2))["y"].tolist() == [2]
    assert backend.executables[0].is_closed
    session.reset()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cpu", "sim"])
def test_a_process_ends_with_a_session_left_open(
    kind: str, tmp_path: Path, write_sim: Callable[[float], str]
) -> None:
    """A session that was never reset neither keeps the process alive nor prints anything."""
    model = write_sim(0) if kind == "sim" else linear_model(tmp_path / "m.onnx", batch=2)
    program = (
        "import sys, numpy as np\n"
        "from qaic_sched.session import Session\n"
        "session = Session(sys.argv[1])\n"
        "shapes = session.model_input_shape_dict.items()\n"
        "session.run({name: np.zeros(*spec) for name, spec in shapes})\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, model], capture_output=True, text=True, timeout=60
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
