"""Run the simulation: many seeds, the hash of their traces, one trace, or known bugs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.driver import describe, find_violation, trace
from tests.simulation.fingerprint import fingerprint
from tests.simulation.mutants import MUTANTS, seeds_until_caught

__all__ = ["main"]

_TRACE_LINES = 30
"""Lines of a violation's trace that are printed."""
_MAX_VIOLATIONS = 5
"""Violations after which a run stops."""
_PROGRESS_EVERY_S = 10.0
"""Time between two lines of progress."""
_CHUNK = 50
_MUTANT_SEEDS = 1000


def main() -> int:
    """Run the command line; return 1 if a promise broke or a known bug was not caught."""
    arguments = _parse()
    if arguments.mutants:
        return _run_mutants()
    if arguments.fingerprint:
        seeds = range(arguments.first, arguments.first + arguments.seeds)
        print(fingerprint(seeds, arguments.jobs))
        return 0
    if arguments.seed is not None:
        return _replay(arguments.seed, is_verbose=arguments.verbose)
    return _run_many(arguments.first, arguments.seeds, arguments.jobs)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="number of seeds")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="number of processes")
    parser.add_argument("--seed", type=int, help="run only this seed")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="print the whole trace of --seed"
    )
    parser.add_argument(
        "--fingerprint", action="store_true", help="print the hash of the seeds' traces"
    )
    parser.add_argument("--mutants", action="store_true", help="check that known bugs are caught")
    return parser.parse_args()


def _run_many(first: int, count: int, jobs: int) -> int:
    seeds, started, violations, reported_s = range(first, first + count), time.monotonic(), 0, 0.0
    with ProcessPoolExecutor(jobs) as executor:
        outcomes = executor.map(find_violation, seeds, chunksize=_CHUNK)
        for done, (seed, violation) in enumerate(zip(seeds, outcomes, strict=True), 1):
            if violation is not None:
                violations += 1
                _replay(seed, is_verbose=False)
            elapsed_s = time.monotonic() - started
            if elapsed_s - reported_s > _PROGRESS_EVERY_S:
                reported_s = elapsed_s
                print(f"{done} seeds in {elapsed_s:.0f} s", file=sys.stderr, flush=True)
            if violations == _MAX_VIOLATIONS:
                executor.shutdown(cancel_futures=True)
                break
    elapsed_s = time.monotonic() - started
    each_ms = 1e3 * elapsed_s * jobs / done
    print(f"{done} seeds from {first} in {elapsed_s:.1f} s ({each_ms:.1f} ms each)", end=": ")
    print(f"{violations} violations" if violations else "no violation")
    return 1 if violations else 0


def _replay(seed: int, *, is_verbose: bool) -> int:
    """Run one seed; print its trace, or only the end of it if a promise breaks."""
    lines: deque[str] = deque(maxlen=_TRACE_LINES)
    try:
        trace(seed, print if is_verbose else lines.append)
    except Exception as error:  # any exception is a bug of the core
        print(*lines, sep="\n", end="\n" if lines else "")
        print(f"seed {seed}: {describe(error)}")
        print(f"replay: python -m tests.simulation --seed {seed} -v", flush=True)
        return 1
    print(f"seed {seed}: no violation")
    return 0


def _run_mutants() -> int:
    """Print after how many seeds each known bug is caught, by all checks and the oracle alone."""
    missed = 0
    for name in MUTANTS:
        caught = seeds_until_caught(name, _MUTANT_SEEDS)
        alone = seeds_until_caught(name, _MUTANT_SEEDS, checks_invariants=False)
        missed += caught is None
        print(f"{name}: {_describe(caught)}; by the oracle alone {_describe(alone)}", flush=True)
    print(f"{missed} not caught" if missed else "all caught")
    return 1 if missed else 0


def _describe(caught: tuple[int, str] | None) -> str:
    if caught is None:
        return f"not caught in {_MUTANT_SEEDS} seeds"
    seeds, violation = caught
    return f"after {seeds} ({violation[:90]})"


if __name__ == "__main__":
    sys.exit(main())
