"""Reports for tests, made from a simulated run of a host with constant execution times.

The numbers come from a FIFO queue in front of all activations, so that they fit each other; only
the laws' checks are written down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from heapq import heapreplace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from qaic_sched.loadgen.plan.plan import Plan, Poisson, Rules, Slo
from qaic_sched.loadgen.report.formats import seconds
from qaic_sched.loadgen.report.report import (
    Check,
    Counts,
    DeviceReport,
    EarlyStopping,
    Latency,
    Percentile,
    Point,
    Report,
    RuleResult,
    Search,
    Series,
    Verdict,
    WarmUp,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

PERCENTILES = 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99
FLOORS = {50.0: 11, 75.0: 24, 90.0: 64, 95.0: 130, 99.0: 662, 99.9: 6_636, 99.99: 66_381}
WARM_UP_S = 1.0
WINDOWS = 100
SLO = Slo(99.0, 0.050)


@dataclass(frozen=True)
class Host:
    """The simulated host."""

    devices: int = 4
    activations: int = 2
    execute_s: float = 0.010
    rate: float = 640.0
    duration_s: float = 20.0
    lag_s: float = 0.0002
    slo: Slo | None = SLO
    seed: int = 1


def make_report(host: Host | None = None, **changes: Any) -> Report:
    """Make the report of a run; `changes` replace its fields."""
    return msgspec.structs.replace(_simulated(host or Host()), **changes)


def make_search(kind: str = "slo") -> Search:
    """Make a search over seven rates of one host, or over shapes of 1 to 16 devices."""
    if kind == "shapes":
        return _shapes()
    rates = 200.0, 400.0, 560.0, 640.0, 700.0, 740.0, 790.0
    points = tuple(_point(Host(rate=rate)) for rate in rates)
    best = max(point.offered_rate or 0.0 for point in points if point.meets_slo)
    return Search(
        kind=kind,
        points=points,
        best_rate=best,
        bracket=(best, next((rate for rate in rates if rate > best), None)),
        interval=(best * 0.99, best * 1.01),
        knee_rate=points[3].completed_rate,
        knee_method="maximum power",
        note="Seven rates of one simulated host.",
    )


def rule(name: str, holds: bool, text: str = "") -> RuleResult:
    """Make one rule of a verdict."""
    return RuleResult(name=name, holds=holds, text=text or f"{name}: 1 of 2", value=1.0, limit=2.0)


def verdict(*broken: str) -> Verdict:
    """Make a verdict: VALID, or INVALID with these broken rules."""
    rules = [rule("duration", True), *(rule(name, False) for name in broken)]
    return Verdict(not broken, tuple(rules))


@lru_cache
def _simulated(host: Host) -> Report:
    planned, started, done, server = _run(host)
    sent = planned + host.lag_s * np.random.default_rng(host.seed).random(len(planned))
    kept = planned >= WARM_UP_S
    scheduled = _latency((done - planned)[kept])
    slo, bound = host.slo, scheduled.percentiles[4].high_s
    is_met = slo is None or (bound is not None and bound <= slo.limit_s)
    span_s = float(done.max()) - WARM_UP_S
    count = len(planned)
    return Report(
        target=f"simulated host of {host.devices} devices",
        plan=Plan(
            scenario="open",
            arrivals=Poisson(host.rate),
            duration_s=host.duration_s,
            seed=host.seed,
            rules=Rules(slo=slo),
        ),
        schedule_hash="5e" * 32,
        verdict=_verdict(is_met, bound),
        duration_s=float(done.max()),
        counts=Counts(
            planned=count,
            sent=count,
            done=count,
            failed=0,
            expired=0,
            rejected=0,
            cancelled=0,
            unresolved=0,
            measured=int(kept.sum()),
        ),
        asked_rate=host.rate,
        scheduled_rate=count / host.duration_s,
        completed_rate=float(kept.sum()) / span_s,
        scheduled=scheduled,
        response=_latency((done - sent)[kept]),
        lag=_latency((sent - planned)[kept]),
        early_stopping=EarlyStopping(percentile=99.0, bound_s=bound, needed=662),
        warm_up=WarmUp(
            until_s=WARM_UP_S,
            excluded=int((~kept).sum()),
            rule="MSER-5 over windows",
            is_steady=is_met,
            trend="No trend: p = 0.42.",
        ),
        devices=_devices(host, planned, started, done, server),
        balance={"max_over_mean": 1.02, "jain": 0.999, "cv": 0.012},
        checks=_checks(host, started - planned),
        series=_series(host, planned, started, done, server),
        problems={},
        config={"devices": host.devices, "num_activations": host.activations},
        host={"cpu": "two cores", "python": "3.11"},
        started_at="2026-01-02T03:04:05Z",
    )


def _run(host: Host) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the instants planned, started and done of requests, and their activations."""
    count = max(int(host.rate * host.duration_s), 2)
    chance = np.random.default_rng(host.seed)
    planned = np.sort(chance.random(count) * host.duration_s)
    free = [(0.0, server) for server in range(host.devices * host.activations)]
    started = np.empty(count)
    servers = np.empty(count, int)
    for row, at in enumerate(planned):
        free_at, server = free[0]
        started[row], servers[row] = max(at, free_at), server
        heapreplace(free, (started[row] + host.execute_s, server))
    return planned, started, started + host.execute_s, servers


def _latency(seconds: NDArray[Any]) -> Latency:
    quantiles = np.append(1 - np.logspace(-0.3, -np.log10(len(seconds)), 50), 1.0)
    values = np.quantile(seconds, quantiles)
    return Latency(
        count=len(seconds),
        mean_s=float(seconds.mean()),
        min_s=float(seconds.min()),
        max_s=float(seconds.max()),
        percentiles=tuple(_percentile(seconds, each) for each in PERCENTILES),
        curve=tuple(zip(quantiles.tolist(), values.tolist(), strict=True)),
    )


def _percentile(seconds: NDArray[Any], percentile: float) -> Percentile:
    count, share = len(seconds), percentile / 100
    spread = 2.576 * (share * (1 - share) / count) ** 0.5
    is_known = count >= FLOORS[percentile]
    return Percentile(
        percentile=percentile,
        value_s=float(np.quantile(seconds, share)) if is_known else None,
        low_s=float(np.quantile(seconds, share - spread)) if is_known else None,
        high_s=float(np.quantile(seconds, share + spread)) if share + spread < 1 else None,
        floor=FLOORS[percentile],
    )


def _verdict(is_met: bool, bound: float | None) -> Verdict:
    text = f"p99 is at most {seconds(bound)} with 99 % certainty"
    rules = rule("duration", True, "20 s of at least 10 s"), rule("slo", is_met, text)
    return Verdict(is_met, rules)


def _devices(host: Host, planned: Any, started: Any, done: Any, server: Any) -> Any:
    reports = []
    for device in range(host.devices):
        mine = server // host.activations == device
        inferences = int(mine.sum())
        busy_s = inferences * host.execute_s
        reports.append(
            DeviceReport(
                device_id=device,
                activations=host.activations,
                inferences=inferences,
                busy_s=busy_s,
                utilisation=busy_s / float(done.max()) / host.activations,
                requests=inferences,
                mean_execute_s=host.execute_s if inferences else None,
                mean_wait_s=float((started - planned)[mine].mean()) if inferences else None,
                p99_s=float(np.quantile((done - planned)[mine], 0.99)) if inferences else None,
            )
        )
    return tuple(reports)


def _checks(host: Host, waits: NDArray[Any]) -> tuple[Check, ...]:
    wait_s = float(waits.mean())
    predicted_s = wait_s * 1.02
    return (
        Check(
            name="littles_law",
            measured=6.41,
            expected=6.4,
            unit="requests",
            error=0.0016,
            holds=True,
            note="Requests out against rate times mean latency.",
        ),
        Check(
            name="predicted_wait",
            measured=wait_s,
            expected=predicted_s,
            unit="s",
            error=1 / 1.02 - 1,
            holds=None,
            note="M/D/c by Cosmetatos.",
        ),
    )


def _series(host: Host, planned: Any, started: Any, done: Any, server: Any) -> Series:
    edges = np.linspace(0.0, host.duration_s, WINDOWS + 1)
    width = host.duration_s / WINDOWS
    window = np.minimum((planned / width).astype(int), WINDOWS - 1)
    latency = done - planned

    def quantiles(share: float) -> tuple[float | None, ...]:
        parts = [latency[window == each] for each in range(WINDOWS)]
        return tuple(float(np.quantile(part, share)) if len(part) else None for part in parts)

    def out(begin: Any, end: Any) -> NDArray[Any]:
        """Return the time average of the requests between begin and end, by window."""
        at = np.array([np.clip(edge - begin, 0, end - begin).sum() for edge in edges])
        return np.diff(at) / width

    return Series(
        window_s=width,
        arrivals=tuple(np.histogram(planned, edges)[0].tolist()),
        completions=tuple(np.histogram(done, edges)[0].tolist()),
        in_flight=tuple(out(planned, done).tolist()),
        queued_samples=tuple(out(planned, started).tolist()),
        p50_s=quantiles(0.5),
        p99_s=quantiles(0.99),
        utilisation={
            str(device): tuple(
                np.minimum(
                    out(
                        started[server // host.activations == device],
                        done[server // host.activations == device],
                    )
                    / host.activations,
                    1.0,
                ).tolist()
            )
            for device in range(host.devices)
        },
    )


def _point(host: Host, **changes: Any) -> Point:
    report = _simulated(host)
    latency = report.scheduled
    assert latency is not None
    values = {each.percentile: each.value_s for each in latency.percentiles}
    wait = report.checks[1]
    point = Point(
        offered_rate=host.rate,
        concurrency=None,
        completed_rate=report.completed_rate,
        p50_s=values[50.0],
        p95_s=values[95.0],
        p99_s=values[99.0],
        p999_s=values[99.9],
        error_share=0.0,
        is_valid=report.verdict.is_valid,
        meets_slo=report.verdict.is_valid,
        utilisation=float(np.mean([each.utilisation for each in report.devices])),
        predicted_wait_s=wait.expected,
        measured_wait_s=wait.measured,
    )
    return msgspec.structs.replace(point, **changes)


def _shapes() -> Search:
    points = []
    for devices in (1, 2, 4, 8, 16):
        for activations in (1, 2):
            capacity = 90.0 * activations * devices / (1 + 0.01 * (devices - 1))
            shape = {
                "devices": devices,
                "num_activations": activations,
                "set_size": 2,
                "batch": 1,
            }
            points.append(_point(Host(), offered_rate=None, completed_rate=capacity, shape=shape))
    return Search(kind="shapes", points=tuple(points), note="Two shapes for each.")


def with_latency(factor: float, report: Report) -> Report:
    """Return the report with every latency multiplied by `factor`."""
    latency = report.scheduled
    assert latency is not None
    percentiles = tuple(
        msgspec.structs.replace(
            each,
            value_s=each.value_s and each.value_s * factor,
            low_s=each.low_s and each.low_s * factor,
            high_s=each.high_s and each.high_s * factor,
        )
        for each in latency.percentiles
    )
    scaled = msgspec.structs.replace(
        latency,
        mean_s=latency.mean_s * factor,
        min_s=latency.min_s * factor,
        max_s=latency.max_s * factor,
        percentiles=percentiles,
        curve=tuple((share, value_s * factor) for share, value_s in latency.curve),
    )
    return msgspec.structs.replace(report, scheduled=scaled)


def p99_of(report: Report) -> float:
    """Return p99 of the latency."""
    assert report.scheduled is not None
    value_s = report.scheduled.percentiles[4].value_s
    assert value_s is not None
    return value_s
