"""The files of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qaic_sched.errors import ConfigError, InputError
from qaic_sched.loadgen.inject.records_file import load_records
from qaic_sched.loadgen.load import LoadRun, run_load
from qaic_sched.loadgen.plan.plan import Plan, Poisson
from qaic_sched.loadgen.report.report import encode_report, read_report
from qaic_sched.loadgen.show.run_files import prepare, write_run
from qaic_sched.testing import run_virtual
from tests.loadgen.load_helpers import TimedTarget


def make_run(duration_s: float = 2.0) -> LoadRun:
    """Make a short run."""
    plan = Plan(scenario="open", arrivals=Poisson(500), duration_s=duration_s)

    async def main() -> LoadRun:
        return await run_load(TimedTarget(0.002), plan)

    return run_virtual(main)


@pytest.mark.slow
def test_everything_is_there(tmp_path: Path) -> None:
    """All files are written, and none is empty."""
    run, folder = make_run(), tmp_path / "new" / "out"
    paths = write_run(run, folder)

    names = [str(path.relative_to(folder)) for path in paths]
    assert names[:5] == [
        "report.json",
        "report.html",
        "records.npz",
        "latency.hgrm",
        "service.hgrm",
    ]
    assert "plots/latency_percentiles.png" in names
    assert "plots/queue.png" in names
    assert all(path.stat().st_size > 100 for path in paths)
    assert read_report(paths[0]) == run.report
    assert paths[0].read_bytes() == encode_report(run.report)
    assert np.array_equal(load_records(paths[2]).done_ns, run.records.done_ns)
    assert "data:image/png;base64" in paths[1].read_text()
    for name in ("latency", "service"):
        text = (folder / f"{name}.hgrm").read_text()
        assert f"TotalCount     = {run.report.counts.measured:12.3f}" in text


@pytest.mark.slow
def test_a_run_of_nothing_has_files_too(tmp_path: Path) -> None:
    """A run without requests has its files as well."""
    run = make_run(duration_s=1e-6)

    assert run.report.counts.planned == 0
    assert all(path.exists() for path in write_run(run, tmp_path))


def test_a_folder_that_cannot_be_created_raises_before_the_run(tmp_path: Path) -> None:
    """A folder that cannot be created is reported before the run."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be created"):
        prepare(tmp_path / "file" / "out")
    prepare(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_missing_package_is_told_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing package is reported before the run, with the command that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(ConfigError, match=r"pip install 'qaic-sched\[load\]'"):
        prepare(tmp_path / "out")
    assert not (tmp_path / "out").exists()
