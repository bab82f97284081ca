"""The meaning of the options of `qaic-sched load`, and which exclude each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qaic_sched.cli.load_options import LoadOptions, check, numbers
from qaic_sched.errors import ConfigError
from qaic_sched.loadgen.plan.plan import Constant, Gamma, Mmpp, Poisson, Ramp, Slo, Step, Trace

SLO = {"slo": "p99=15ms"}
SERVER: dict[str, Any] = {"scenario": "server", "rate": 9.0, **SLO}


def options(**given: Any) -> LoadOptions:
    """Options for a configuration file as the target."""
    return LoadOptions(**{"target": "config.yaml", **given})


@pytest.mark.parametrize(
    ("given", "scenario", "arrivals"),
    [
        ({}, "closed", None),
        ({"concurrency": 4}, "closed", None),
        ({"sweep_concurrency": "1,2"}, "closed", None),
        ({"rate": 9.0}, "open", Poisson(9)),
        ({"rate": 9.0, "arrivals": "constant"}, "open", Constant(9)),
        ({"rate": 9.0, "cv": 2.0}, "open", Gamma(9, 2)),
        ({"rate": 9.0, "arrivals": "mmpp"}, "open", Mmpp(9)),
        ({"rate": 9.0, "burst_share": 0.2, "cycle": 3.0}, "open", Mmpp(9, 4, 0.2, 3)),
        ({"rates": "1,0,2.5"}, "open", Step((1, 0, 2.5))),
        ({"rate": 9.0, "to_rate": 0.0}, "open", Ramp(9, 0)),
        ({"find_rate": True, **SLO}, "open", Poisson(1)),
        ({"sweep_rates": "1,2"}, "open", Poisson(1)),
        ({"sweep": ["devices=1,2"]}, "closed", None),
        (SERVER, "server", Poisson(9)),
        ({**SERVER, "precise": True, "loadgen": True}, "server", Poisson(9)),
        ({"scenario": "single-stream", "loadgen": True}, "single_stream", None),
        ({"scenario": "offline", "requests": 9}, "offline", None),
        ({"target": "http://a:1", "processes": 2}, "closed", None),
        ({"target": "grpc://a:1/m", "rate": 9.0, "precise": True}, "open", Poisson(9)),
    ],
)
def test_scenario_and_arrivals_follow_from_other_options(
    given: dict[str, Any], scenario: str, arrivals: object
) -> None:
    """Scenario and arrivals follow from other options."""
    made = options(**given)
    check(made)

    assert made.kind == scenario
    if arrivals is not None:
        assert made.parsed_arrivals() == arrivals


def test_a_trace_is_read_before_anything_is_opened(tmp_path: Path) -> None:
    """A trace that cannot be read raises before the target is opened."""
    path = tmp_path / "trace.csv"
    path.write_text("at_s\n0\n1\n")
    made = options(trace=path, speedup=2.0)
    check(made)

    assert made.parsed_arrivals() == Trace(str(path), 2.0)
    with pytest.raises(ValueError, match="cannot be read"):
        check(options(trace=tmp_path / "none.csv"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scenario": "open"}, "--rate: missing"),
        ({"rate": 1.0, "concurrency": 2}, "--concurrency: not with an open loop"),
        ({"rate": 1.0, "sweep_concurrency": "1"}, "--sweep-concurrency: not with an open loop"),
        ({"scenario": "closed", "rate": 1.0}, "--rate: not with a closed loop"),
        ({"scenario": "closed", "cv": 1.0}, "--cv: not with a closed loop"),
        ({"scenario": "closed", "sweep_rates": "1"}, "--sweep-rates: not with a closed loop"),
        ({"precise": True}, "--precise: not with a closed loop"),
        ({"rate": 1.0, "cv": 1.0, "arrivals": "poisson"}, "--cv: belongs to --arrivals gamma"),
        ({"rate": 1.0, "cv": 1.0, "to_rate": 2.0}, "--to-rate: belongs to --arrivals ramp"),
        ({"rate": 1.0, "arrivals": "gamma"}, "--arrivals gamma: add --cv"),
        ({"rate": 1.0, "arrivals": "ramp"}, "--arrivals ramp: add --to-rate"),
        ({"arrivals": "step"}, "--arrivals step: add --rates"),
        ({"arrivals": "trace"}, "--arrivals trace: add --trace"),
        ({"rate": 1.0, "rates": "1,2"}, "--rate: --arrivals step sets the rate"),
        ({"rates": "1,x"}, "--rates: '1,x': expected comma-separated"),
        ({"rate": 1.0, "burst_factor": 20.0}, "burst_factor: must be from 1"),
        ({"find_rate": True}, "--find-rate: needs a limit"),
        ({"find_rate": True, "rates": "1,2", **SLO}, "--arrivals step: --find-rate needs arrivals"),
        ({"find_rate": True, "sweep_rates": "1", **SLO}, "--find-rate and --sweep-rates: only"),
        ({"sweep_rates": "1", "rate": 1.0}, "--rate: not with --sweep-rates"),
        ({"sweep_rates": "0"}, "--sweep-rates: '0'"),
        ({"sweep_concurrency": "0,1"}, "--sweep-concurrency: '0,1'"),
        ({"sweep_concurrency": "1", "concurrency": 1}, "--concurrency: not with --sweep-conc"),
        ({"sweep_rates": "1", "check_outputs": True}, "--check-outputs: not with --sweep-rates"),
        ({"sweep": ["devices=1"], "repeated_input": True}, "--repeated-input: not with --sweep"),
        ({"sweep": ["cards=1"]}, "--sweep: cards=1: expected NAME"),
        ({"sweep": ["devices"]}, "--sweep devices: '': expected comma-separated"),
        ({"sweep": ["devices=0"]}, "--sweep devices: '0'"),
        ({"sweep": ["batch=1", "batch=2"]}, "--sweep: batch is given twice"),
        ({"sweep": ["batch=1"], "samples": 2}, "--samples: not with --sweep"),
        ({"slo": "p99<1"}, "--slo: p99<1: expected a percentile and a time"),
        ({"slo": "p100=1s"}, "--slo: p100=1s: expected a percentile below 100"),
        ({"slo": "p99=0s"}, "--slo: p99=0s"),
        ({"scenario": "server", "rate": 1.0}, "--scenario server: .* add --slo"),
        ({"scenario": "server", **SLO}, "--scenario server: .* add --rate"),
        ({"scenario": "offline", "rate": 1.0}, "--rate: not with --scenario offline"),
        ({"scenario": "offline", "precise": True}, "--precise: not with --scenario offline"),
        ({"scenario": "multi-stream", "samples": 4}, "--samples: not with --scenario multi-stream"),
        ({"scenario": "single-stream", "concurrency": 4}, "--concurrency: not with --scenario"),
        ({"scenario": "single-stream", "requests": 4}, "--requests: not with --scenario single"),
        ({**SERVER, "arrivals": "constant"}, "--arrivals: not with --scenario server"),
        ({**SERVER, "find_rate": True}, "--find-rate: not with --scenario server"),
        ({"rate": 1.0, "loadgen": True}, "--loadgen: runs MLPerf's scenarios"),
        ({**SERVER, "loadgen": True, "virtual": True}, "--virtual: not with --loadgen"),
        (
            {**SERVER, "loadgen": True, "target": "http://a:1", "processes": 2},
            "--processes: not with --loadgen",
        ),
        ({"target": "http://a:1", "virtual": True}, "--virtual: not with an address"),
        ({"target": "http://a:1", "sweep": ["batch=1"]}, "--sweep: not with an address"),
        ({"target": "http://a:1", "model": "m"}, "--model: not with an address"),
        ({"processes": 2}, "--processes: not with a configuration file"),
        (
            {"target": "http://a:1", "processes": 2, "check_outputs": True},
            "--check-outputs: not with --processes",
        ),
        (
            {"target": "http://a:1", "processes": 2, "repeated_input": True},
            "--repeated-input: not with --processes",
        ),
    ],
)
def test_invalid_options_raise(given: dict[str, Any], message: str) -> None:
    """An invalid combination raises one sentence that begins with the option."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        check(options(**given))


@pytest.mark.parametrize(
    ("text", "slo"),
    [
        ("p99=15ms", Slo(99.0, 0.015)),
        ("p99.9=1s", Slo(99.9, 1.0)),
        ("p50=250us", Slo(50.0, 0.00025)),
        ("p90=2.5 ms", Slo(90.0, 0.0025)),
    ],
)
def test_promises_are_read(text: str, slo: Slo) -> None:
    """An SLO has a percentile, a time and a unit."""
    found = options(slo=text).parsed_slo()

    assert found is not None
    assert found.percentile == slo.percentile
    assert found.limit_s == pytest.approx(slo.limit_s)


def test_lists_are_read() -> None:
    """Lists have integers or finite floats."""
    assert numbers("--x", "1,2,40", int, 1) == (1, 2, 40)
    assert numbers("--x", "0.5, 2", float, 0.0) == (0.5, 2.0)
    for text in ("", "1,", "inf", "nan", "1.5"):
        with pytest.raises(ConfigError, match="--x"):
            numbers("--x", text, int if text == "1.5" else float, 0.0)  # type: ignore[type-var]


def test_shapes_are_read() -> None:
    """Shapes have names in the spelling of the file or of the command line."""
    shape = options(sweep=["devices=1,2", "num-activations=4"]).shape()

    assert shape == {"devices": (1, 2), "num_activations": (4,)}
