"""ONNX's backend suite through the Scheduler: the same answers, or one clear refusal.

Each case runs as it came ("plain"), "compiled", and with a symbol for its first dimension and
padding ("symbolic"): alone, then between other callers' rows, then alone again.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import pytest

from tests.strangers.suite_check import ACCEPTED
from tests.strangers.suite_runner import Finding, run_cases

MODES = ("plain", "compiled", "symbolic")
SAMPLE_STEP = 34


@lru_cache
def case_names() -> list[str]:
    """All cases; reading them takes seconds, so only the tests that need them do."""
    from tests.strangers.suite_cases import all_cases

    return sorted(all_cases())


def failures(findings: list[Finding]) -> str:
    """One line for each case that gave neither the right answer nor a refusal."""
    return "\n".join(str(each) for each in findings if each.verdict not in ACCEPTED)


@lru_cache
def sample_findings() -> list[Finding]:
    """The verdicts on every 34th case, in all modes."""
    sample = case_names()[::SAMPLE_STEP]
    return run_cases([(mode, name) for mode in MODES for name in sample])


@pytest.mark.long
@pytest.mark.parametrize("mode", ["plain", "compiled", "symbolic"])
def test_a_sample_of_the_suite_gives_the_same_or_one_clear_refusal(mode: str) -> None:
    """Every 34th case does, and a third of them at least runs."""
    findings = [each for each in sample_findings() if each.mode == mode]

    assert failures(findings) == ""
    assert Counter(each.verdict for each in findings)["same"] > len(findings) / 3


@pytest.mark.strangers
@pytest.mark.parametrize(
    ("mode", "fewest"), [("plain", 1600), ("compiled", 1600), ("symbolic", 700)]
)
def test_every_case_gives_the_same_or_one_clear_refusal(mode: str, fewest: int) -> None:
    """Whatever onnxruntime passes does, also between other callers' rows; and most of it runs."""
    findings = run_cases([(mode, name) for name in case_names()])
    counts = Counter(each.verdict for each in findings)
    print(mode, dict(counts))

    assert failures(findings) == ""
    assert counts["same"] >= fewest


def test_a_case_that_ends_its_process_is_reported_and_the_next_one_runs() -> None:
    """A crash costs one verdict."""
    findings = run_cases([("plain", "!abort"), ("plain", "!abort")])

    assert [each.verdict for each in findings] == ["crash", "crash"]


def test_a_case_that_never_ends_is_reported() -> None:
    """It is ended after its time limit."""
    findings = run_cases([("plain", "!sleep")], limit_s=0.1)

    assert [each.verdict for each in findings] == ["hang"]
