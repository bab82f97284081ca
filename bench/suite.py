"""The benchmark runner: `python -m bench`, or `python -m bench NAME --json FILE`.

Rules of this file:
- A benchmark is a module of this package with `measure(is_short)`. Each runs in a new process.
- The exit status is 1 if a target is missed. The short form is too rough for targets; there it is
  1 if a ratio is far worse than the one recorded in `floors.json`.
"""

from __future__ import annotations

import argparse
import gc
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench.result import Result, this_machine, to_json
from bench.rounds import run_apart

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["BENCHMARKS", "failures", "main", "measure_in", "read_floors", "table"]

NAMES = "dispatch threadpool record server real_model overhead scale memory"
BENCHMARKS = {name: f"bench.{name}" for name in NAMES.split()}
"""Name -> module of each benchmark."""
FLOORS = Path(__file__).with_name("floors.json")
SLACK = 0.5
"""The fraction by which a ratio of the short form may be worse than recorded; a larger difference
is not noise, whatever the machine."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the selected benchmarks, print their results and return the exit status."""
    options = _parse(arguments)
    if options.list:
        for name, module in BENCHMARKS.items():
            print(f"{name:12}{_first_line(module)}")
        return 0
    floors = read_floors(FLOORS, this_machine().core) if options.short else None
    results: list[Result] = []
    print(f"core: {this_machine().core}")
    for name in options.names or BENCHMARKS:
        module = BENCHMARKS[name]
        print(f"{name}: {_first_line(module)}", flush=True)
        found = run_apart(measure_in, module, options.short)
        print(table(found, floors), flush=True)
        results += found
    if options.json is not None:
        options.json.write_bytes(to_json(results))
    wrong = failures(results, floors)
    for line in wrong:
        print(line)
    return 1 if wrong else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Compare qaic_sched with what a user would use instead.",
        epilog="example: python -m bench dispatch record --json figures.json",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"benchmark to run; default: all of {', '.join(BENCHMARKS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results as JSON")
    parser.add_argument(
        "--short",
        action="store_true",
        help="run a few seconds each and compare with recorded ratios, for continuous integration",
    )
    parser.add_argument("--list", action="store_true", help="list the benchmarks and exit")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in BENCHMARKS:
            parser.error(f"{name}: no such benchmark; choose from {', '.join(BENCHMARKS)}")
    return options


def _first_line(module: str) -> str:
    return (importlib.import_module(module).__doc__ or "").partition("\n")[0]


def measure_in(module: str, is_short: bool) -> list[Result]:
    """Run the benchmark of a module in this process, which must be a new one."""
    this_machine()  # describe the machine before the benchmark loads it
    benchmark = importlib.import_module(module)
    # As a service does after its start: collections skip everything imported so far.
    gc.collect()
    gc.freeze()
    found: list[Result] = benchmark.measure(is_short)
    return found


def read_floors(path: Path, core: str) -> dict[str, float]:
    """Read the recorded ratios of the short form for a core ("C" or "Python"), by result key."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, float]])[core]


def table(results: Sequence[Result], floors: Mapping[str, float] | None) -> str:
    """Format results with their targets, or with recorded ratios if `floors` is given."""
    return "\n".join(line for each in results for line in _lines(each, floors))


def _lines(result: Result, floors: Mapping[str, float] | None) -> list[str]:
    lines = [
        f"  {result.metric:<34}{_number(result.value):>12} {result.unit:<4}"
        f"{result.ratio:>9.3f} x {result.baseline} ({_number(result.baseline_value)})"
    ]
    if floors is None:
        for each in result.targets:
            word = "MISSED" if each in result.missed else "reached"
            lines.append(f"      target: {each.of} {each.bound} {each.limit:,g}: {word}")
    elif result.key in floors:
        word = "holds" if result.holds(floors[result.key], SLACK) else "WORSE"
        lines.append(f"      recorded: {floors[result.key]:.3f}: {word}")
    if result.note:
        lines.append(f"      {result.note}")
    return lines


def _number(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def failures(results: Sequence[Result], floors: Mapping[str, float] | None) -> list[str]:
    """Return a line for each missed target.

    With floors: a line for each ratio worse than its floor, and for each floor without a result.
    """
    if floors is None:
        return [
            f"MISSED {each.key}: the target is a {target.of} of {target.bound} {target.limit:,g}, "
            f"measured {_number(each.value if target.of == 'value' else each.ratio)}"
            for each in results
            for target in each.missed
        ]
    worse = [
        f"WORSE {each.key}: the recorded ratio is {floors[each.key]:.3f}, measured {each.ratio:.3f}"
        for each in results
        if each.key in floors and not each.holds(floors[each.key], SLACK)
    ]
    known, ran = {each.key for each in results}, {each.benchmark for each in results}
    lost = [each for each in floors if each.partition(":")[0] in ran and each not in known]
    return worse + [f"LOST {each}: recorded, but no result has this name" for each in lost]
