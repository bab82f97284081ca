"""Scheduling policies on simulated hosts: our core beside what others do, on the same arrivals.

`python -m bench.policies [NAME …]` runs the scenarios; times are in milliseconds of virtual time.
8 devices of 2 activations, 5 ms an inference, 0.3 ms host turnaround, one sample a request, unless
a scenario says otherwise; loads are relative to what the devices can do with the turnaround hidden.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
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
from qaic_sched.scheduler import Scheduler
from qaic_sched.testing import run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COUNT = 100_000
SEEDS = (1, 2, 3, 4)
UNBOUNDED = 10**9
BASELINES = {
    "round robin": round_robin,
    "least in flight": least_in_flight,
    "power of two": power_of_two,
}


def percentile_ms(latencies: Sequence[float], percent: float) -> float:
    """By nearest rank, in milliseconds; infinite latencies are requests that were not done."""
    ranked = sorted(latencies)
    return 1e3 * ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]


def _mean_percentile_ms(runs: Sequence[Sequence[float]], percent: float) -> float:
    return mean(percentile_ms(each, percent) for each in runs)


def placement() -> None:
    """p99 by load, for equal cards, cards whose times vary, and one card three times slower."""
    hosts = {
        "equal, CV 0.05": Host(),
        "equal, CV 1": Host(cv=1.0),
        "one 3x slower": Host(slowdown={3: 3.0}),
    }
    print(f"{'p99, ms':16}{'load':>6}{'ours':>9}", *(f"{name:>16}" for name in BASELINES))
    for name, host in hosts.items():
        for load in (0.7, 0.9, 0.97):
            runs = [poisson(host.capacity * load, COUNT, seed) for seed in SEEDS]
            ours = [run_core(host, each, Policy(max_samples=UNBOUNDED)).latencies for each in runs]
            figures = [_mean_percentile_ms(ours, 99)]
            for make in BASELINES.values():
                others = [run_baseline(host, each, make) for each in runs]
                figures.append(_mean_percentile_ms(others, 99))
            print(f"{name:16}{load:6}{figures[0]:9.2f}", *(f"{each:16.1f}" for each in figures[1:]))


def stalls() -> None:
    """p99.9 where 0.2 % of inferences take 60 ms longer, with and without hedging."""
    host = Host(stall_probability=0.002, stall_s=0.060)
    print(f"{'p99.9, ms':16}{'load':>6}{'ours':>9}{'not hedged':>12}{'extra, %':>10}")
    for load in (0.7, 0.9):
        arrivals = poisson(host.capacity * load, COUNT, SEEDS[0])
        hedged = run_core(host, arrivals, Policy(max_samples=UNBOUNDED))
        plain = run_core(host, arrivals, Policy(max_samples=UNBOUNDED, hedge_after=None))
        extra = 100 * hedged.num_hedges / COUNT
        ours, without = (percentile_ms(each.latencies, 99.9) for each in (hedged, plain))
        print(f"{'60 ms stalls':16}{load:6}{ours:9.1f}{without:12.1f}{extra:10.2f}")


def goodput() -> None:
    """Share of requests done within 40 ms: 4 devices, sizes 1/2/4/8 that take 4/5/7/10 ms."""
    host = Host(
        devices=4,
        num_activations=1,
        cv=0.0,
        service_s={1: 0.004, 2: 0.005, 4: 0.007, 8: 0.010},
    )
    policy = Policy(batch_sizes=(1, 2, 4, 8), max_samples=UNBOUNDED)
    print(f"{'in time, %':16}{'load':>6}{'ours':>9}{'no policy above':>17}")
    for load in (0.9, 1.05, 1.5):
        shares = []
        for seed in SEEDS:
            arrivals = poisson(host.capacity * load, COUNT, seed)
            shares.append(run_core(host, arrivals, policy, deadline_s=0.040).share_done)
        print(f"{'40 ms':16}{load:6}{100 * mean(shares):9.2f}{min(100.0, 100 / load):17.2f}")


def tenants() -> None:
    """Two tenants of weights 3:1 that both want twice the capacity; then one within its share."""
    host = Host()
    policy = Policy(max_samples=UNBOUNDED, tenants={"a": Tenant(3.0), "b": Tenant(1.0)})
    print(f"{'weights 3:1':16}{'seed':>6}{'a : b':>9}")
    for seed in SEEDS:
        arrivals, names = _merged({"a": (2 * host.capacity, seed), "b": (2 * host.capacity, -seed)})
        ends = run_core(host, arrivals, policy, tenants=names).ends
        until = arrivals[-1]
        counts = Counter(request.tenant for at, request in ends if at <= until)
        print(f"{'samples served':16}{seed:6}{counts['a'] / counts['b']:9.3f}")
    print(
        f"{'p99 of b, ms':16}{'seed':>6}{'ours':>9}{'alone':>9}", *(f"{n:>16}" for n in BASELINES)
    )
    for seed in SEEDS:
        rates = {"a": (2 * host.capacity, seed), "b": (0.2 * host.capacity, -seed)}
        arrivals, names = _merged(rates)
        own = [at for at, name in zip(arrivals, names, strict=True) if name == "b"]
        ends = run_core(host, arrivals, policy, tenants=names).ends
        ours = [at - request.accepted_at for at, request in ends if request.tenant == "b"]
        alone = run_core(host, own, policy).latencies
        figures = [percentile_ms(each, 99) for each in (ours, alone)]
        for make in BASELINES.values():
            every = zip(run_baseline(host, arrivals, make), names, strict=True)
            figures.append(percentile_ms([each for each, name in every if name == "b"], 99))
        others = (f"{each:16.1f}" for each in figures[2:])
        print(f"{'b wants a fifth':16}{seed:6}{figures[0]:9.2f}{figures[1]:9.2f}", *others)


def _merged(rates: dict[str, tuple[float, int]]) -> tuple[list[float], list[str]]:
    """Poisson arrivals of several tenants over the same time: when, and whose each is."""
    span_s = COUNT / sum(rate for rate, _ in rates.values())
    merged = sorted(
        (at, name)
        for name, (rate, seed) in rates.items()
        for at in poisson(rate, int(rate * span_s), seed)
    )
    return [at for at, _ in merged], [name for _, name in merged]


def padding() -> None:
    """Mean latency by load, where few batches are full: by cost, and always padded to 8."""
    costs_ms = {"4/5/7/10": (4, 5, 7, 10), "1.2/2.3/4.3/8.3": (1.2, 2.3, 4.3, 8.3)}
    print(f"{'mean, ms':16}{'load':>6}{'ours':>9}{'padded to 8':>13}{'p99':>8}{'padded to 8':>13}")
    for name, costs in costs_ms.items():
        service_s = {size: cost / 1e3 for size, cost in zip((1, 2, 4, 8), costs, strict=True)}
        host = Host(devices=4, num_activations=1, service_s=service_s)
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
    scheduler: Scheduler, rate: float, until_s: float, timeout_s: float | None = None
) -> list[tuple[float, float]]:
    """(submitted at, latency) of each request that was done, offered at a rate per second."""
    random = Random(SEEDS[0])
    row = {"data": np.ones((1, 4), np.float32)}
    clock = asyncio.get_running_loop().time
    done: list[tuple[float, float]] = []

    async def one() -> None:
        at = clock()
        with suppress(SchedulerError):
            await scheduler.run(row, timeout_s=timeout_s)
            done.append((at, clock() - at))

    tasks = []
    while clock() < until_s:
        tasks.append(asyncio.ensure_future(one()))
        await asyncio.sleep(random.expovariate(rate))
    await asyncio.gather(*tasks)
    return done


def _print_run(done: Sequence[tuple[float, float]], metrics: dict[str, Any], until_s: int) -> None:
    ends = ("done", "failed", "expired")
    print(", ".join(f"{each} {metrics['requests'][each]}" for each in ends))
    for second in range(until_s):
        latencies = [latency for at, latency in done if second <= at < second + 1]
        if latencies:
            print(f"second {second}: p99 {percentile_ms(latencies, 99):6.2f} ms")


async def _run_through_losses(model: str) -> tuple[list[tuple[float, float]], dict[str, Any]]:
    """What was done at half of what the host can do, and the metrics."""
    async with Scheduler(model, num_activations=2) as scheduler:
        done = await _offer(scheduler, 1600.0, 8.0)
        return done, scheduler.get_metrics()


def losses() -> None:
    """3 of 8 devices are lost from second 2 to 4, at half load: the whole scheduler, simulated."""
    with TemporaryDirectory() as folder:
        model = Path(folder, "losses.sim.yaml")
        model.write_text(LOSSES)
        done, metrics = run_virtual(_run_through_losses, str(model))
    _print_run(done, metrics, 8)


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
    model: str, *, until_s: float = 9.0, service_s: float = 0.005
) -> tuple[list[tuple[float, float]], dict[str, Any]]:
    """What was done of the scenario, with 0.1 s for each request, and the metrics."""
    rate = 0.8 * 8 * 2 / service_s
    async with Scheduler(model, num_activations=2) as scheduler:
        offered = asyncio.ensure_future(_offer(scheduler, rate, until_s, 0.1))
        await asyncio.sleep(0.1 * until_s)
        await scheduler.update_backend_options(num_activations=8)
        await asyncio.sleep(0.1 * until_s)
        await scheduler.update_backend_options(num_activations=2)
        return await offered, scheduler.get_metrics()


def scaling() -> None:
    """2 to 8 to 2 activations on each of 8 devices, 0.5 s to load each, at 0.8 of the smaller."""
    with TemporaryDirectory() as folder:
        model = Path(folder, "scaling.sim.yaml")
        model.write_text(SCALING)
        done, metrics = run_virtual(run_scaling, str(model))
    _print_run(done, metrics, 9)


SCENARIOS: dict[str, Callable[[], None]] = {
    "placement": placement,
    "stalls": stalls,
    "goodput": goodput,
    "tenants": tenants,
    "padding": padding,
    "losses": losses,
    "scaling": scaling,
}


def main() -> None:
    """Run the scenarios named on the command line, or all."""
    for name in sys.argv[1:] or SCENARIOS:
        print(f"\n{name}: {SCENARIOS[name].__doc__}")
        SCENARIOS[name]()


if __name__ == "__main__":
    main()
