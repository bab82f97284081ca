"""The page: complete, self-contained, and escaped."""

from __future__ import annotations

from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from qaic_sched.loadgen.show.page import write_page
from qaic_sched.loadgen.show.tables import background_tables, result_tables
from tests.loadgen.reports import Host, make_report, make_search, verdict

if TYPE_CHECKING:
    from qaic_sched.loadgen.report.report import Report

VOID = {"meta", "img"}
PROJECT = Path(__file__).parents[3]


class Page(HTMLParser):
    """Reads a page: elements in order, attributes, and the text in each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open[-1]][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.attributes if each == tag]


def page_of(report: Report, folder: Path, plots: tuple[Path, ...] = ()) -> Page:
    """Write and read the page of a report."""
    path = folder / "report.html"
    write_page(report, path, plots)
    return Page(path.read_text(encoding="utf-8"))


def test_the_verdict_comes_first(tmp_path: Path) -> None:
    """The verdict is the heading and the title, and sets the colour."""
    valid = page_of(make_report(), tmp_path)
    invalid = page_of(make_report(Host(rate=830.0)), tmp_path)

    assert valid.texts["h1"] == ["VALID"]
    assert valid.texts["title"] == ["VALID: simulated host of 4 devices"]
    assert valid.all("header") == [{"class": "valid"}]
    assert invalid.texts["h1"][0].startswith("INVALID: p99 is at most")
    assert invalid.all("header") == [{"class": "invalid"}]


def test_several_broken_rules_are_all_listed(tmp_path: Path) -> None:
    """All broken rules are listed below the heading."""
    page = page_of(make_report(verdict=verdict("samples", "errors")), tmp_path)

    assert page.texts["h1"] == ["INVALID: samples: 1 of 2 (and 1 more broken rule)"]
    assert page.texts["li"] == ["samples: 1 of 2", "errors: 1 of 2"]
    assert sum(each.get("class") == "broken" for each in page.all("tr")) == 2


def test_every_table_is_there_with_every_cell(tmp_path: Path) -> None:
    """Results, then plan, configuration and host; elements are closed in order."""
    report = make_report(search=make_search(), problems={"lost": 3})
    page = page_of(report, tmp_path)
    tables = [*result_tables(report), *background_tables(report)]

    assert page.open == []
    assert page.texts["h2"] == [table.title for table in tables]
    cells = [cell for table in tables for row in table.rows for cell in row]
    assert page.texts["td"] == cells
    assert page.texts["h2"][0] == "Rules"
    assert page.texts["h2"][-1] == "Host"


def test_images_stand_in_the_page_itself(tmp_path: Path) -> None:
    """Images are embedded unchanged, with alternative text."""
    image = tmp_path / "latency_over_time.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n of a sort")
    page = page_of(make_report(), tmp_path, (image,))
    (shown,) = page.all("img")

    assert shown["alt"] == "latency over time"
    head, _, data = (shown["src"] or "").partition(",")
    assert head == "data:image/png;base64"
    assert b64decode(data) == image.read_bytes()
    assert "Plots" in page.texts["h2"]


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    """The page has no scripts and loads nothing, and its policy forbids both."""
    page = page_of(make_report(), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")

    assert page.all("script") == page.all("link") == []
    assert not [
        value for _, each in page.attributes for value in each.values() if "//" in f"{value}"
    ]
    assert "url(" not in text
    assert "@import" not in text
    assert any(
        f"{each.get('content')}".startswith("default-src 'none'") for each in page.all("meta")
    )


def test_there_are_two_sets_of_colours(tmp_path: Path) -> None:
    """Every colour has a value for light and for dark."""
    page_of(make_report(), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    light, dark = (part.split("}")[0] for part in text.split(":root {")[1:])
    names = [{line.split(":")[0].strip() for line in part.split(";")} for part in (light, dark)]

    assert names[0] == names[1]
    assert len(names[0] - {""}) == 8


def test_messages_of_a_target_are_escaped(tmp_path: Path) -> None:
    """Messages of a server are escaped."""
    evil = '</td><script>alert("x")</script>'
    report = make_report(problems={evil: 1}, target="<b>&target")
    page = page_of(msgspec.structs.replace(report, config={"model": evil}), tmp_path)

    assert page.all("script") == page.all("b") == []
    assert page.texts["td"].count(evil) == 2
    assert page.texts["title"] == ["VALID: <b>&target"]


def test_a_run_without_done_requests_has_a_page(tmp_path: Path) -> None:
    """A run without done requests has a page."""
    report = make_report(
        scheduled=None, response=None, lag=None, devices=(), balance={}, checks=(), config={}
    )
    page = page_of(report, tmp_path)

    assert page.texts["h2"] == ["Rules", "Requests", "Plan", "Host"]
    assert page.texts["p"][0].endswith("no request was done.")


def test_the_template_is_part_of_the_package() -> None:
    """The template is found in the package."""
    assert "loadgen/show/report.html.j2" in (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
