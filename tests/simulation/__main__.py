"""`python -m tests.simulation`: many seeds on all cores, their hash, one trace, or known bugs."""

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

_LAST = 30
"""How much of a violation's trace is printed."""
_ENOUGH = 5
"""Violations after which a run stops."""
_EVERY_S = 10.0
"""How often progress is told."""
_CHUNK = 50
_MUTANT_SEEDS = 1000


def main() -> int:
    """Do what the command line says; 1 where a promise broke or a known bug went unnoticed."""
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
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--seed", type=int, help="run this one seed")
    parser.add_argument("-v", "--verbose", action="store_true", help="print all of its trace")
    parser.add_argument("--fingerprint", action="store_true", help="print a hash of their traces")
    parser.add_argument("--mutants", action="store_true", help="put known bugs back")
    return parser.parse_args()


def _run_many(first: int, count: int, jobs: int) -> int:
    seeds, started, violations, told = range(first, first + count), time.monotonic(), 0, 0.0
    with ProcessPoolExecutor(jobs) as executor:
        outcomes = executor.map(find_violation, seeds, chunksize=_CHUNK)
        for done, (seed, violation) in enumerate(zip(seeds, outcomes, strict=True), 1):
            if violation is not None:
                violations += 1
                _replay(seed, is_verbose=False)
            elapsed_s = time.monotonic() - started
            if elapsed_s - told > _EVERY_S:
                told = elapsed_s
                print(f"{done} seeds in {elapsed_s:.0f} s", file=sys.stderr, flush=True)
            if violations == _ENOUGH:
                executor.shutdown(cancel_futures=True)
                break
    elapsed_s = time.monotonic() - started
    each_ms = 1e3 * elapsed_s * jobs / done
    print(f"{done} seeds from {first} in {elapsed_s:.1f} s ({each_ms:.1f} ms each)", end=": ")
    print(f"{violations} violations" if violations else "no violation")
    return 1 if violations else 0


def _replay(seed: int, *, is_verbose: bool) -> int:
    """Run one seed; print the end of its trace if a promise breaks, or all of it anyway."""
    lines: deque[str] = deque(maxlen=_LAST)
    try:
        trace(seed, print if is_verbose else lines.append)
    except Exception as error:  # whatever the core raises is its fault
        print(*lines, sep="\n", end="\n" if lines else "")
        print(f"seed {seed}: {describe(error)}")
        print(f"replay: python -m tests.simulation --seed {seed} -v", flush=True)
        return 1
    print(f"seed {seed}: no violation")
    return 0


def _run_mutants() -> int:
    """Say after how many seeds each known bug is caught, by all checks and by the oracle alone."""
    missed = 0
    for name in MUTANTS:
        caught = seeds_until_caught(name, _MUTANT_SEEDS)
        alone = seeds_until_caught(name, _MUTANT_SEEDS, checks_invariants=False)
        missed += caught is None
        print(f"{name}: {_told(caught)}; by the oracle alone {_told(alone)}", flush=True)
    print(f"{missed} not caught" if missed else "all caught")
    return 1 if missed else 0


def _told(caught: tuple[int, str] | None) -> str:
    if caught is None:
        return f"not caught in {_MUTANT_SEEDS} seeds"
    seeds, violation = caught
    return f"after {seeds} ({violation[:90]})"


if __name__ == "__main__":
    sys.exit(main())
