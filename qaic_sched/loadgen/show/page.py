"""`report.html`: the report on one self-contained page, without scripts or external files."""

from __future__ import annotations

from base64 import b64encode
from importlib.resources import files
from typing import TYPE_CHECKING

from qaic_sched.extras import require
from qaic_sched.loadgen.show.tables import (
    background_tables,
    broken_rules,
    headline,
    result_tables,
    verdict_line,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qaic_sched.loadgen.report.report import Report

__all__ = ["write_page"]

TEMPLATE = "report.html.j2"


def write_page(report: Report, path: Path, plots: Sequence[Path]) -> None:
    """Write the page: verdict, results, plots, then plan, configuration and host."""
    jinja2 = require("jinja2", "load")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        report=report,
        verdict=verdict_line(report),
        broken=broken_rules(report),
        headline=headline(report),
        results=result_tables(report),
        background=background_tables(report),
        images=[(each.stem.replace("_", " "), _base64(each)) for each in plots],
    )
    path.write_text(page, encoding="utf-8")


def _base64(image: Path) -> str:
    return b64encode(image.read_bytes()).decode()
