"""Compiling in several processes at once, and in processes that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qaic_sched.backends.compiling.container import check_cpu_program
from tests.models import linear_model
from tests.standin import qaic_compile

SCRIPT = """
import asyncio, logging, sys
from qaic_sched.backends.choose import compiler_for
from qaic_sched.backends.compiling.compile import compile_model
from qaic_sched.config.keys import ModelOptions

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
model, kind, output_dir, batch = sys.argv[1:]
options = ModelOptions(onnx_define_symbol={"N": int(batch)}, output_dir=output_dir)
sys.stdin.readline()
print("program", asyncio.run(compile_model(model, compiler_for(kind), options)))
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def model(tmp_path: Path) -> str:
    """The path of a model."""
    return linear_model(tmp_path / "model.onnx")


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """A process that compiles once it reads a line."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def lines_of(*processes: subprocess.Popen[str]) -> list[str]:
    """Let the processes compile at the same moment; the lines that they print."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = [line for each in processes for line in each.communicate(timeout=60)[0].splitlines()]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return lines


@pytest.mark.parametrize("kind", ["cpu", "aic"])
def test_one_of_several_processes_compiles_and_all_get_the_program(
    model: str, tmp_path: Path, kind: str
) -> None:
    """The other processes wait, and reuse the result of the first."""
    log = qaic_compile.install(tmp_path / "bin")
    path = f"{tmp_path / 'bin'}:/bin:/usr/bin"
    several = [start(model, kind, tmp_path / "out", 4, PATH=path) for _ in range(3)]
    lines = lines_of(*several)
    program = tmp_path / "out" / "programqpc.bin"
    assert lines.count(f"program {program}") == 3
    assert lines.count(f"compiled {model} for {kind}: {program}") == 1
    if kind == "cpu":
        assert check_cpu_program(str(program)).onnx_define_symbol == {"N": 4}
    else:
        assert len(log.read_text().splitlines()) == 1


def test_two_with_other_options_replace_each_other_completely(model: str, tmp_path: Path) -> None:
    """The last of two processes leaves its result, with record and program that match."""
    lines_of(start(model, "cpu", tmp_path / "out", 2), start(model, "cpu", tmp_path / "out", 4))
    record = json.loads((tmp_path / "out" / "compiled.json").read_text())
    note = check_cpu_program(str(tmp_path / "out" / "programqpc.bin"))
    assert note.onnx_define_symbol == record["recipe"]["options"]["onnx_define_symbol"]


def test_a_killed_process_leaves_nothing_that_looks_finished(model: str, tmp_path: Path) -> None:
    """After a kill the lock is free, and the next compile removes the work folder."""
    log = qaic_compile.install(tmp_path / "bin")
    path = f"{tmp_path / 'bin'}:/bin:/usr/bin"
    out = tmp_path / "out"
    killed = start(model, "aic", out, 4, PATH=path, STANDIN_COMPILER="hang")
    assert killed.stdin is not None
    killed.stdin.write("go\n")
    killed.stdin.flush()
    give_up_at = time.monotonic() + 20
    while not (log.exists() and log.read_text()):
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    compiler, *_ = json.loads(log.read_text())
    os.kill(compiler, signal.SIGKILL)  # its parent cannot do it any more
    assert [path.name[:11] for path in sorted(out.iterdir())] == [".compiling-", ".lock"]

    lines = lines_of(start(model, "aic", out, 4, PATH=path))

    assert lines[-1] == f"program {out / 'programqpc.bin'}"
    names = sorted(path.name for path in out.iterdir())
    assert names == [".lock", "compiled.json", "programqpc.bin"]
