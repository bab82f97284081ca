"""`qaic-sched load` in real time: Ctrl-C, LoadGen and servers."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qaic_sched.loadgen.report.report import read_report
from tests.cli.command_line import start
from tests.cli.load_command_line import alone, load, printed_report
from tests.loadgen.kserve_server import running

if TYPE_CHECKING:
    import subprocess


def interrupt(process: subprocess.Popen[str], after_s: float, limit_s: float = 60) -> list[str]:
    """Press Ctrl-C after `after_s`; return the lines of output."""
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=limit_s)
    assert "Ctrl-C" in err
    assert process.returncode == 130, err
    return out.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [["--rate", 100], ["--rate", 100, "--virtual", "--duration", 20_000], []]
)
def test_ctrl_c_reports_what_was_measured(tmp_path: Path, more: list[object]) -> None:
    """Ctrl-C gives an INVALID report with files, and status 130."""
    out = tmp_path / "out"
    process = start("load", alone(tmp_path), "--duration", 600, "--report", out, *more)
    first, *_ = interrupt(process, 5.0)

    assert first.startswith("INVALID: the run was interrupted")
    report = read_report(out / "report.json")
    assert report.counts.done == report.counts.planned > 50
    assert (out / "report.html").exists()


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    """A second Ctrl-C does not wait for outstanding answers."""
    alone(tmp_path, faults=[{"kind": "hang", "at_s": 0.5}])
    config = tmp_path / "patient.yaml"
    config.write_text("model: cards.sim.yaml\nhealth: {dispatch_timeout_s: 600}\n")
    process = start("load", config, "--rate", 100, "--duration", 600)
    time.sleep(5.0)
    process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=10)

    assert process.returncode == 130
    assert out == ""


@pytest.mark.slow
def test_ctrl_c_under_loadgen_keeps_our_own_run(tmp_path: Path) -> None:
    """Ctrl-C under LoadGen ends the process and reports our own run."""
    pytest.importorskip("mlperf_loadgen")
    options = ["--rate", 100, "--slo", "p99=1s", "--duration", 10, "--loadgen"]
    process = start("load", alone(tmp_path), "--scenario", "server", *options)
    first, *rest = interrupt(process, 16.0)

    assert first.startswith("INVALID: the run was interrupted")
    assert "LoadGen has no result" in first
    assert any(line.startswith("done") for line in rest)


@pytest.mark.slow
def test_a_run_under_loadgen_has_both_verdicts(tmp_path: Path) -> None:
    """A run under LoadGen has both verdicts, and LoadGen's logs next to the report."""
    pytest.importorskip("mlperf_loadgen")
    out = tmp_path / "out"
    options = ["--duration", 5, "--loadgen", "--report", out]
    process = start("load", alone(tmp_path), "--scenario", "single-stream", *options)
    text, err = process.communicate(timeout=120)

    assert "now the same plan under LoadGen" in err
    report = read_report(out / "report.json")
    # A single run in real time may or may not be steady.
    assert process.returncode == int(not report.verdict.is_valid), text + err
    assert report.mlperf["loadgen"]["is_valid"]
    assert {"loadgen", "loadgen_errors"} <= {rule.name for rule in report.verdict.rules}
    assert (out / "loadgen" / "mlperf_log_summary.txt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_server_is_loaded_from_several_processes(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Callers are divided among processes, and the records merged."""
    with running(kind=kind, delay=0.010) as url:
        status = load(url, "--concurrency", 4, "--processes", 2, "--duration", 11, "--json")
    report = printed_report(capsys)
    assert status == 0, report.verdict
    assert report.counts.done == report.counts.planned > 1000


@pytest.mark.slow
def test_a_server_that_dies_midway_keeps_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that dies makes the run INVALID, with the answers from before."""
    with running(die_after=300) as url:
        status = load(url, "--rate", 200, "--duration", 4, "--json")
    report = printed_report(capsys)
    assert status == 1
    assert 200 < report.counts.done <= 300
    assert report.counts.failed > 100
