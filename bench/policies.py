"""Scheduling policies on simulated hosts: our core compared with common policies.

`python -m bench.policies [NAME …]` runs the scenarios. Times are milliseconds of virtual time, and
all policies get the same arrivals. Unless a scenario states otherwise, 8 devices of 2 activations
take 5 ms per inference, the host turnaround is 0.3 ms, and a request has one sample. Loads are
relative to the capacity of the devices with the turnaround hidden.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from inspect import getdoc
from math import inf, isinf
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.simulated_host import (
    Host,
    least_in_flight,
    poisson,
    power_of_two,
    round_robin,
    run_baseline,
    run_core,
)
from qaic_sched.core.model import Policy, Tenant
from qaic_sched.errors import SchedulerError
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

COUNT = 100_000
SEEDS = (1, 2, 3, 4)
UNBOUNDED = 10**9
SET_SIZE_LOADS = (0.9, 0.97)
SET_SIZE_RATIOS = (1.15, 1.25)
"""Targets of p50 and p99, relative to one inference at a time that starts without delay."""
BASELINES = {
    "round robin": round_robin,
    "least in flight": least_in_flight,
    "power of two": power_of_two,
}
BASELINE_COLUMNS = [f"{name:>16}" for name in BASELINES]


def percentile_ms(latencies: Sequence[float], percent: float) -> float:
    """Percentile by nearest rank, in milliseconds; failed requests have infinite latencies."""
    ranked = sorted(latencies)
    return 1e3 * ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]


def _mean_percentile_ms(runs: Sequence[Sequence[float]], percent: float) -> float:
    return mean(percentile_ms(each, percent) for each in runs)


def placement() -> None:
    """p99 by load: equal devices, varying execution times, and one device three times slower."""
    hosts = {
        "equal, CV 0.05": Host(),
        "equal, CV 1": Host(cv=1.0),
        "one 3x slower": Host(slowdown={3: 3.0}),
    }
    print(f"{'p99, ms':16}{'load':>6}{'ours':>9}", *BASELINE_COLUMNS)
    for name, host in hosts.items():
        for load in (0.7, 0.9, 0.97):
            runs = [poisson(host.capacity * load, COUNT, seed) for seed in SEEDS]
            ours = [run_core(host, each, Policy(max_samples=UNBOUNDED)).latencies for each in runs]
            figures = [_mean_percentile_ms(ours, 99)]
            for make in BASELINES.values():
                others = [run_baseline(host, each, make) for each in runs]
                figures.append(_mean_percentile_ms(others, 99))
            print(f"{name:16}{load:6}{figures[0]:9.2f}", *(f"{each:16.1f}" for each in figures[1:]))


def set_sizes() -> None:
    """p50 and p99 by `set_size` where times vary, against `set_size` 1 without turnaround.

    The last column of each is the target: the ratio that no `set_size` may exceed.
    """
    print(f"{'CV 1':16}{'load':>6}{'set_size':>10}", end="")
    print(f"{'p50, ms':>9}{'ratio':>8}{'target':>7}{'p99, ms':>9}{'ratio':>8}{'target':>7}")
    for load in SET_SIZE_LOADS:
        ideal = set_size_figures(load, 1, 0.0)
        print(f"{'no turnaround':16}{load:6}{1:10}{ideal[0]:9.2f}{'':15}{ideal[1]:9.2f}")
        for set_size in (2, 3, 5, 10):
            print(f"{'0.3 ms':16}{load:6}{set_size:10}", end="")
            figures = set_size_figures(load, set_size)
            for figure, best, target in zip(figures, ideal, SET_SIZE_RATIOS, strict=True):
                print(f"{figure:9.2f}{figure / best:8.3f}{target:7.2f}", end="")
            print()


def set_size_figures(
    load: float,
    set_size: int,
    turnaround_s: float = 0.0003,
    *,
    count: int = 40_000,
    seeds: Sequence[int] = SEEDS,
) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds where times have a CV of 1."""
    host = Host(cv=1.0, turnaround_s=turnaround_s)
    policy = Policy(max_samples=UNBOUNDED)
    runs = [
        run_core(host, poisson(host.capacity * load, count, each), policy, set_size=set_size)
        for each in seeds
    ]
    latencies = [each.latencies for each in runs]
    return _mean_percentile_ms(latencies, 50), _mean_percentile_ms(latencies, 99)


def stalls() -> None:
    """p99.9 with 60 ms stalls in 0.2 % of inferences, with and without hedging."""
    host = Host(stall_probability=0.002, stall_s=0.060)
    print(
        f"{'p99.9, ms':16}{'load':>6}{'ours':>9}{'no hedging':>12}{'hedges, %':>10}",
        *BASELINE_COLUMNS,
    )
    for load in (0.7, 0.9):
        arrivals = poisson(host.capacity * load, COUNT, SEEDS[0])
        hedged = run_core(host, arrivals, Policy(max_samples=UNBOUNDED))
        plain = run_core(host, arrivals, Policy(max_samples=UNBOUNDED, hedge_after=None))
        extra = 100 * hedged.num_hedges / COUNT
        with_hedges, without = (percentile_ms(each.latencies, 99.9) for each in (hedged, plain))
        others = [run_baseline(host, arrivals, make) for make in BASELINES.values()]
        print(
            f"{'60 ms stalls':16}{load:6}{with_hedges:9.1f}{without:12.1f}{extra:10.2f}",
            *(f"{percentile_ms(each, 99.9):16.1f}" for each in others),
        )


def goodput() -> None:
    """Share of requests done within 40 ms: 4 devices, batch sizes 1/2/4/8 take 4/5/7/10 ms."""
    host = Host(
        devices=4,
        num_activations=1,
        cv=0.0,
        execute_s={1: 0.004, 2: 0.005, 4: 0.007, 8: 0.010},
    )
    policy = Policy(batch_sizes=(1, 2, 4, 8), max_samples=UNBOUNDED)
    print(f"{'in time, %':16}{'load':>6}{'ours':>9}{'upper bound':>17}", *BASELINE_COLUMNS)
    for load in (0.9, 1.05, 1.5):
        runs = [poisson(host.capacity * load, COUNT, seed) for seed in SEEDS]
        ours = mean(run_core(host, each, policy, deadline_s=0.040).share_done for each in runs)
        others = [
            mean(mean(late <= 0.040 for late in run_baseline(host, each, make)) for each in runs)
            for make in BASELINES.values()
        ]
        print(
            f"{'40 ms':16}{load:6}{100 * ours:9.2f}{min(100.0, 100 / load):17.2f}",
            *(f"{100 * each:16.2f}" for each in others),
        )


def tenants() -> None:
    """Two tenants of weights 3:1: both ask for twice the capacity, then one stays in its share."""
    host = Host()
    policy = Policy(max_samples=UNBOUNDED, tenants={"a": Tenant(3.0), "b": Tenant(1.0)})
    print(f"{'a : b':17}{'seed':>6}{'ours':>9}", *BASELINE_COLUMNS)
    for seed in SEEDS:
        arrivals, names = _merged({"a": (2 * host.capacity, seed), "b": (2 * host.capacity, -seed)})
        ends = run_core(host, arrivals, policy, tenants=names).ends
        completed = [[str(request.tenant) for at, request in ends if at <= arrivals[-1]]]
        for make in BASELINES.values():
            every = zip(arrivals, run_baseline(host, arrivals, make), names, strict=True)
            completed.append([name for at, late, name in every if at + late <= arrivals[-1]])
        ours, *others = (each.count("a") / each.count("b") for each in completed)
        print(f"{'samples completed':17}{seed:6}{ours:9.3f}", *(f"{each:16.3f}" for each in others))
    print(f"{'p99 of b, ms':16}{'seed':>6}{'ours':>9}{'alone':>9}", *BASELINE_COLUMNS)
    for seed in SEEDS:
        rates = {"a": (2 * host.capacity, seed), "b": (0.2 * host.capacity, -seed)}
        arrivals, names = _merged(rates)
        own = [at for at, name in zip(arrivals, names, strict=True) if name == "b"]
        ends = run_core(host, arrivals, policy, tenants=names).ends
        shared = [at - request.accepted_at for at, request in ends if request.tenant == "b"]
        alone = run_core(host, own, policy).latencies
        figures = [percentile_ms(each, 99) for each in (shared, alone)]
        for make in BASELINES.values():
            pairs = zip(run_baseline(host, arrivals, make), names, strict=True)
            figures.append(percentile_ms([each for each, name in pairs if name == "b"], 99))
        print(
            f"{'b at 0.2 load':16}{seed:6}{figures[0]:9.2f}{figures[1]:9.2f}",
            *(f"{each:16.1f}" for each in figures[2:]),
        )


def _merged(rates: dict[str, tuple[float, int]]) -> tuple[list[float], list[str]]:
    """Merge Poisson arrivals of several tenants over the same time; returns times and tenants."""
    span_s = COUNT / sum(rate for rate, _ in rates.values())
    merged = sorted(
        (at, name)
        for name, (rate, seed) in rates.items()
        for at in poisson(rate, int(rate * span_s), seed)
    )
    return [at for at, _ in merged], [name for _, name in merged]


def padding() -> None:
    """Mean latency by load with partial batches: sizes chosen by cost, or always padded to 8."""
    costs_ms = {"4/5/7/10": (4, 5, 7, 10), "1.2/2.3/4.3/8.3": (1.2, 2.3, 4.3, 8.3)}
    print(f"{'mean, ms':16}{'load':>6}{'ours':>9}{'padded to 8':>13}{'p99':>8}{'padded to 8':>13}")
    for name, costs in costs_ms.items():
        execute_s = {size: cost / 1e3 for size, cost in zip((1, 2, 4, 8), costs, strict=True)}
        host = Host(devices=4, num_activations=1, execute_s=execute_s)
        for load in (0.1, 0.3, 0.5, 0.7):
            arrivals = poisson(host.capacity * load, COUNT, SEEDS[0])
            latencies = [
                run_core(host, arrivals, Policy(batch_sizes=sizes, max_samples=UNBOUNDED)).latencies
                for sizes in ((1, 2, 4, 8), (8,))
            ]
            figures = [1e3 * mean(each) for each in latencies]
            figures += [percentile_ms(each, 99) for each in latencies]
            print(f"{name:16}{load:6}{figures[0]:9.2f}{figures[1]:13.2f}", end="")
            print(f"{figures[2]:8.2f}{figures[3]:13.2f}")


LOSSES = """
inputs:  {data: {shape: [1, 4], dtype: float32}}
outputs: {mean: {shape: [1, 2], dtype: float32}}
service_time_s: 0.005
service_time_cv: 0.05
host_turnaround_s: 0.0003
devices: 8
load_time_s: 0.1
faults:
- {kind: lost, device: 1, at_s: 2.0, for_s: 2.0}
- {kind: lost, device: 4, at_s: 2.0, for_s: 2.0}
- {kind: lost, device: 6, at_s: 2.0, for_s: 2.0}
"""


async def _offer(
    scheduler: Scheduler, arrivals: Sequence[float], timeout_s: float | None = None
) -> list[float]:
    """Send the requests and return the latency of each, infinite if it failed."""
    row = {"data": np.ones((1, 4), np.float32)}
    clock = asyncio.get_running_loop().time
    opened_at = clock()

    async def one() -> float:
        at = clock()
        with suppress(SchedulerError):
            await scheduler.run(row, timeout_s=timeout_s)
            return clock() - at
        return inf

    tasks = []
    for at in arrivals:
        await asyncio.sleep(opened_at + at - clock())
        tasks.append(asyncio.ensure_future(one()))
    return await asyncio.gather(*tasks)


def _print_run(
    arrivals: Sequence[float], latencies: Mapping[str, Sequence[float]], requests: Mapping[str, int]
) -> None:
    """Print p99 of the done requests per second of arrival, and the number of other requests."""
    print("ours:", ", ".join(f"{each} {requests[each]}" for each in ("done", "failed", "expired")))
    print(f"{'p99, ms':22}", *(f"{name:>16}" for name in latencies))
    for second in range(int(arrivals[-1]) + 1):
        figures = []
        for each in latencies.values():
            pairs = zip(arrivals, each, strict=True)
            done = [late for at, late in pairs if second <= at < second + 1 and late < inf]
            figures.append(f"{percentile_ms(done, 99):16.2f}" if done else f"{'-':>16}")
        print(f"{'second ' + str(second):22}", *figures)
    print(f"{'not done':22}", *(f"{sum(map(isinf, each)):16}" for each in latencies.values()))


async def _run_through_losses(
    model: str, arrivals: Sequence[float]
) -> tuple[list[float], dict[str, Any]]:
    async with Scheduler(model, num_activations=2) as scheduler:
        return await _offer(scheduler, arrivals), scheduler.get_metrics()


def losses() -> None:
    """3 of 8 devices are lost from second 2 to 4 at half load, with the whole scheduler.

    The other policies never retry, and use a device again as soon as it is back.
    """
    arrivals = _arrivals(1600.0, 8.0)
    with TemporaryDirectory() as folder:
        model = Path(folder, "losses.sim.yaml")
        model.write_text(LOSSES)
        ours, metrics = run_virtual(_run_through_losses, str(model), arrivals)
    outages = dict.fromkeys((1, 4, 6), (2.0, 4.0))
    others = {name: run_baseline(Host(), arrivals, it, outages) for name, it in BASELINES.items()}
    _print_run(arrivals, {"ours": ours, **others}, metrics["requests"])


def _arrivals(rate: float, until_s: float) -> list[float]:
    return [each for each in poisson(rate, int(2 * rate * until_s), SEEDS[0]) if each < until_s]


SCALING = """
inputs:  {data: {shape: [1, 4], dtype: float32}}
outputs: {mean: {shape: [1, 2], dtype: float32}}
service_time_s: 0.005
service_time_cv: 0.05
host_turnaround_s: 0.0003
devices: 8
load_time_s: 0.5
"""


async def run_scaling(
    model: str, *, until_s: float = 9.0, execute_s: float = 0.005
) -> tuple[list[float], list[float], dict[str, Any]]:
    """Scale up and down under load; returns arrivals, latencies (deadline 0.1 s) and metrics."""
    arrivals = _arrivals(0.8 * 8 * 2 / execute_s, until_s)
    async with Scheduler(model, num_activations=2) as scheduler:
        offered = asyncio.ensure_future(_offer(scheduler, arrivals, 0.1))
        await asyncio.sleep(0.1 * until_s)
        await scheduler.update_backend_options(num_activations=8)
        await asyncio.sleep(0.1 * until_s)
        await scheduler.update_backend_options(num_activations=2)
        return arrivals, await offered, scheduler.get_metrics()


def scaling() -> None:
    """2 to 8 to 2 activations on each of 8 devices, at 0.8 of the load of 2 activations.

    Loading an activation takes 0.5 s. The other policies keep 2 activations.
    """
    with TemporaryDirectory() as folder:
        model = Path(folder, "scaling.sim.yaml")
        model.write_text(SCALING)
        arrivals, ours, metrics = run_virtual(run_scaling, str(model))
    others = {name: run_baseline(Host(), arrivals, make) for name, make in BASELINES.items()}
    _print_run(arrivals, {"ours": ours, **others}, metrics["requests"])


SCENARIOS: dict[str, Callable[[], None]] = {
    "placement": placement,
    "set_sizes": set_sizes,
    "stalls": stalls,
    "goodput": goodput,
    "tenants": tenants,
    "padding": padding,
    "losses": losses,
    "scaling": scaling,
}


def main() -> None:
    """Run the scenarios named on the command line, or all of them."""
    for name in sys.argv[1:] or SCENARIOS:
        print(f"\n{name}: {getdoc(SCENARIOS[name])}")
        SCENARIOS[name]()


if __name__ == "__main__":
    main()
