"""Runs the benchmarks: `python -m bench` all of them, `python -m bench NAME --json FILE` one.

Rules of the file:
- A benchmark is a module of this package with `measure(is_short)`; each runs in its own process.
- The exit status is 1 where something asked for was not reached; in the short form, whose figures
  are too rough for that, where a ratio is worse than the one recorded in `floors.json`.
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
"""Name -> module."""
FLOORS = Path(__file__).with_name("floors.json")
SLACK = 0.5
"""How much worse than recorded a ratio of the short form may be, as a share: what is beyond is no
noise, on whatever machine."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks that were asked for and print what they found; the exit status."""
    options = _parse(arguments)
    if options.list:
        for name, module in BENCHMARKS.items():
            print(f"{name:12}{_first_line(module)}")
        return 0
    floors = read_floors(FLOORS, this_machine().core) if options.short else None
    results: list[Result] = []
    print(f"the core runs as {this_machine().core}")
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
        description="Measures qaic_sched beside what a user would take instead.",
        epilog="example: python -m bench dispatch record --json figures.json",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument(
        "--short",
        action="store_true",
        help="some seconds each, held against recorded ratios: for continuous integration",
    )
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in BENCHMARKS:
            parser.error(f"{name}: no such benchmark; there are {', '.join(BENCHMARKS)}")
    return options


def _first_line(module: str) -> str:
    return (importlib.import_module(module).__doc__ or "").partition("\n")[0]


def measure_in(module: str, is_short: bool) -> list[Result]:
    """What the benchmark of a module finds in this process, which is to be a fresh one."""
    this_machine()  # as it is before we load it
    benchmark = importlib.import_module(module)
    # As a service does once it has started: no collection looks at all that was imported again.
    gc.collect()
    gc.freeze()
    found: list[Result] = benchmark.measure(is_short)
    return found


def read_floors(path: Path, core: str) -> dict[str, float]:
    """The recorded ratios of the short form with such a core, by a result's key."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, float]])[core]


def table(results: Sequence[Result], floors: Mapping[str, float] | None) -> str:
    """The results for a reader, with what was asked for, or what was recorded, beside each."""
    return "\n".join(line for each in results for line in _lines(each, floors))


def _lines(result: Result, floors: Mapping[str, float] | None) -> list[str]:
    lines = [
        f"  {result.metric:<34}{_number(result.value):>12} {result.unit:<4}"
        f"{result.ratio:>9.3f} x {_number(result.baseline_value)} of {result.baseline}"
    ]
    if floors is None:
        for each in result.asked:
            word = "MISSED" if each in result.missed else "reached"
            lines.append(f"      asked: {each.of} {each.bound} {each.limit:,g}: {word}")
    elif result.key in floors:
        word = "holds" if result.holds(floors[result.key], SLACK) else "WORSE"
        lines.append(f"      recorded: {floors[result.key]:.3f}: {word}")
    if result.note:
        lines.append(f"      {result.note}")
    return lines


def _number(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def failures(results: Sequence[Result], floors: Mapping[str, float] | None) -> list[str]:
    """A line for each bound that was missed.

    With floors, for each ratio worse than its floor, and each floor that has lost its figure.
    """
    if floors is None:
        return [
            f"MISSED {each.key}: {asked.of} {asked.bound} {asked.limit:,g} was asked for, "
            f"it is {_number(each.value if asked.of == 'value' else each.ratio)}"
            for each in results
            for asked in each.missed
        ]
    worse = [
        f"WORSE {each.key}: the ratio is {each.ratio:.3f}, recorded is {floors[each.key]:.3f}"
        for each in results
        if each.key in floors and not each.holds(floors[each.key], SLACK)
    ]
    known, ran = {each.key for each in results}, {each.benchmark for each in results}
    lost = [each for each in floors if each.partition(":")[0] in ran and each not in known]
    return worse + [f"LOST {each}: it is recorded, and no figure has that name" for each in lost]
