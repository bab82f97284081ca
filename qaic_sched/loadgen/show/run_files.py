"""Writes the files of a run.

| file | content |
|---|---|
| `report.json` | the report, from which tables, plots and page are made |
| `report.html` | the report as a page, with the plots |
| `plots/*.png` | the plots |
| `records.npz` | the raw records, one row per request |
| `latency.hgrm`, `service.hgrm` | the percentiles of latency and of response time |
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from qaic_sched.errors import InputError
from qaic_sched.extras import require
from qaic_sched.loadgen.inject.records_file import save_records
from qaic_sched.loadgen.report.report import write_report
from qaic_sched.loadgen.show.hdr_export import write_percentiles
from qaic_sched.loadgen.show.page import write_page
from qaic_sched.loadgen.show.plots import plot
from qaic_sched.loadgen.targets.base import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from qaic_sched.loadgen.load import LoadRun

__all__ = ["prepare", "write_run"]


def prepare(directory: Path) -> None:
    """Check before a run that its files can be written.

    Raises `ConfigError` for a missing package and `InputError` for a folder that is not writable.
    """
    for module in ("matplotlib", "jinja2", "hdrh"):
        require(module, "load")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory}: cannot be created: {error.strerror or error}") from error
    if not os.access(directory, os.W_OK):
        raise InputError(f"{directory}: cannot be written: permission denied")


def write_run(run: LoadRun, directory: Path) -> list[Path]:
    """Write all files of a run to a folder; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    report, records = run.report, run.records
    paths = [
        directory / name
        for name in ("report.json", "report.html", "records.npz", "latency.hgrm", "service.hgrm")
    ]
    write_report(report, paths[0])
    plots = plot(report, directory / "plots")
    write_page(report, paths[1], plots)
    save_records(records, paths[2])
    measured = (records.outcome == Outcome.DONE) & (
        records.planned_ns >= round(report.warm_up.until_s * 1e9)
    )
    write_percentiles((records.done_ns - records.planned_ns)[measured], paths[3])
    write_percentiles((records.done_ns - records.sent_ns)[measured], paths[4])
    return [*paths, *plots]
