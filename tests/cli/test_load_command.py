"""Tests of `qaic-sched load`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from qaic_sched.loadgen.report.report import Report
from tests.cli.command_line import cards, config_of, two_models
from tests.cli.load_command_line import alone, load, printed_report, virtual
from tests.models import linear_model

if TYPE_CHECKING:
    pass


def test_the_first_line_is_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A valid run prints VALID, then the tables, and exits with 0."""
    assert virtual(alone(tmp_path), "--rate", 200, "--duration", 10) == 0
    first, second, *rest = capsys.readouterr().out.splitlines()
    assert first == "VALID"
    assert "samples/s completed" in second
    assert {"Rules", "Latency", "Devices", "Checks"} <= {*rest}


def test_a_broken_rule_is_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken rule is in the first line, and the exit status is 1."""
    assert virtual(alone(tmp_path), "--rate", 200, "--duration", 2) == 1
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("INVALID: the run took")


def test_errors_of_requests_are_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Failed requests make the exit status 1."""
    config = alone(tmp_path, faults=[{"kind": "error", "probability": 0.05}])
    config = config_of(tmp_path, model="cards.sim.yaml", retry={"max_attempts": 1})
    assert virtual(config, "--rate", 200, "--duration", 10) == 1
    first = capsys.readouterr().out.splitlines()[0]
    assert re.match(r"INVALID: \d+ of \d+ requests had no outputs", first)


def test_without_a_rate_callers_fill_the_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four cards with two slots each get eight callers, which the output says."""
    assert virtual(alone(tmp_path, service_time_s=0.020), "--duration", 10, "--json") == 0
    captured = capsys.readouterr()
    assert "closed loop of 8 callers (fills every slot)" in captured.err
    report = msgspec.json.decode(captured.out, type=Report)
    assert report.completed_rate == pytest.approx(200, rel=0.01)


def test_reports_are_the_same_to_the_last_byte_but_for_host_and_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In virtual time one seed gives equal reports, with faults and jitter."""
    stall = {"kind": "stall", "probability": 0.01, "for_s": 0.020}
    config = alone(tmp_path, service_time_cv=0.2, faults=[stall])
    texts = []
    for _ in range(2):
        assert virtual(config, "--rate", 200, "--duration", 10, "--json") == 0
        text = json.loads(capsys.readouterr().out)
        assert text["host"]["event_loop"] == "virtual"
        assert text["started_at"].startswith("20")
        texts.append(json.dumps({**text, "host": {}, "started_at": ""}))
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_a_report_has_all_its_files_and_they_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output names every file of the report."""
    out = tmp_path / "out"
    assert virtual(alone(tmp_path), "--rate", 200, "--duration", 10, "--report", out) == 0
    named = [Path(line) for line in capsys.readouterr().out.splitlines() if str(out) in line]
    assert {*named} == {path for path in out.rglob("*") if path.is_file()}
    assert {"report.json", "report.html", "records.npz", "latency.hgrm", "service.hgrm"} <= {
        path.name for path in named
    }
    assert {"latency_percentiles.png", "queue.png"} <= {path.name for path in named}


@pytest.mark.slow
def test_json_is_the_report_as_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--json` prints only the report to stdout, and the verdict to stderr."""
    out = tmp_path / "out"
    assert virtual(alone(tmp_path), "--rate", 200, "--duration", 2, "--json", "--report", out) == 1
    captured = capsys.readouterr()
    assert captured.out.encode() == (out / "report.json").read_bytes()
    assert "qaic-sched: INVALID: the run took" in captured.err


@pytest.mark.parametrize(
    ("scenario", "more"),
    [
        ("single-stream", []),
        ("multi-stream", []),
        ("server", ["--rate", 200, "--slo", "p99=20ms"]),
        pytest.param("offline", ["--requests", 25_000], marks=pytest.mark.slow),
    ],
)
def test_scenarios_of_mlperf_have_a_score(
    tmp_path: Path, scenario: str, more: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    """MLPerf scenarios print their score, and whether the length is official."""
    config = cards(tmp_path)
    status = virtual(config, "--scenario", scenario, "--duration", 4, *more)
    out = capsys.readouterr().out
    assert status == 0, out
    assert " Score: " in out.splitlines()[1]
    assert "official" in out


def test_a_trace_is_replayed_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A trace is replayed to its last arrival, twice as fast."""
    times = np.cumsum(np.random.default_rng(1).exponential(0.02, 2000))
    trace = tmp_path / "trace.csv"
    trace.write_text("at_s\n" + "\n".join(f"{t:.6f}" for t in times))
    config = alone(tmp_path)
    assert virtual(config, "--trace", trace, "--speedup", 2, "--json") == 0
    report = printed_report(capsys)
    assert report.counts.done == 2000
    assert report.duration_s == pytest.approx((times[-1] - times[0]) / 2, abs=0.01)


@pytest.mark.slow
def test_outputs_are_checked_and_caches_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Simulated cards pass the tests of outputs and of a cache."""
    options = ["--check-outputs", "--repeated-input", "--json"]
    assert virtual(cards(tmp_path), "--rate", 100, "--duration", 10, *options) == 0
    report = printed_report(capsys)
    assert report.correctness["is_correct"]
    assert report.correctness["compared"] > 3
    assert report.correctness["repeated_input"]["is_caching"] is False
    assert {"correctness", "repeated_input"} <= {rule.name for rule in report.verdict.rules}


def test_rows_of_a_file_are_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of a file are sent; a file that does not fit is named, with status 2."""
    np.savez(tmp_path / "good.npz", data=np.ones((9, 3), np.float32))
    np.savez(tmp_path / "bad.npz", data=np.ones((9, 5), np.float32))
    config = alone(tmp_path)
    rate = ["--rate", 100, "--duration", 10]
    assert virtual(config, *rate, "--input", tmp_path / "good.npz") == 0
    capsys.readouterr()
    assert virtual(config, *rate, "--input", tmp_path / "bad.npz") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "bad.npz" in captured.err


def test_one_of_several_models_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of several is loaded by its name; a missing or unknown name is status 2."""
    config = two_models(tmp_path)
    rate = ["--rate", 100, "--duration", 10]
    assert virtual(config, *rate, "--model", "b", "--json") == 0
    report = printed_report(capsys)
    assert report.target == "b"
    assert report.config["num_activations"] == 2
    assert virtual(config, *rate) == 2
    assert virtual(config, *rate, "--model", "c") == 2


def test_rates_are_swept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each rate of a sweep is a point."""
    assert virtual(alone(tmp_path), "--sweep-rates", "70,80,90", "--json") == 0
    report = printed_report(capsys)
    assert report.search is not None
    assert [point.offered_rate for point in report.search.points] == [70, 80, 90]
    assert {point.is_valid for point in report.search.points} == {True}


def test_shapes_are_swept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each shape of a sweep is a point, and impossible ones are skipped."""
    config = cards(tmp_path, devices=4)
    sweep = ["--sweep", "devices=1,2,4,5", "--sweep", "batch=1,4", "--duration", 0.1]
    virtual(config, *sweep, "--json")
    report = printed_report(capsys)
    assert report.search is not None
    rates = {(p.shape["devices"], p.shape["batch"]): p for p in report.search.points}
    assert len(rates) == 6
    for devices in (1, 2, 4):
        for batch in (1, 4):
            rate = rates[devices, batch].completed_rate
            assert rate == pytest.approx(4000 * devices, rel=0.1)
    assert "Skipped devices 5" in report.search.note


def test_shapes_take_the_first_of_the_devices_that_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep uses the configured device ids in order, and no others."""
    cards(tmp_path, devices=4)
    config = config_of(tmp_path, model="cards.sim.yaml", devices=[3, 1])
    virtual(config, "--sweep", "devices=1,2,3", "--duration", 0.2, "--json")
    report = printed_report(capsys)
    assert report.search is not None
    assert len(report.search.points) == 2
    assert {device.device_id for device in report.devices} == {1, 3}
    assert "3 are more than the configuration's 2" in report.search.note


@pytest.mark.long
def test_the_highest_rate_of_a_host_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The highest rate of four cards of 2 ms, 2,000/s, is found within 5 %."""
    assert virtual(alone(tmp_path), "--find-rate", "--slo", "p99=50ms", "--json") == 0
    report = printed_report(capsys)
    assert report.search is not None
    assert report.search.best_rate == pytest.approx(2000, rel=0.05)
    assert report.search.interval is not None


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rate", "1", "--concurrency", "2"],
        ["--rate", "0"],
        ["--scenario", "both"],
        ["--sweep", "cards=1"],
        ["--no-such-option"],
        ["--rate", "1", "--report", "no/such/file.yaml/out"],
    ],
)
def test_bad_arguments_are_status_2(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad arguments exit with 2, without output on stdout."""
    config = alone(tmp_path)
    arguments = [str(config / "out") if "file.yaml" in each else each for each in arguments]
    assert virtual(config, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


def test_only_simulated_cards_have_virtual_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--virtual` refuses the CPU backend, and an event log."""
    linear_model(tmp_path / "model.onnx", 4)
    config = config_of(tmp_path, model="model.onnx", backend="cpu", devices=1)
    assert virtual(config, "--rate", 9) == 2
    assert "--virtual: " in capsys.readouterr().err
    alone(tmp_path)
    config = config_of(tmp_path, model="cards.sim.yaml", event_log=str(tmp_path / "log"))
    assert virtual(config, "--rate", 9) == 2
    assert "--virtual: event_log" in capsys.readouterr().err


def test_a_missing_server_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing server is named in one sentence, without a verdict."""
    assert load("http://127.0.0.1:1", "--rate", 9) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "http://127.0.0.1:1: no KServe v2 server answers there" in captured.err


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("scipy", ["--rate", "9"], "load"),
        ("matplotlib", ["--rate", "9", "--report", "out"], "load"),
        ("mlperf_loadgen", ["--scenario", "single-stream", "--loadgen"], "mlperf"),
    ],
)
def test_a_missing_extra_is_reported_before_the_run(
    tmp_path: Path,
    module: str,
    arguments: list[str],
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A missing package is reported before the run, with the command that installs it."""
    config = alone(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    assert load(config, *arguments) == 2
    assert f"pip install 'qaic-sched[{extra}]'" in capsys.readouterr().err
