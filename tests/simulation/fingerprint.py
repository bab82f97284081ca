"""One hash over every event and decision of many seeds: a rewrite must not change it.

The hash covers the lines of event logs, whose names are part of their format. So renaming classes
and attributes of the core does not change it.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from qaic_sched.scheduler.event_log import EventLog
from tests.simulation.driver import Simulation
from tests.simulation.scenario import make_scenario

__all__ = ["event_log_of", "fingerprint"]


def event_log_of(seed: int, path: Path) -> None:
    """Run a seed and write its event log to `path`."""
    scenario = make_scenario(seed)
    log = EventLog(str(path))
    log.start(f"seed {seed}", scenario.policy)
    try:
        Simulation(scenario, log=log, checks_invariants=False).run()
    finally:
        log.close()


def fingerprint(seeds: Iterable[int], jobs: int = 1) -> str:
    """Return the hash of the event logs of these seeds, in their order."""
    with ProcessPoolExecutor(jobs) as executor:
        digests = executor.map(_digest, seeds, chunksize=25)
        return sha256(b"".join(digests)).hexdigest()


def _digest(seed: int) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        event_log_of(seed, path)
        return sha256(path.read_bytes()).digest()
