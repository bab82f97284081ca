"""The core keeps its promises on random hosts, and the simulation catches known bugs."""

from __future__ import annotations

import pytest

from tests.simulation.driver import Simulation, find_violation, trace
from tests.simulation.fingerprint import fingerprint
from tests.simulation.mutants import MUTANTS, mutated, seeds_until_caught
from tests.simulation.scenario import make_scenario


def _violations(seeds: range) -> dict[str, str]:
    """Return the violations by the commands that replay them."""
    found = {seed: find_violation(seed) for seed in seeds}
    replay = "python -m tests.simulation -v --seed"
    return {f"{replay} {seed}": each for seed, each in found.items() if each is not None}


def test_every_promise_holds_on_some_hosts() -> None:
    """Sixty seeds, each with another host, have no violation."""
    assert _violations(range(60)) == {}


@pytest.mark.long
def test_every_promise_holds_on_many_hosts() -> None:
    """A thousand more seeds have no violation."""
    assert _violations(range(1000, 2000)) == {}


def test_a_seed_replays_to_the_last_event() -> None:
    """Two runs of a seed have equal traces, line by line."""
    for seed in range(5):
        first: list[str] = []
        second: list[str] = []
        trace(seed, first.append)
        trace(seed, second.append)

        assert len(first) > 5
        assert first == second


def test_checking_the_invariants_changes_no_decision() -> None:
    """A seed has equal traces with and without the checks after each step."""
    for seed in range(20):
        traces: list[list[str]] = []
        for checks_invariants in (False, True):
            lines: list[str] = []
            scenario = make_scenario(seed)
            Simulation(scenario, emit=lines.append, checks_invariants=checks_invariants).run()
            traces.append(lines)

        assert traces[0] == traces[1]


def test_a_fingerprint_is_of_all_that_happens() -> None:
    """Equal seeds have equal fingerprints for any number of processes; other seeds differ."""
    assert fingerprint(range(8)) == fingerprint(range(8), jobs=2)
    assert fingerprint(range(8)) != fingerprint(range(1, 9))


def test_scenarios_reach_every_end() -> None:
    """Requests are done, failed, cancelled, expired and rejected, on devices of every health."""
    totals = dict.fromkeys(("done", "failed", "cancelled", "expired", "rejected"), 0)
    reloads = 0
    for seed in range(60):
        simulation = Simulation(make_scenario(seed), checks_invariants=False)
        simulation.run()
        statistics = simulation.core.statistics()
        totals = {name: total + getattr(statistics, name) for name, total in totals.items()}
        reloads += simulation.reloads

    assert min(totals.values()) > 20
    assert reloads > 10


def test_scenarios_have_outliers_that_go_into_quarantine() -> None:
    """The oracle distinguishes quarantined outliers from devices that fail."""
    scenarios = [make_scenario(seed) for seed in range(300)]
    too_slow = 0
    for scenario in scenarios:
        if any(each.slows_by > 10 for each in scenario.devices):
            simulation = Simulation(scenario, checks_invariants=False)
            simulation.run()
            too_slow += simulation.oracle.num_too_slow

    assert too_slow > 2


@pytest.mark.long
@pytest.mark.interpreted
@pytest.mark.parametrize("name", MUTANTS)
def test_known_bugs_are_caught(name: str) -> None:
    """Each known bug breaks a promise within a thousand seeds."""
    assert seeds_until_caught(name, 1000) is not None


@pytest.mark.interpreted
def test_a_known_bug_is_caught_without_the_invariants() -> None:
    """The oracle catches a bug without the core's own checks."""
    with mutated("resolve twice"):
        found = [find_violation(seed, checks_invariants=False) for seed in range(60)]

    assert any("resolved twice" in each for each in found if each is not None)
