"""A report as tables of text."""

from __future__ import annotations

import msgspec
import pytest

from qaic_sched.loadgen.report.report import Check, EarlyStopping, Report, Search, Verdict
from qaic_sched.loadgen.show.tables import (
    Table,
    background_tables,
    headline,
    result_tables,
    verdict_line,
)
from tests.loadgen.reports import Host, make_report, make_search, rule, verdict


def table(report: Report, title: str) -> Table:
    """Return a table of a report by its title."""
    (found,) = [
        each for each in (*result_tables(report), *background_tables(report)) if each.title == title
    ]
    return found


def cells(report: Report, title: str, row: str) -> tuple[str, ...]:
    """Return the row that begins with a cell."""
    return next(tuple(each) for each in table(report, title).rows if each[0] == row)


def test_the_verdict_line_is_valid_or_says_what_was_broken() -> None:
    """The verdict line has the first broken rule and the number of others."""
    broken = make_report(verdict=verdict("slo", "errors", "duration"))

    assert verdict_line(make_report()) == "VALID"
    assert verdict_line(broken) == "INVALID: slo: 1 of 2 (and 2 more broken rules)"
    assert verdict_line(make_report(verdict=verdict("slo"))) == "INVALID: slo: 1 of 2"
    assert verdict_line(make_report(verdict=Verdict(False, ()))) == "INVALID: no rule was judged"


def test_the_headline_is_the_claimed_percentile_from_the_planned_instant() -> None:
    """The headline has p50 and the claimed percentile."""
    report = make_report()
    assert headline(report) == (
        "simulated host of 4 devices: 639.0 samples/s completed, p50 10.0 ms, p99 20.0 ms"
        " from the planned instant."
    )
    assert "p99" not in headline(make_report(Host(rate=10.0, duration_s=10.0)))
    assert headline(make_report(scheduled=None)).endswith("; no request was done.")


def test_all_tables_have_as_many_cells_as_headings() -> None:
    """Every row has as many cells as its table has headings."""
    report = make_report(search=make_search(), problems={"x": 1}, correctness={"wrong": 0})
    tables = [*result_tables(report), *background_tables(report)]

    assert [each.title for each in tables] == [
        "Rules",
        "Requests",
        "Latency",
        "Devices",
        "Checks",
        "Search (slo)",
        "Problems",
        "Correctness",
        "Plan",
        "Configuration",
        "Host",
    ]
    assert all(len(row) == len(each.columns) for each in tables for row in each.rows)


def test_broken_rules_and_checks_are_marked() -> None:
    """Broken rules and checks are marked; predictions are not."""
    check = Check(
        name="flow_balance",
        measured=9.0,
        expected=10.0,
        unit="requests",
        error=-0.1,
        holds=False,
        note="One is missing.",
    )
    report = make_report(verdict=Verdict(False, (rule("a", True), rule("b", False))))
    report = msgspec.structs.replace(report, checks=(*report.checks, check))

    assert table(report, "Rules").broken == {1}
    assert table(report, "Checks").broken == {2}
    assert cells(report, "Rules", "b") == ("b", "NO", "b: 1 of 2")
    assert cells(report, "Checks", "flow balance") == (
        "flow balance",
        "9 requests",
        "10 requests",
        "-10 %",
        "NO",
        "One is missing.",
    )


def test_latencies_have_intervals_in_the_unit_of_their_value() -> None:
    """Latency, response time and dispatch lag have intervals in the unit of the value."""
    report = make_report()
    headings = [*table(report, "Latency").columns]
    name, planned, _, lag = cells(report, "Latency", "p99")

    assert headings == ["", "latency", "response time", "dispatch lag"]
    assert (name, planned, lag) == ("p99", "20.0 ms [19.5, 20.6]", "198 µs [197, 198]")
    assert cells(report, "Latency", "count")[1:] == ("12,146",) * 3
    assert (
        "p99 of the latency is at most 20.6 ms at 99 % confidence." in table(report, "Latency").note
    )


def test_too_few_samples_are_named_as_such() -> None:
    """A percentile of too few samples says so, and the note has the number needed."""
    report = make_report(
        Host(rate=50.0, duration_s=3.0),
        early_stopping=EarlyStopping(percentile=99.0, bound_s=None, needed=662),
    )
    note = table(report, "Latency").note

    assert cells(report, "Latency", "p99")[1:] == ("too few samples",) * 3
    assert "too few" not in cells(report, "Latency", "p50")[1]
    assert "662 for p99" in note
    assert "No bound of p99: it needs 662 samples or more." in note


def test_a_bound_that_is_not_there_is_a_dash() -> None:
    """A missing bound is shown as a dash."""
    report = make_report(Host(rate=370.0, duration_s=20.0))
    assert report.scheduled is not None
    percentiles = list(report.scheduled.percentiles)
    percentiles[5] = msgspec.structs.replace(percentiles[5], high_s=None)
    latency = msgspec.structs.replace(report.scheduled, percentiles=tuple(percentiles))
    changed = msgspec.structs.replace(report, scheduled=latency)

    assert cells(changed, "Latency", "p99.9")[1].endswith(", -]")


def test_devices_stand_with_their_balance() -> None:
    """Each device has a row, with dashes for missing values, and the balance below."""
    report = make_report()
    idle = msgspec.structs.replace(
        report.devices[0], inferences=0, mean_execute_s=None, mean_wait_s=None, p99_s=None
    )
    report = msgspec.structs.replace(report, devices=(idle, *report.devices[1:]))

    assert [row[0] for row in table(report, "Devices").rows] == ["0", "1", "2", "3"]
    assert cells(report, "Devices", "0")[-3:] == ("-", "-", "-")
    assert cells(report, "Devices", "1")[5] == "80.0 %"
    assert "jain 0.9990" in table(report, "Devices").note


def test_a_search_has_its_runs_and_its_result() -> None:
    """The best run and broken SLOs are marked, and empty columns left out."""
    found = table(make_report(search=make_search()), "Search (slo)")

    assert "concurrency" not in found.columns
    assert [row[0] for row in found.rows] == ["200", "400", "560", "640", "700", "740", "790"]
    assert found.marked == {5}
    assert found.broken == {6}
    assert found.note.splitlines() == [
        "Best rate 740/s [732.6, 747.4]; 790/s was too high.",
        "Knee at 639.0/s (maximum power).",
        "Seven rates of one simulated host.",
    ]


def test_a_search_over_shapes_has_a_column_for_each_field() -> None:
    """A search over shapes has a column for each field, and no offered rate."""
    found = table(make_report(search=make_search("shapes")), "Search (shapes)")

    assert [*found.columns][:5] == [
        "devices",
        "num_activations",
        "set_size",
        "batch",
        "completed/s",
    ]
    assert found.note == "Two shapes for each."
    empty = make_report(search=Search(kind="shapes", points=(), note="Nothing fits."))
    assert table(empty, "Search (shapes)").note == "Nothing fits."


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ("seed", "1"),
        ("scenario", "open"),
        ("arrivals.type", "poisson"),
        ("arrivals.rate", "640.0"),
        ("rules.slo.limit_s", "0.05"),
        ("timeout_s", "-"),
        ("schedule_hash", "5e" * 32),
    ],
)
def test_the_plan_is_shown_with_every_setting(row: str, value: str) -> None:
    """The plan is shown with every setting."""
    assert cells(make_report(), "Plan", row) == (row, value)
