"""The options of `qaic-sched load` as typer knows them. What they mean: `load_options`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

LEAST = 1e-6


ScenarioName = Literal["open", "closed", "single-stream", "multi-stream", "server", "offline"]
ArrivalsName = Literal["constant", "poisson", "gamma", "mmpp", "step", "ramp", "trace"]

TargetArgument = Annotated[
    str,
    Argument(
        metavar="CONFIG_OR_URL",
        help="A configuration file, http://host:port[/model] or grpc://host:port[/model].",
    ),
]
Scenario = Annotated[
    ScenarioName | None,
    Option("--scenario", help="By default open if a rate is given, else closed."),
]
Rate = Annotated[
    float | None,
    Option("--rate", metavar="R", min=LEAST, help="Requests a second of an open loop."),
]
Arrivals = Annotated[
    ArrivalsName | None, Option("--arrivals", help="When they are due: poisson by default.")
]
Cv = Annotated[
    float | None,
    Option("--cv", metavar="CV", min=LEAST, help="gamma: coefficient of variation of the gaps."),
]
Rates = Annotated[
    str | None,
    Option("--rates", metavar="R,R,...", help="step: one rate after the other, equally long."),
]
ToRate = Annotated[
    float | None,
    Option("--to-rate", metavar="R", min=0, help="ramp: evenly from --rate to this one."),
]
BurstFactor = Annotated[
    float | None,
    Option("--burst-factor", metavar="F", min=1, help="mmpp: busy rate over mean rate; 4."),
]
BurstShare = Annotated[
    float | None,
    Option("--burst-share", metavar="P", min=LEAST, help="mmpp: share of busy time; 0.1."),
]
Cycle = Annotated[
    float | None,
    Option("--cycle", metavar="S", min=LEAST, help="mmpp: mean seconds from burst to burst; 1."),
]
Trace = Annotated[
    Path | None,
    Option("--trace", metavar="FILE", help="trace: arrivals of a file, CSV or JSON lines."),
]
Speedup = Annotated[
    float | None,
    Option("--speedup", metavar="F", min=LEAST, help="trace: so many times as fast; 1."),
]
Concurrency = Annotated[
    int | None,
    Option(
        "--concurrency", metavar="N", min=1, help="Callers of a closed loop; as fill the target."
    ),
]
Duration = Annotated[
    float | None,
    Option(
        "--duration",
        metavar="S",
        min=LEAST,
        help="Seconds of sending: 30; 10 for each run of a search or sweep; 600 for scenarios of"
        " MLPerf; all of a trace.",
    ),
]
Requests = Annotated[
    int | None,
    Option("--requests", metavar="N", min=1, help="Stop after so many, if it is not over before."),
]
Samples = Annotated[
    int | None, Option("--samples", metavar="N", min=1, help="Samples (rows) of one request; 1.")
]
Timeout = Annotated[
    float | None,
    Option("--timeout-s", metavar="S", min=LEAST, help="Deadline of each request; none."),
]
SloOption = Annotated[
    str | None,
    Option("--slo", metavar="pP=TIME", help="What the latency must keep: p99=15ms, p99.9=1s."),
]
Seed = Annotated[int, Option("--seed", metavar="N", min=0, help="The same seed, the same run.")]
Precise = Annotated[
    bool, Option("--precise", help="Spin before each send: exact, and one core busy.")
]
NumProcesses = Annotated[
    int, Option("--processes", metavar="N", min=1, help="Load processes, for a server.")
]
Loadgen = Annotated[
    bool, Option("--loadgen", help="Run an MLPerf scenario under MLPerf's own LoadGen, too.")
]
FindRate = Annotated[
    bool, Option("--find-rate", help="Search for the highest rate that keeps --slo.")
]
SweepRates = Annotated[
    str | None, Option("--sweep-rates", metavar="R,R,...", help="A run at each rate.")
]
SweepConcurrency = Annotated[
    str | None,
    Option("--sweep-concurrency", metavar="N,N,...", help="A run with each number of callers."),
]
Sweep = Annotated[
    list[str] | None,
    Option(
        "--sweep",
        metavar="NAME=N,N,...",
        help="A run on each shape: devices, num_activations, set_size and batch (samples of a"
        " request); may be repeated.",
    ),
]
CheckOutputs = Annotated[
    bool, Option("--check-outputs", help="Compare sampled outputs with those without load.")
]
RepeatedInput = Annotated[
    bool, Option("--repeated-input", help="Test whether repeated inputs are answered faster.")
]
InputPath = Annotated[
    Path | None,
    Option("--input", metavar="FILE.npz", help="Rows to send; by default they are drawn."),
]
Model = Annotated[
    str | None, Option("--model", metavar="NAME", help="Which, of several models of a file.")
]
Virtual = Annotated[
    bool, Option("--virtual", help="In virtual time, on simulated cards: exact and repeatable.")
]
ReportPath = Annotated[
    Path | None,
    Option("--report", metavar="DIR", help="Write report, page, plots and raw records there."),
]
AsJson = Annotated[bool, Option("--json", help="Print the report as JSON.")]
