"""The meaning of the options of `qaic-sched load`, and which of them exclude each other.

Rules of this file:
- Every mistake that can be found before the target is open raises a `ConfigError` here, which
  begins with the option and says how to correct it.
- The rates of options are requests per second, like `--rate`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from qaic_sched.cli.load_arguments import LoadArguments
from qaic_sched.errors import ConfigError
from qaic_sched.loadgen.plan.arrivals import schedule
from qaic_sched.loadgen.plan.plan import Constant, Gamma, Mmpp, Poisson, Ramp, Slo, Step, Trace
from qaic_sched.loadgen.plan.scenarios import is_official

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.loadgen.plan.plan import Arrivals, Scenario

__all__ = ["LoadOptions", "check", "numbers"]

T = TypeVar("T", int, float)

SEARCHES = ("find_rate", "sweep_rates", "sweep_concurrency", "sweep")
SHAPE = ("devices", "num_activations", "set_size", "batch")
KIND_OF = {
    "cv": "gamma",
    "rates": "step",
    "to_rate": "ramp",
    "burst_factor": "mmpp",
    "burst_share": "mmpp",
    "cycle": "mmpp",
    "trace": "trace",
    "speedup": "trace",
}
"""Option -> the arrivals that it belongs to, and that it implies."""
NEEDS = {"gamma": "cv", "step": "rates", "ramp": "to_rate", "trace": "trace"}
OF_ARRIVALS = ("arrivals", *KIND_OF)
WITHOUT_RATE = ("step", "trace")
SCALABLE = ("constant", "poisson", "gamma", "mmpp")
"""Arrivals with one mean rate, which a search can vary."""
UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_SLO = re.compile(r"p(\d+(?:\.\d+)?)=(\d+(?:\.\d+)?)\s*(us|µs|ms|s)")


@dataclass(frozen=True, kw_only=True)
class LoadOptions(LoadArguments):
    """The options, and what follows from them."""

    @property
    def is_server(self) -> bool:
        """Whether the target is a server's address, not a configuration file."""
        return "://" in self.target

    @property
    def kind(self) -> Scenario:
        """The scenario; without --scenario, open if any option of arrivals is given."""
        if self.scenario is not None:
            name: Any = self.scenario.replace("-", "_")
            return name  # type: ignore[no-any-return]
        opens = ("rate", *OF_ARRIVALS, "find_rate", "sweep_rates")
        return "open" if any(map(self.has, opens)) else "closed"

    @property
    def arrivals_kind(self) -> str:
        """The arrivals; without --arrivals, those that another option implies, or poisson."""
        implied = (kind for name, kind in KIND_OF.items() if self.has(name))
        return self.arrivals or next(implied, "poisson")

    @property
    def search(self) -> str | None:
        """The option of the search or sweep, if there is one."""
        return next((name for name in SEARCHES if self.has(name)), None)

    def has(self, name: str) -> bool:
        """Return whether an option was given."""
        value = getattr(self, name)
        if name == "processes":
            return bool(value > 1)
        # 0 counts as given: a ramp may end there.
        return value is not None and value is not False and value != []

    def parsed_slo(self) -> Slo | None:
        """Parse --slo: `p99=15ms`."""
        if self.slo is None:
            return None
        found = _SLO.fullmatch(self.slo.strip())
        if found is None:
            raise ConfigError(f"--slo: {self.slo}: expected a percentile and a time, like p99=15ms")
        percentile, limit_s = float(found[1]), float(found[2]) * UNITS[found[3]]
        if not 0 < percentile < 100 or limit_s <= 0:
            raise ConfigError(f"--slo: {self.slo}: expected a percentile below 100, a time above 0")
        return Slo(percentile, limit_s)

    def parsed_arrivals(self) -> Arrivals:
        """Return the arrivals of an open loop; at 1 per second if a search sets the rate."""
        rate = 1.0 if self.rate is None else self.rate
        match self.arrivals_kind:
            case "constant":
                return Constant(rate)
            case "gamma":
                return Gamma(rate, self.cv or 1.0)
            case "mmpp":
                given = (self.burst_factor, self.burst_share, self.cycle)
                return Mmpp(rate, *_or_defaults(given))
            case "step":
                return Step(numbers("--rates", self.rates or "", float, 0.0))
            case "ramp":
                return Ramp(rate, self.to_rate or 0.0)
            case "trace":
                return Trace(str(self.trace), self.speedup or 1.0)
        return Poisson(rate)

    def shape(self) -> dict[str, tuple[int, ...]]:
        """Parse --sweep: name -> values."""
        shape: dict[str, tuple[int, ...]] = {}
        for each in self.sweep or ():
            name, _, values = each.partition("=")
            name = name.strip().replace("-", "_")
            if name not in SHAPE:
                raise ConfigError(
                    f"--sweep: {each}: expected NAME=N,N,... with NAME of {', '.join(SHAPE)}"
                )
            if name in shape:
                raise ConfigError(
                    f"--sweep: {name} is given twice: give all of its values together"
                )
            shape[name] = numbers(f"--sweep {name}", values, int, 1)
        return shape


def _or_defaults(given: tuple[float | None, ...]) -> tuple[float, ...]:
    defaults = Mmpp.__struct_defaults__
    return tuple(d if g is None else g for g, d in zip(given, defaults, strict=True))


def numbers(option: str, text: str, kind: Callable[[str], T], least: T) -> tuple[T, ...]:
    """Parse comma-separated numbers of at least `least`; `ConfigError` names the option."""
    try:
        values = tuple(kind(each) for each in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(least <= each < float("inf") for each in values):
        raise ConfigError(f"{option}: {text!r}: expected comma-separated numbers, like 1,2,4")
    return values


def check(options: LoadOptions) -> None:
    """Raise `ConfigError` for options that are invalid or exclude each other."""
    _check_search(options)
    if is_official(options.kind):
        _check_official(options)
    elif options.kind == "open":
        _check_open(options)
    else:
        _check_closed(options)
    _check_target(options)
    _check_parts(options)
    options.parsed_slo()
    options.shape()


def _check_search(options: LoadOptions) -> None:
    given = [name for name in SEARCHES if options.has(name)]
    if len(given) > 1:
        named = " and ".join(map(_spelled, given))
        raise ConfigError(f"{named}: only one search or sweep can be given")
    if options.search == "find_rate" and options.slo is None:
        raise ConfigError("--find-rate: needs a limit: add --slo, like --slo p99=15ms")
    if options.search == "sweep_rates":
        numbers("--sweep-rates", options.sweep_rates or "", float, 1e-6)
        _refuse(options, "the sweep sets the rates", "sweep_rates", "rate")
    if options.search == "sweep_concurrency":
        numbers("--sweep-concurrency", options.sweep_concurrency or "", int, 1)
        _refuse(options, "the sweep sets the callers", "sweep_concurrency", "concurrency")
    if options.search is not None:
        why = "it tests a single run: leave out the search"
        _refuse(options, why, options.search, "check_outputs", "repeated_input", "loadgen")
    if "batch" in options.shape():
        _refuse(options, "batch sets the samples per request", "sweep", "samples")


def _check_official(options: LoadOptions) -> None:
    name = (options.scenario or "") + " is MLPerf's"
    scenario = f"--scenario {options.scenario}"
    why = f"{name}, whose rules set how requests are sent: use --scenario open or closed"
    _refuse_in(scenario, options, why, *OF_ARRIVALS, "concurrency", "samples", *SEARCHES)
    if options.kind != "offline":
        why = f"{name}, which takes --duration instead"
        _refuse_in(scenario, options, why, "requests")
    if options.kind != "server":
        _refuse_in(scenario, options, "only server and open have a rate", "rate")
        _refuse_in(scenario, options, "it has no schedule to keep", "precise")
    elif options.rate is None or options.slo is None:
        missing = "--rate" if options.rate is None else "--slo, like --slo p99=15ms"
        raise ConfigError(f"{scenario}: needs a rate and a limit: add {missing}")


def _check_open(options: LoadOptions) -> None:
    why = "only a closed loop has callers: use --scenario closed"
    _refuse_in("an open loop", options, why, "concurrency", "sweep_concurrency")
    kind = options.arrivals_kind
    for name, owner in KIND_OF.items():
        if options.has(name) and owner != kind:
            raise ConfigError(f"{_spelled(name)}: belongs to --arrivals {owner}, not to {kind}")
    needed = NEEDS.get(kind)
    if needed is not None and not options.has(needed):
        raise ConfigError(f"--arrivals {kind}: add {_spelled(needed)}")
    if options.search in ("find_rate", "sweep_rates") and kind not in SCALABLE:
        raise ConfigError(
            f"--arrivals {kind}: {_spelled(options.search)} needs arrivals with one mean rate: "
            f"{', '.join(SCALABLE)}"
        )
    if kind in WITHOUT_RATE:
        why = f"--arrivals {kind} sets the rate: leave it out"
        _refuse_in("--rate", options, why, "rate")
    elif options.rate is None and options.search not in ("find_rate", "sweep_rates"):
        raise ConfigError("--rate: missing: an open loop needs its requests per second")
    schedule(options.parsed_arrivals(), options.duration or 1e-3, 0, 1)


def _check_closed(options: LoadOptions) -> None:
    why = "callers send when they have an answer: use --scenario open for a rate"
    _refuse_in("a closed loop", options, why, "rate", *OF_ARRIVALS, "sweep_rates", "find_rate")
    why = "it has no schedule to keep: leave it out"
    _refuse_in("a closed loop", options, why, "precise")


def _check_target(options: LoadOptions) -> None:
    if options.is_server:
        why = "it needs a configuration file"
        _refuse_in("an address", options, why, "virtual", "sweep")
        name = "http://host:port/NAME"
        _refuse_in("an address", options, f"the model is part of the address: {name}", "model")
    else:
        why = "only a server can be loaded from several processes"
        _refuse_in("a configuration file", options, why, "processes")


def _check_parts(options: LoadOptions) -> None:
    if options.loadgen and not is_official(options.kind):
        wanted = "single-stream, multi-stream, server or offline"
        raise ConfigError(f"--loadgen: runs MLPerf's scenarios only: use --scenario {wanted}")
    if options.loadgen:
        why = "LoadGen runs in a thread of this process, in real time"
        _refuse(options, why, "loadgen", "virtual", "processes")
    if options.processes > 1:
        why = "the answers are in the other processes"
        _refuse(options, why, "processes", "check_outputs", "repeated_input")


def _refuse(options: LoadOptions, why: str, name: str, *others: str) -> None:
    _refuse_in(_spelled(name), options, why, *others)


def _refuse_in(where: str, options: LoadOptions, why: str, *names: str) -> None:
    for name in names:
        if options.has(name):
            what = _spelled(name)
            raise ConfigError(
                f"{what}: {why}" if what == where else f"{what}: not with {where}: {why}"
            )


def _spelled(name: str) -> str:
    return "--" + name.replace("_", "-")
