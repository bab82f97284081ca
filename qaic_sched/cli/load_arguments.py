"""The options of `qaic-sched load`, each written once: its type, help and default.

`takes_arguments` derives the command's signature from the dataclass. `load_options` gives the
options their meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from typer import Argument, Option

__all__ = ["LoadArguments", "takes_arguments"]

T = TypeVar("T")

ABOVE_ZERO = 1e-6
"""The least value of a number that must be above 0."""

Scenario = Literal["open", "closed", "single-stream", "multi-stream", "server", "offline"]
Arrivals = Literal["constant", "poisson", "gamma", "mmpp", "step", "ramp", "trace"]


def _number(name: str, metavar: str, least: float, help_text: str) -> Any:
    return Option(name, metavar=metavar, min=least, help=help_text)


def _text(name: str, metavar: str, help_text: str) -> Any:
    return Option(name, metavar=metavar, help=help_text)


@dataclass(frozen=True, kw_only=True)
class LoadArguments:
    """The arguments as given on the command line; None, False or a default if not given."""

    target: Annotated[
        str,
        Argument(
            metavar="CONFIG_OR_URL",
            help="A configuration file, http://host:port[/model] or grpc://host:port[/model].",
        ),
    ]
    scenario: Annotated[
        Scenario | None,
        Option("--scenario", help="Default: open if a rate is given, closed otherwise."),
    ] = None
    rate: Annotated[
        float | None, _number("--rate", "R", ABOVE_ZERO, "open, server: requests per second.")
    ] = None
    arrivals: Annotated[
        Arrivals | None, Option("--arrivals", help="open: pattern of arrivals. Default: poisson.")
    ] = None
    cv: Annotated[
        float | None,
        _number("--cv", "CV", ABOVE_ZERO, "gamma: coefficient of variation of the gaps."),
    ] = None
    rates: Annotated[
        str | None, _text("--rates", "R,R,...", "step: rates in order, each for an equal time.")
    ] = None
    to_rate: Annotated[
        float | None,
        _number("--to-rate", "R", 0, "ramp: final rate; --rate is the first one."),
    ] = None
    burst_factor: Annotated[
        float | None,
        _number("--burst-factor", "F", 1, "mmpp: busy rate over mean rate. Default: 4."),
    ] = None
    burst_share: Annotated[
        float | None,
        _number("--burst-share", "P", ABOVE_ZERO, "mmpp: share of busy time. Default: 0.1."),
    ] = None
    cycle: Annotated[
        float | None,
        _number("--cycle", "S", ABOVE_ZERO, "mmpp: mean seconds between bursts. Default: 1."),
    ] = None
    trace: Annotated[
        Path | None, _text("--trace", "FILE", "trace: file of arrivals, CSV or JSON lines.")
    ] = None
    speedup: Annotated[
        float | None,
        _number("--speedup", "F", ABOVE_ZERO, "trace: replay this much faster. Default: 1."),
    ] = None
    concurrency: Annotated[
        int | None,
        _number(
            *("--concurrency", "N", 1),
            "closed: number of callers. Default: as many as fill the target.",
        ),
    ] = None
    duration: Annotated[
        float | None,
        _number(
            *("--duration", "S", ABOVE_ZERO),
            "Seconds of sending. Default: 30; 10 per run of a search or sweep; 600 for MLPerf"
            " scenarios; the length of a trace.",
        ),
    ] = None
    requests: Annotated[
        int | None,
        _number("--requests", "N", 1, "Stop after N requests or --duration, whichever is first."),
    ] = None
    samples: Annotated[
        int | None, _number("--samples", "N", 1, "Samples per request. Default: 1.")
    ] = None
    timeout_s: Annotated[
        float | None,
        _number("--timeout-s", "S", ABOVE_ZERO, "Deadline of each request. Default: none."),
    ] = None
    slo: Annotated[
        str | None,
        _text("--slo", "pP=TIME", "Limit of a latency percentile, like p99=15ms or p99.9=1s."),
    ] = None
    seed: Annotated[
        int, _number("--seed", "N", 0, "Seed of arrivals and inputs; repeat it to repeat a run.")
    ] = 1
    precise: Annotated[
        bool, Option("--precise", help="Send on time by spinning, which keeps one core busy.")
    ] = False
    processes: Annotated[
        int, _number("--processes", "N", 1, "Processes that send to a server.")
    ] = 1
    loadgen: Annotated[
        bool, Option("--loadgen", help="Run an MLPerf scenario under MLPerf's LoadGen as well.")
    ] = False
    find_rate: Annotated[
        bool, Option("--find-rate", help="Search for the highest rate that meets --slo.")
    ] = False
    sweep_rates: Annotated[
        str | None, _text("--sweep-rates", "R,R,...", "Make one run at each rate.")
    ] = None
    sweep_concurrency: Annotated[
        str | None,
        _text("--sweep-concurrency", "N,N,...", "Make one run with each number of callers."),
    ] = None
    sweep: Annotated[
        list[str] | None,
        _text(
            *("--sweep", "NAME=N,N,..."),
            "Make one run with each shape. NAME is devices, num_activations, set_size or batch"
            " (samples per request). May be repeated.",
        ),
    ] = None
    check_outputs: Annotated[
        bool,
        Option("--check-outputs", help="Compare sampled outputs with the outputs without load."),
    ] = False
    repeated_input: Annotated[
        bool, Option("--repeated-input", help="Test whether repeated inputs get faster answers.")
    ] = False
    input_path: Annotated[
        Path | None, _text("--input", "FILE.npz", "Rows to send. Default: random values.")
    ] = None
    model: Annotated[
        str | None, _text("--model", "NAME", "Model to load, if the configuration has several.")
    ] = None
    virtual: Annotated[
        bool, Option("--virtual", help="Run simulated cards in virtual time: fast, repeatable.")
    ] = False
    report: Annotated[
        Path | None,
        _text("--report", "DIR", "Write report, page, plots and raw records to this folder."),
    ] = None
    as_json: Annotated[bool, Option("--json", help="Print the report as JSON.")] = False


def takes_arguments(kind: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Make a function of one dataclass a typer command with an option for each field."""

    def decorate(function: Callable[[T], None]) -> Callable[..., None]:
        @wraps(function)
        def command(**given: Any) -> None:
            function(kind(**given))

        command.__signature__ = _signature(kind)  # type: ignore[attr-defined]
        return command

    return decorate


def _signature(kind: type) -> Signature:
    hints = get_type_hints(kind, include_extras=True)
    return Signature(
        [
            Parameter(
                field.name,
                Parameter.KEYWORD_ONLY,
                default=Parameter.empty if field.default is MISSING else field.default,
                annotation=hints[field.name],
            )
            for field in fields(kind)
        ]
    )
