"""The core keeps its promises on random hosts, and the simulation notices when it does not."""

from __future__ import annotations

import pytest

from tests.simulation.driver import Simulation, find_violation, trace
from tests.simulation.fingerprint import fingerprint
from tests.simulation.mutants import MUTANTS, mutated, seeds_until_caught
from tests.simulation.scenario import make_scenario


def _violations(seeds: range) -> dict[str, str]:
    """What breaks, by the command that replays it."""
    found = {seed: find_violation(seed) for seed in seeds}
    replay = "python -m tests.simulation -v --seed"
    return {f"{replay} {seed}": each for seed, each in found.items() if each is not None}


def test_every_promise_holds_on_some_hosts() -> None:
    """Sixty seeds, each a host of its own."""
    assert _violations(range(60)) == {}


@pytest.mark.long
def test_every_promise_holds_on_many_hosts() -> None:
    """A thousand more."""
    assert _violations(range(1000, 2000)) == {}


def test_a_seed_replays_to_the_last_event() -> None:
    """The same seed gives the same trace, line by line."""
    for seed in range(5):
        first: list[str] = []
        second: list[str] = []
        trace(seed, first.append)
        trace(seed, second.append)

        assert len(first) > 5
        assert first == second


def test_a_fingerprint_is_of_all_that_happens() -> None:
    """The same seeds have the same one, whoever computes it, and no others have."""
    assert fingerprint(range(8)) == fingerprint(range(8), jobs=2)
    assert fingerprint(range(8)) != fingerprint(range(1, 9))


def test_scenarios_reach_every_end() -> None:
    """Requests are done, failed, cancelled, expired and rejected, on devices of every health."""
    totals = dict.fromkeys(("done", "failed", "cancelled", "expired", "rejected"), 0)
    reloads = 0
    for seed in range(60):
        simulation = Simulation(make_scenario(seed), checks_invariants=False)
        simulation.run()
        told = simulation.core.statistics()
        totals = {name: total + getattr(told, name) for name, total in totals.items()}
        reloads += simulation.reloads

    assert min(totals.values()) > 20
    assert reloads > 10


def test_scenarios_have_devices_that_are_shut_for_being_slow() -> None:
    """And the oracle tells them from those that fail."""
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
def test_known_bugs_are_noticed(name: str) -> None:
    """Each, put back into the core, breaks a promise within a thousand seeds."""
    assert seeds_until_caught(name, 1000) is not None


@pytest.mark.interpreted
def test_a_known_bug_is_noticed_without_the_invariants() -> None:
    """The oracle needs none of the core's own checks."""
    with mutated("resolve twice"):
        found = [find_violation(seed, checks_invariants=False) for seed in range(60)]

    assert any("resolved twice" in each for each in found if each is not None)
