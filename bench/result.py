"""Results of benchmarks: a value, its baseline, their ratio, the targets and the machine.

Rules of this file:
- A value and its baseline are medians of the same alternating rounds.
- A target is stored together with the measured value and never replaces it.
"""

from __future__ import annotations

import os
import platform
import time
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct, field

from qaic_sched.core import state

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Machine",
    "PerformanceTarget",
    "Result",
    "at_least",
    "at_most",
    "compare",
    "from_json",
    "this_machine",
    "to_json",
]

PACKAGES = ("numpy", "uvloop", "anyio", "msgspec", "onnxruntime")


class Machine(Struct, frozen=True):
    """The machine and the time of a measurement; `load_average` covers the minute before it.

    `core` is "C" if the scheduler's core is compiled, else "Python".
    """

    cpu: str
    cores: int
    system: str
    python: str
    core: str
    packages: dict[str, str]
    load_average: float
    taken_at: str


@lru_cache
def this_machine() -> Machine:
    """Describe this machine, once: the first call must precede the load of a benchmark."""
    return Machine(
        cpu=_cpu(),
        cores=_cores(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        core="Python" if state.__file__.endswith(".py") else "C",
        packages={name: version for name in PACKAGES if (version := _version(name))},
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else -1.0,
        taken_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


class PerformanceTarget(Struct, frozen=True):
    """A bound that the project sets for a value, or for its ratio to the baseline."""

    of: Literal["value", "ratio"]
    bound: Literal["at least", "at most"]
    limit: float

    def is_met(self, number: float) -> bool:
        """Return True if a number keeps the bound."""
        return number >= self.limit if self.bound == "at least" else number <= self.limit


def at_least(limit: float, of: Literal["value", "ratio"] = "ratio") -> PerformanceTarget:
    """Make a target with a lower bound."""
    return PerformanceTarget(of, "at least", limit)


def at_most(limit: float, of: Literal["value", "ratio"] = "ratio") -> PerformanceTarget:
    """Make a target with an upper bound."""
    return PerformanceTarget(of, "at most", limit)


class Result(Struct, frozen=True, kw_only=True):
    """One measurement; `ratio` is `value` / `baseline_value`."""

    benchmark: str
    metric: str
    value: float
    unit: str
    baseline: str
    baseline_value: float
    ratio: float
    better: Literal["higher", "lower"]
    targets: tuple[PerformanceTarget, ...] = field(default=(), name="asked")
    rounds: int = 1
    note: str = ""
    machine: Machine = field(default_factory=this_machine)

    @property
    def key(self) -> str:
        """The name of the measurement, unique among all benchmarks."""
        return f"{self.benchmark}: {self.metric} / {self.baseline}"

    @property
    def missed(self) -> list[PerformanceTarget]:
        """The targets that were not reached."""
        numbers = {"value": self.value, "ratio": self.ratio}
        return [each for each in self.targets if not each.is_met(numbers[each.of])]

    def holds(self, floor: float, slack: float) -> bool:
        """Return True if the ratio is at most the fraction `slack` worse than a recorded one."""
        if self.better == "higher":
            return self.ratio >= floor * (1 - slack)
        return self.ratio <= floor / (1 - slack)


def compare(
    benchmark: str,
    metric: str,
    unit: str,
    ours: Sequence[float],
    baseline: str,
    theirs: Sequence[float],
    *,
    better: Literal["higher", "lower"] = "higher",
    targets: Sequence[PerformanceTarget] = (),
    note: str = "",
) -> Result:
    """Make a result from the medians of our rounds and of the baseline's.

    `theirs` may be a single known number.
    """
    value, baseline_value = median(ours), median(theirs)
    return Result(
        benchmark=benchmark,
        metric=metric,
        value=value,
        unit=unit,
        baseline=baseline,
        baseline_value=baseline_value,
        ratio=value / baseline_value,
        better=better,
        targets=tuple(targets),
        rounds=len(ours),
        note=note,
    )


def to_json(results: Sequence[Result]) -> bytes:
    """Encode results as a JSON list of objects."""
    return msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n"


def from_json(text: bytes) -> list[Result]:
    """Decode the output of `to_json`."""
    return msgspec.json.decode(text, type=list[Result])
