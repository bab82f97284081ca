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
    """A benchmark `tiny` whose ratio is 2, where 3 was asked for; the file of recorded ratios."""
    floors = tmp_path / "floors.json"
    monkeypatch.setitem(BENCHMARKS, "tiny", "tests.bench.tiny_benchmark")
    monkeypatch.setattr(suite, "FLOORS", floors)
    return floors


def test_a_missed_bound_is_status_1_and_in_the_file(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The results are written all the same, by the full form."""
    path = tmp_path / "results.json"

    assert main(["tiny", "--json", str(path)]) == 1
    assert f"MISSED {KEY}: ratio at least 3 was asked for, it is 2" in capsys.readouterr().out
    [result] = from_json(path.read_bytes())
    assert (result.value, result.ratio, result.note) == (4.0, 2.0, "full")


@pytest.mark.parametrize(("floor", "status"), [(3.9, 0), (4.1, 1)])
def test_the_short_form_asks_for_what_was_recorded(
    tiny: Path, floor: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not for more, and half of it is let pass: status 1 only below that."""
    tiny.write_text(json.dumps({this_machine().core: {KEY: floor}}))

    assert main(["tiny", "--short"]) == status
    printed = capsys.readouterr().out
    assert ("WORSE" in printed) is bool(status)
    assert "short" in printed


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """With the names that there are, and status 2."""
    with pytest.raises(SystemExit) as refusal:
        main(["dispach"])

    assert refusal.value.code == 2
    assert "dispach: no such benchmark; there are dispatch, threadpool" in capsys.readouterr().err


def test_the_list_says_what_each_benchmark_measures(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each, and nothing is run."""
    assert main(["--list"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(BENCHMARKS)
    assert all(len(line.split()) > 4 for line in lines)


def test_the_table_has_what_was_asked_for_beside_what_was_reached() -> None:
    """Each bound by itself, of one result."""
    asked = [at_least(2.5), at_most(9, "value")]
    result = compare("b", "calls", "1/s", [10.0], "threads", [4.0], asked=asked)

    lines = table([result], None).splitlines()

    assert "2.500 x 4 of threads" in lines[0]
    assert [line.strip() for line in lines[1:]] == [
        "asked: ratio at least 2.5: reached",
        "asked: value at most 9: MISSED",
    ]
    assert failures([result], None) == [
        "MISSED b: calls / threads: value at most 9 was asked for, it is 10"
    ]


def test_a_ratio_that_nobody_recorded_cannot_be_worse() -> None:
    """New figures come before their floors."""
    result = compare("b", "calls", "1/s", [1.0], "threads", [4.0], asked=[at_least(2)])

    assert failures([result], {}) == []


def test_a_recorded_ratio_without_its_figure_is_a_failure() -> None:
    """A metric with a new name must not lose its floor; what was not run is not missed."""
    result = compare("b", "calls", "1/s", [1.0], "threads", [4.0])

    floors = {"b: calls / threads": 0.2, "b: old name / threads": 1.0, "other: calls / x": 1.0}

    assert failures([result], floors) == [
        "LOST b: old name / threads: it is recorded, and no figure has that name"
    ]


def test_every_recorded_ratio_is_of_a_benchmark() -> None:
    """The file can be read, and its names begin with those of benchmarks."""
    floors = {key for core in ("C", "Python") for key in read_floors(suite.FLOORS, core)}

    assert floors
    assert {key.partition(":")[0] for key in floors} <= BENCHMARKS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dispatch", "server", "overhead"])
def test_a_benchmark_finds_figures(name: str) -> None:
    """The short form runs to its end; how good they are is for the benchmark to say."""
    results = run_apart(measure_in, BENCHMARKS[name], True)

    assert results
    assert len({each.key for each in results}) == len(results)
    assert {each.benchmark for each in results} == {name}
    assert all(isfinite(each.value) and isfinite(each.ratio) for each in results)
