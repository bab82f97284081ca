"""Numbers for readers."""

from __future__ import annotations

import pytest

from qaic_sched.loadgen.report.formats import number, percent, percentile_name, seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (640.0, "640"),
        (12_345, "12,345"),
        (12_345.6, "12,346"),
        (639.04, "639.0"),
        (0.012345, "0.01235"),
        (-1.5, "-1.500"),
        (999.96, "1,000"),
    ],
)
def test_numbers_have_four_significant_digits(value: float | None, text: str) -> None:
    """Numbers have four significant digits; integers have no decimals."""
    assert number(value) == text


@pytest.mark.parametrize(
    ("value_s", "text"),
    [
        (None, "-"),
        (0.0, "0 s"),
        (1.0, "1.00 s"),
        (90.0, "90.0 s"),
        (3_600.0, "3,600 s"),
        (0.012345, "12.3 ms"),
        (0.0099999, "10.0 ms"),
        (0.000_050, "50.0 µs"),
        (3e-9, "3.00 ns"),
        (2e-10, "0.200 ns"),
        (-0.002, "-2.00 ms"),
    ],
)
def test_times_have_the_unit_that_fits(value_s: float | None, text: str) -> None:
    """Times have three digits, in the unit that fits."""
    assert seconds(value_s) == text


def test_shares_are_percent() -> None:
    """A share of 1 is 100 %."""
    assert [percent(None), percent(1.0), percent(0.8012), percent(-0.0196, 2)] == [
        "-",
        "100 %",
        "80.1 %",
        "-2.0 %",
    ]


def test_a_value_that_rounds_to_zero_has_no_sign() -> None:
    """A value that rounds to 0 has no sign."""
    assert percent(-1e-9) == "0 %"


def test_percentiles_have_the_names_that_people_use() -> None:
    """Percentiles have no trailing zeros."""
    assert [percentile_name(each) for each in (50.0, 99.0, 99.9, 99.99)] == [
        "p50",
        "p99",
        "p99.9",
        "p99.99",
    ]
