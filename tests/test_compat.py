"""Scripts that use `import qaic`, from `scripts/`, run unchanged on the CPU in processes."""

from __future__ import annotations

import logging
import os
import runpy
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from qaic_sched import compat
from qaic_sched.backends.cpu.cores import usable_cores
from qaic_sched.errors import ConfigError
from qaic_sched.session import Session
from tests.models import gather_model, identity_model, linear, linear_model

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "tests" / "scripts"
INPUT = {"a": np.zeros((4, 3), np.float32), "b": np.zeros((4, 2), np.float32)}


def run_script(name: str, *arguments: object, flags: str = "") -> subprocess.CompletedProcess[str]:
    """Run one of `scripts/` through compat, in a process that reacts to SIGINT."""
    command = [sys.executable, *flags.split(), "-m", "qaic_sched.compat", str(SCRIPTS / name)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.run(
            [*command, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def lines_of(name: str, *arguments: object) -> list[str]:
    """Return the output of a script that succeeds; stderr must have our own lines only."""
    done = run_script(name, *arguments)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("qaic-sched: ") for line in done.stderr.splitlines())
    return done.stdout.splitlines()


@pytest.fixture
def linear_path(tmp_path: Path) -> str:
    """The path of a model with a symbolic batch axis."""
    return linear_model(tmp_path / "linear.onnx")


@pytest.fixture
def options_path(tmp_path: Path) -> str:
    """The path of its options in the vendor's form, with hyphens."""
    options: dict[str, Any] = {
        "aic-num-cores": 1,
        "num-activations": 1,
        "convert_to_fp16": False,
        "multicast-weights": True,
        "stats-batchsize": 4,
        "onnx_define_symbol": {"N": 4},
        "output_dir": str(tmp_path / "linear_qpc"),
    }
    path = tmp_path / "options.yaml"
    path.write_text(yaml.safe_dump(options))
    return str(path)


@pytest.mark.slow
def test_latencies_are_printed_in_the_vendors_words(tmp_path: Path) -> None:
    """Shapes before `setup` and metrics after the runs are printed as the vendor prints them."""
    model = identity_model(tmp_path / "m.onnx", [1, 128], [1, 128])
    first, *lines = lines_of("latencies.py", model, "x", 20)
    assert first == "(1, 128) float32"
    told = [line.rsplit(" ", 2)[0] if line.endswith(" s") else line for line in lines]
    average = "Average latency / inference time observed is"
    assert told == [
        "Number of inferences utilized for calculation are 20",
        "Minimum latency observed",
        "Maximum latency observed",
        average,
        *(
            f"P{digits} / {percent}% of inferences observed latency less than"
            for digits, percent in zip(
                ("25", "50", "75", "90", "99", "999"), (25, 50, 75, 90, 99, 99.9), strict=True
            )
        ),
        "Sum of all the inference times",
        average,
    ]


@pytest.mark.slow
def test_a_profile_is_printed(linear_path: str, options_path: str) -> None:
    """`print_profile_data(n=5)` prints five tables."""
    lines = lines_of("profile_first_runs.py", linear_path, options_path)
    heading = "|  File-Line-Function  | |  num calls  | |  func time  | |  tot time  |"
    assert lines.count(heading) == 5
    assert any("_thread.lock" in line for line in lines)  # it waited for the device


@pytest.mark.slow
def test_a_benchmark_is_run(linear_path: str, options_path: str) -> None:
    """A benchmark runs by number, by time and after a change; `backend="aic"` needs no card."""
    lines = lines_of("measure_rate.py", linear_path, options_path)
    assert lines == ["100 4 100", "40", "True True", "2 4"]


@pytest.mark.slow
def test_outputs_are_read_flat_and_shaped(linear_path: str, options_path: str) -> None:
    """`np.frombuffer(...).reshape` and indexing both work; after `reset` it runs again.

    What the first run has compiled runs as a file, as a folder and as a glob.
    """
    lines = lines_of("classify.py", linear_path, options_path)
    shown = {"y": ((4, 4), np.dtype("float32"))}
    assert lines == [str(shown), "[0, 0, 0, 0] 0.0", "(4, 4)"]

    folder = Path(options_path).parent / "linear_qpc"
    for compiled in (folder / "programqpc.bin", folder, folder / "*.bin"):
        assert lines_of("classify.py", compiled, options_path) == lines


@pytest.mark.slow
def test_ten_threads_share_a_session(tmp_path: Path) -> None:
    """Each thread reads its inputs from a file and writes its own outputs."""
    model = gather_model(tmp_path / "m.onnx")
    assert lines_of("many_threads.py", model, tmp_path) == ["int64 True"]


@pytest.mark.slow
def test_a_program_is_described(tmp_path: Path) -> None:
    """A script reads the program by `getattr`, `.items()` and `str(dtype)`."""
    done = run_script("describe_program.py", gather_model(tmp_path / "m.onnx", 3, 3))
    assert done.stdout.splitlines() == [
        "model_input_shape_dict x (3,) int64 24 3",
        "model_output_shape_dict y (3,) float32 12 3",
    ]
    assert done.stderr.count("oversubscription_name: not used") == 1


@pytest.mark.slow
def test_a_decoder_slices_its_logits(tmp_path: Path) -> None:
    """`logits[:, i, :]` works on outputs of a float64 input that was cast."""
    model = identity_model(tmp_path / "m.onnx", [1, 5, 4], [1, 5, 4])
    assert lines_of("decode.py", model) == ["[2, 3, 0, 1, 2, 3]"]


@pytest.mark.slow
def test_two_devices_work_side_by_side(linear_path: str, options_path: str) -> None:
    """Two sessions run in two threads; a host with one core has one device only."""
    second = min(1, len(usable_cores()) - 1)
    lines = lines_of("two_devices.py", linear_path, options_path, "--device2", second)
    assert lines == [f"0.0 [0, {second}]"]


@pytest.mark.slow
def test_a_device_beyond_the_cores_is_named(linear_path: str, options_path: str) -> None:
    """The error says that the CPU has as many devices as cores."""
    done = run_script("two_devices.py", linear_path, options_path, "--device2", 9999)
    assert done.returncode == 1
    assert "ConfigError: devices: got [9999]; each cpu device needs a core" in done.stderr


@pytest.mark.slow
def test_async_handlers_may_block(linear_path: str, options_path: str) -> None:
    """`run` works inside a running event loop; rows are padded and sliced by the script."""
    assert lines_of("serve.py", linear_path, options_path) == ["[(1, 4), (2, 4), (3, 4)]"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "status", "said"),
    [("0", 0, ""), ("7", 7, ""), ("a last word", 1, "a last word\n")],
)
def test_a_script_sees_what_python_shows_it(how: str, status: int, said: str) -> None:
    """Name, file, arguments, imports and exit status are those of `python SCRIPT`."""
    done = run_script("see_itself.py", how, "--flag")
    assert done.stdout.splitlines() == [
        f"__main__ see_itself.py see_itself.py {[how, '--flag']}",
        "42 scripts",
        "qaic None",
    ]
    assert (done.returncode, done.stderr) == (status, said)


@pytest.mark.slow
def test_tracebacks_begin_in_the_script() -> None:
    """Tracebacks and status are those of `python SCRIPT`, for our own errors, too."""
    done = run_script("see_itself.py", "raise")
    assert done.returncode == 1
    heading, first, *_, last = done.stderr.splitlines()
    assert heading == "Traceback (most recent call last):"
    assert first.startswith(f'  File "{SCRIPTS / "see_itself.py"}", line ')
    assert last == "RuntimeError: as the script wants"
    assert "runpy" not in done.stderr

    done = run_script("see_itself.py", "refuse")
    assert done.returncode == 1
    assert "ConfigError: options: backend: invalid enum value 'qnn'" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="elsewhere Ctrl-C is an exit status")
def test_an_interrupted_script_dies_of_the_signal() -> None:
    """An uncaught KeyboardInterrupt ends the process as in Python."""
    done = run_script("see_itself.py", "interrupt")
    assert done.returncode == -signal.SIGINT
    assert done.stderr.endswith("KeyboardInterrupt\n")


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="-P came with Python 3.11")
def test_a_safe_path_stays_safe() -> None:
    """With `-P` the script's folder is not importable, as under `python -P SCRIPT`."""
    done = run_script("see_itself.py", "0", flags="-P")
    assert done.returncode == 1
    assert "No module named 'helper_beside'" in done.stderr


# From here on in this process.


@pytest.fixture(autouse=True)
def _everything_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(logging.getLogger("qaic_sched"), "propagate", True)
    for name in ("qaic", "qaic.session"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))


def script(folder: Path, text: str) -> str:
    """Write a script and return its path."""
    path = folder / "script.py"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--version", "x.py"]])
def test_without_a_script_there_is_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a script, or with an option before it, usage is printed and the status is 2."""
    assert compat.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "usage: python -m qaic_sched.compat SCRIPT [ARGS...]\n"


def test_a_script_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing file and a folder have status 2, as in Python."""
    for path in (tmp_path / "none.py", tmp_path):
        assert compat.main([str(path)]) == 2
        assert f"can't open file {str(path)!r}: " in capsys.readouterr().err


def test_a_script_runs_in_this_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The script gets its arguments, and the status is 0."""
    text = "import sys, qaic.session\nprint(__name__, sys.argv[1:], qaic.session.Session.__name__)"
    assert compat.main([script(tmp_path, text), "-x", "1"]) == 0
    assert capsys.readouterr().out == "__main__ ['-x', '1'] make_session\n"
    assert sys.path[0] == os.path.realpath(tmp_path)


def test_a_path_that_is_safe_is_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `python -P` the script's folder is not added to the path."""
    monkeypatch.setattr(sys, "flags", types.SimpleNamespace(safe_path=True))
    before = [*sys.path]
    assert compat.main([script(tmp_path, "")]) == 0
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("def f():\n    1 / 0\nf()", ["script.py", "script.py"]),
        ("this is = no Python", []),
    ],
)
def test_the_hook_shows_the_scripts_frames_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, shown: list[str]
) -> None:
    """An error shows the script's frames; a syntax error shows none, as in Python."""
    frames: list[str] = []

    def note(kind: object, error: BaseException, traceback: types.TracebackType | None) -> None:
        assert error.__traceback__ is traceback
        while traceback is not None:
            frames.append(Path(traceback.tb_frame.f_code.co_filename).name)
            traceback = traceback.tb_next

    monkeypatch.setattr(sys, "__excepthook__", note)
    with pytest.raises((ZeroDivisionError, SyntaxError)) as caught:
        compat.main([script(tmp_path, text)])
    sys.excepthook(caught.type, caught.value, caught.tb)
    assert frames == shown


def test_our_lines_go_to_stderr_once(
    linear_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Our lines appear once even if the script configures logging."""
    text = (
        "import logging, sys, qaic\n"
        "logging.basicConfig(level=logging.INFO, force=True)\n"
        "qaic.Session(sys.argv[1], backend='qaic', onnx_define_symbol=[('N', 4)])\n"
        "logging.getLogger().handlers.clear()\n"
    )
    assert compat.main([script(tmp_path, text), linear_path]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("backend: aic here means a card if one is ready, else the CPU") == 1


def test_the_factory_makes_our_session(linear_path: str, options_path: str) -> None:
    """The factory takes options by keyword and by file; unknown backends are refused."""
    with compat.make_session(linear_path, options_path=options_path, set_size=3) as session:
        assert isinstance(session, Session)
        assert session.backend_options["set_size"] == 3
        np.testing.assert_array_equal(session.run(INPUT)["y"], linear(**INPUT))
    with pytest.raises(ConfigError, match="qnn"):
        compat.make_session(model_path=linear_path, backend="qnn")


def test_the_module_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m qaic_sched.compat` without a script ends with status 2."""
    monkeypatch.setattr(sys, "argv", ["compat.py"])
    monkeypatch.delitem(sys.modules, "qaic_sched.compat")
    with pytest.raises(SystemExit) as end:
        runpy.run_module("qaic_sched.compat", run_name="__main__")
    assert end.value.code == 2
