"""`python -m bench`: what it runs, prints and writes, and its exit status."""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING

import pytest

from bench import suite
from bench.result import at_least, at_most, compare, from_json, this_machine
from bench.rounds import run_apart
from bench.suite import BENCHMARKS, failures, main, measure_in, read_floors, table

if TYPE_CHECKING:
    from pathlib import Path

KEY = "tiny: calls / nothing"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Add a benchmark `tiny` with a ratio of 2 and a target of 3; returns the file of floors."""
    floors = tmp_path / "floors.json"
    monkeypatch.setitem(BENCHMARKS, "tiny", "tests.bench.tiny_benchmark")
    monkeypatch.setattr(suite, "FLOORS", floors)
    return floors


def test_a_missed_target_is_status_1(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missed target is reported with status 1, and the results are written."""
    path = tmp_path / "results.json"

    assert main(["tiny", "--json", str(path)]) == 1
    assert (
        f"MISSED {KEY}: the target is a ratio of at least 3, measured 2" in capsys.readouterr().out
    )
    [result] = from_json(path.read_bytes())
    assert (result.value, result.ratio, result.note) == (4.0, 2.0, "full")


@pytest.mark.parametrize(("floor", "status"), [(3.9, 0), (4.1, 1)])
def test_the_short_form_compares_with_recorded_ratios(
    tiny: Path, floor: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The short form is status 1 only if a ratio is below half of the recorded one."""
    tiny.write_text(json.dumps({this_machine().core: {KEY: floor}}))

    assert main(["tiny", "--short"]) == status
    printed = capsys.readouterr().out
    assert ("WORSE" in printed) is bool(status)
    assert "short" in printed


def test_an_unknown_benchmark_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown name is status 2, and the known names are printed."""
    with pytest.raises(SystemExit) as rejection:
        main(["dispach"])

    assert rejection.value.code == 2
    assert "dispach: no such benchmark; choose from dispatch, threadpool" in capsys.readouterr().err


def test_the_list_describes_each_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` prints a line per benchmark and runs nothing."""
    assert main(["--list"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(BENCHMARKS)
    assert all(len(line.split()) > 4 for line in lines)


def test_the_table_has_a_line_per_target() -> None:
    """Each target of a result is a line of the table, reached or missed."""
    targets = [at_least(2.5), at_most(9, "value")]
    result = compare("b", "calls", "1/s", [10.0], "threads", [4.0], targets=targets)

    lines = table([result], None).splitlines()

    assert "2.500 x threads (4)" in lines[0]
    assert [line.strip() for line in lines[1:]] == [
        "target: ratio at least 2.5: reached",
        "target: value at most 9: MISSED",
    ]
    assert failures([result], None) == [
        "MISSED b: calls / threads: the target is a value of at most 9, measured 10"
    ]


def test_a_ratio_without_a_floor_does_not_fail() -> None:
    """A new result may have no recorded ratio yet."""
    result = compare("b", "calls", "1/s", [1.0], "threads", [4.0], targets=[at_least(2)])

    assert failures([result], {}) == []


def test_a_floor_without_a_result_fails() -> None:
    """A renamed metric must not lose its floor; benchmarks that did not run are ignored."""
    result = compare("b", "calls", "1/s", [1.0], "threads", [4.0])

    floors = {"b: calls / threads": 0.2, "b: old name / threads": 1.0, "other: calls / x": 1.0}

    assert failures([result], floors) == [
        "LOST b: old name / threads: recorded, but no result has this name"
    ]


def test_every_floor_belongs_to_a_benchmark() -> None:
    """The floors can be read, and their names start with the name of a benchmark."""
    floors = {key for core in ("C", "Python") for key in read_floors(suite.FLOORS, core)}

    assert floors
    assert {key.partition(":")[0] for key in floors} <= BENCHMARKS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dispatch", "server", "overhead"])
def test_a_benchmark_returns_results(name: str) -> None:
    """The short form returns finite results with unique names."""
    results = run_apart(measure_in, BENCHMARKS[name], True)

    assert results
    assert len({each.key for each in results}) == len(results)
    assert {each.benchmark for each in results} == {name}
    assert all(isfinite(each.value) and isfinite(each.ratio) for each in results)
